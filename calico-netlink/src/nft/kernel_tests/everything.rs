//! A table with all that this crate knows.

use super::*;

fn meta(key: MetaKey) -> Expr {
    Expr::Meta { key, dreg: Reg::R0 }
}

fn cmp(op: CmpOp, value: impl Into<Vec<u8>>) -> Expr {
    Expr::Cmp { sreg: Reg::R0, op, value: value.into() }
}

fn payload(base: PayloadBase, offset: u32, len: u32) -> Expr {
    Expr::Payload { base, offset, len, dreg: Reg::R0 }
}

fn lookup(set: &str, dreg: Option<Reg>, inverted: bool) -> Expr {
    Expr::Lookup { set: set.into(), sreg: Reg::R0, dreg, inverted }
}

fn base(kind: &str, hook: u32, priority: i32) -> Option<BaseChain> {
    Some(BaseChain { kind: kind.into(), hook, priority, policy: Verdict::Accept })
}

fn rule(identity: &str, expressions: Vec<Expr>) -> RuleDef {
    RuleDef { identity: identity.into(), expressions }
}

fn range(first: &[u8], last: &[u8]) -> Element {
    Element { key_end: Some(last.to_vec()), ..Element::key(first) }
}

/// A ruleset with every expression and every kind of set that this crate uses.
pub(super) fn everything() -> Ruleset {
    let ipv4 = [meta(MetaKey::NfProto), cmp(CmpOp::Eq, [2])];
    let ipv6 = [meta(MetaKey::NfProto), cmp(CmpOp::Eq, [10])];
    let tcp = [meta(MetaKey::L4Proto), cmp(CmpOp::Eq, [6])];
    let saddr4 = payload(PayloadBase::Network, 12, 4);
    let dport = payload(PayloadBase::Transport, 2, 2);
    let word = |w, expr| match expr {
        Expr::Meta { key, .. } => Expr::Meta { key, dreg: Reg::Word(w) },
        Expr::Payload { base, offset, len, .. } => {
            Expr::Payload { base, offset, len, dreg: Reg::Word(w) }
        }
        other => other,
    };
    let target = ChainDef {
        base: None,
        rules: vec![
            rule(
                "deny this",
                [
                    &tcp[..],
                    &[
                        dport.clone(),
                        cmp(CmpOp::Eq, [0, 80]),
                        Expr::COUNTER,
                        Expr::NfLog { group: 1, prefix: "DPI0|np/x".into(), snaplen: None },
                        Expr::Verdict(Verdict::Drop),
                    ],
                ]
                .concat(),
            ),
            rule(
                "accept mark",
                vec![
                    meta(MetaKey::Mark),
                    Expr::Bitwise {
                        sreg: Reg::R0,
                        dreg: Reg::R0,
                        mask: (!0x10000u32).to_ne_bytes().to_vec(),
                        xor: 0x10000u32.to_ne_bytes().to_vec(),
                    },
                    Expr::MetaSet { key: MetaKey::Mark, sreg: Reg::R0 },
                    Expr::Verdict(Verdict::Return),
                ],
            ),
        ],
    };
    let forward = ChainDef {
        base: base("filter", hook::FORWARD, 0),
        rules: vec![
            rule(
                "established",
                vec![
                    Expr::Ct { key: CtKey::State, dreg: Reg::R0 },
                    Expr::Bitwise {
                        sreg: Reg::R0,
                        dreg: Reg::R0,
                        mask: 6u32.to_ne_bytes().to_vec(),
                        xor: vec![0; 4],
                    },
                    cmp(CmpOp::Neq, [0; 4]),
                    Expr::Verdict(Verdict::Accept),
                ],
            ),
            rule(
                "dispatch",
                vec![
                    meta(MetaKey::IifName),
                    cmp(CmpOp::Eq, *b"cali"),
                    meta(MetaKey::IifName),
                    lookup("dispatch", Some(Reg::Verdict), false),
                ],
            ),
            rule(
                "in set",
                [&ipv4[..], &[saddr4.clone(), lookup("addresses", None, false)]].concat(),
            ),
            rule(
                "not in nets",
                [&ipv4[..], &[saddr4.clone(), lookup("nets", None, true)]].concat(),
            ),
            rule(
                "port set",
                [
                    &ipv4[..],
                    &[
                        saddr4.clone(),
                        word(1, meta(MetaKey::L4Proto)),
                        word(2, dport.clone()),
                        Expr::Lookup {
                            set: "endpoints".into(),
                            sreg: Reg::R0,
                            dreg: None,
                            inverted: false,
                        },
                    ],
                ]
                .concat(),
            ),
            rule(
                "port range",
                [
                    &tcp[..],
                    &[
                        dport.clone(),
                        Expr::Range {
                            sreg: Reg::R0,
                            negated: true,
                            from: vec![0, 80],
                            to: vec![0, 90],
                        },
                        Expr::Verdict(Verdict::Jump("target".into())),
                    ],
                ]
                .concat(),
            ),
            rule(
                "reject",
                [&ipv6[..], &[Expr::Reject { kind: RejectKind::Icmpx, code: 3 }]].concat(),
            ),
        ],
    };
    let raw = ChainDef {
        base: base("filter", hook::PREROUTING, -300),
        rules: vec![
            rule(
                "rpf",
                vec![
                    Expr::Fib {
                        dreg: Reg::R0,
                        result: fib::RESULT_OIF,
                        flags: fib::SADDR | fib::IIF | fib::PRESENT,
                    },
                    cmp(CmpOp::Eq, [0; 4]),
                    Expr::COUNTER,
                    Expr::Verdict(Verdict::Drop),
                ],
            ),
            rule("untracked", vec![Expr::NoTrack]),
            rule("kernel log", vec![Expr::KernelLog { level: 5, prefix: "calico-packet".into() }]),
        ],
    };
    let nat_chain = ChainDef {
        base: base("nat", hook::POSTROUTING, 100),
        rules: vec![rule(
            "masquerade",
            [
                &ipv4[..],
                &[
                    saddr4,
                    lookup("nets", None, false),
                    Expr::Masquerade { flags: nat::FULLY_RANDOM, ports: None },
                ],
            ]
            .concat(),
        )],
    };
    let jump = Verdict::Goto("target".into());
    let mut iface = b"cali1".to_vec();
    iface.resize(16, 0);
    let sets = [
        (
            "addresses",
            SetSpec::set([KeyType::Ipv4]),
            vec![Element::key([10, 0, 0, 1]), Element::key([10, 0, 0, 2])],
        ),
        (
            "nets",
            SetSpec::intervals(KeyType::Ipv4),
            vec![range(&[10, 0, 0, 0], &[10, 0, 255, 255]), range(&[240, 0, 0, 0], &[255; 4])],
        ),
        ("nets6", SetSpec::intervals(KeyType::Ipv6), vec![range(&[0; 16], &[255; 16])]),
        (
            "endpoints",
            SetSpec::set([KeyType::Ipv4, KeyType::Proto, KeyType::Service]),
            vec![Element::key([10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])],
        ),
        (
            "dispatch",
            SetSpec::verdict_map([KeyType::IfName]),
            vec![Element { verdict: Some(jump), ..Element::key(iface) }],
        ),
    ];
    Ruleset {
        sets: sets
            .into_iter()
            .map(|(name, spec, elements)| {
                (name.to_owned(), SetDef { spec, elements: elements.into_iter().collect() })
            })
            .collect(),
        chains: [("target", target), ("forward", forward), ("raw", raw), ("nat", nat_chain)]
            .into_iter()
            .map(|(name, chain)| (name.to_owned(), chain))
            .collect(),
    }
}
