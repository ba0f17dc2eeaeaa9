//! What is written can be read back, and no bytes make the reader fail in another way than by
//! an error.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn exprs() -> Vec<Expr> {
    let r = Reg::Word(9);
    vec![
        Expr::Meta { key: MetaKey::IifName, dreg: Reg::R0 },
        Expr::MetaSet { key: MetaKey::Mark, sreg: r },
        Expr::Cmp { sreg: r, op: CmpOp::Neq, value: b"cali".to_vec() },
        Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, dreg: Reg::Word(4) },
        Expr::PayloadSet {
            base: PayloadBase::Network,
            offset: 0,
            len: 2,
            sreg: r,
            checksum: checksum::INET,
            checksum_offset: 10,
        },
        Expr::Bitwise { sreg: r, dreg: r, mask: vec![255, 255, 0, 0], xor: vec![0; 4] },
        Expr::Range { sreg: r, negated: true, from: vec![0, 80], to: vec![0, 90] },
        Expr::Lookup { set: "s".into(), sreg: r, dreg: Some(Reg::Verdict), inverted: false },
        Expr::Lookup { set: "s".into(), sreg: r, dreg: None, inverted: true },
        Expr::Verdict(Verdict::Goto("cali-fw-x".into())),
        Expr::Verdict(Verdict::Drop),
        Expr::Immediate { dreg: r, value: vec![1, 2, 3, 4] },
        Expr::Ct { key: CtKey::State, dreg: r },
        Expr::Counter { packets: 3, bytes: 5 },
        Expr::NfLog { group: 1, prefix: "DPI0|x".into(), snaplen: Some(128) },
        Expr::KernelLog { level: 5, prefix: "calico-packet".into() },
        Expr::Masquerade { flags: nat::FULLY_RANDOM, ports: None },
        Expr::Masquerade { flags: 0, ports: None },
        Expr::Nat { kind: NatKind::Dnat, family: 2, addr: r, ports: None, flags: 0 },
        Expr::Masquerade { flags: nat::RANDOM, ports: Some((Reg::Word(4), Reg::Word(5))) },
        Expr::Nat {
            kind: NatKind::Snat,
            family: 2,
            addr: r,
            ports: Some((Reg::Word(4), Reg::Word(4))),
            flags: 0,
        },
        Expr::Reject { kind: RejectKind::Icmpx, code: 1 },
        Expr::Fib { dreg: r, result: fib::RESULT_OIF, flags: fib::SADDR | fib::IIF },
        Expr::NoTrack,
        Expr::PacketLimit { rate: 100, unit: 1, burst: 5, inverted: true },
        Expr::ConnLimit { count: 7, inverted: true },
        Expr::FlowOffload { table: "calico".into() },
        Expr::Unknown { name: "quota".into(), data: vec![8, 0, 2, 0, 0, 0, 0, 1] },
    ]
}

fn objects() -> Vec<(u16, Object)> {
    let element = Element {
        key: vec![10, 0, 0, 1],
        key_end: Some(vec![10, 0, 0, 9]),
        interval_end: false,
        verdict: None,
    };
    let jump = Element { verdict: Some(Verdict::Jump("c".into())), ..Element::key("cali1") };
    let end = Element { interval_end: true, ..Element::key([11, 0, 0, 0]) };
    let base = BaseChain {
        kind: "filter".into(),
        hook: hook::FORWARD,
        priority: -10,
        policy: Verdict::Drop,
    };
    let chain = |base| Chain { table: "calico".into(), name: "c".into(), base };
    let set = |key: &[KeyType], interval, verdict_map| Set {
        table: "calico".into(),
        name: "s".into(),
        key: key.to_vec(),
        interval,
        verdict_map,
        size: interval.then_some(100),
    };
    vec![
        (msg::NEW_TABLE, Object::Table(Table { name: "calico".into(), flags: 2 })),
        (msg::NEW_CHAIN, Object::Chain(chain(Some(base)))),
        (msg::NEW_CHAIN, Object::Chain(chain(None))),
        (
            msg::NEW_RULE,
            Object::Rule(Rule {
                table: "calico".into(),
                chain: "c".into(),
                handle: 77,
                expressions: exprs(),
                userdata: Userdata::new("default/web ingress rule 0"),
            }),
        ),
        (msg::NEW_SET, Object::Set(set(&[KeyType::IfName], false, true))),
        (msg::NEW_SET, Object::Set(set(&[KeyType::Ipv6], true, false))),
        (
            msg::NEW_SET,
            Object::Set(set(&[KeyType::Ipv4, KeyType::Proto, KeyType::Service], true, false)),
        ),
        (
            msg::NEW_SET_ELEM,
            Object::Elements(Elements {
                table: "calico".into(),
                set: "s".into(),
                elements: vec![element, jump, end],
            }),
        ),
    ]
}

fn encode(kind: u16, object: &Object) -> Vec<u8> {
    let mut w = Writer::new();
    w.message(Header { kind, flags: 5, seq: 9, family: 1, res_id: 0 }, |w| match object {
        Object::Table(table) => table.encode(w),
        Object::Chain(chain) => chain.encode(w),
        Object::Rule(rule) => rule.encode(w),
        Object::Set(set) => set.encode(w, 1),
        Object::Elements(elements) => elements.encode(w),
        other => panic!("not written by us: {other:?}"),
    });
    assert!(!w.overflowed());
    w.bytes().to_vec()
}

#[test]
fn objects_round_trip() {
    for (kind, object) in objects() {
        let bytes = encode(kind, &object);
        let messages: Vec<_> = Messages::new(&bytes).collect::<Result<_>>().unwrap();
        assert_eq!(messages.len(), 1);
        assert_eq!((messages[0].header.seq, messages[0].header.family), (9, 1));
        assert_eq!(Object::decode(&messages[0]).unwrap(), object);
    }
}

#[test]
fn registers_have_two_numberings() {
    for word in 0..16 {
        let reg = Reg::Word(word);
        assert_eq!(Reg::from_number(reg.number()), Ok(reg));
        assert_eq!(Reg::from_number(8 + u32::from(word)), Ok(reg));
    }
    assert_eq!(Reg::Word(4).number(), 2);
    assert_eq!(Reg::Word(5).number(), 13);
    assert!(Reg::from_number(5).is_err() && Reg::from_number(24).is_err());
}

#[test]
fn a_too_long_attribute_is_reported_not_sent() {
    let mut w = Writer::new();
    w.nested(1, |w| (0..70).for_each(|_| w.attr(1, &[0; 1000])));
    assert!(w.overflowed());
}

#[test]
fn acknowledgements_and_refusals_are_read() {
    // Error -17 for sequence number 3, capped, with a message.
    let mut bytes = Vec::new();
    let body = {
        let mut b = (-17i32).to_ne_bytes().to_vec();
        b.extend_from_slice(&[0; 16]);
        let mut w = Writer::new();
        w.string(1, "exists");
        b.extend_from_slice(w.bytes());
        b
    };
    bytes.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&msg::ERROR.to_ne_bytes());
    bytes.extend_from_slice(&(flags::CAPPED | flags::ACK_TLVS).to_ne_bytes());
    bytes.extend_from_slice(&3u32.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&body);
    let message = Messages::new(&bytes).next().unwrap().unwrap();
    let error = KernelError::decode(&message).unwrap();
    assert_eq!(error, KernelError { seq: 3, errno: 17, message: Some("exists".into()) });
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
        for message in Messages::new(&bytes).flatten() {
            let _ = Object::decode(&message);
            let _ = KernelError::decode(&message);
        }
        let _ = Userdata::decode(&bytes);
    }

    /// Starts from valid messages, so that the damage gets past the headers.
    #[test]
    fn damaged_messages_never_panic(
        which in 0usize..8,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let (kind, object) = &objects()[which];
        let mut bytes = encode(*kind, object);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        for message in Messages::new(&bytes).flatten() {
            let _ = Object::decode(&message);
            let _ = KernelError::decode(&message);
        }
    }
}
