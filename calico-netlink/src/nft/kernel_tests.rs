//! What the running kernel makes of our messages, each test in a network namespace of its own.
//! `nft` is asked what the kernel holds; it is an oracle here and used nowhere else.

use std::process::Command;

use super::test_support::in_new_netns;
use super::*;
use crate::nft::wire::*;

const TABLE: &str = "calico-test";

fn nft_list() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output();
    let output = output.expect("nft is needed as oracle: apt-get install nftables");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

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
fn everything() -> Ruleset {
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

fn tracker(ruleset: &Ruleset) -> Tracker {
    let mut tracker = Tracker::new(Family::Inet, TABLE);
    for (name, set) in &ruleset.sets {
        tracker.put_set(name, set.clone());
    }
    for (name, chain) in &ruleset.chains {
        tracker.put_chain(name, chain.clone());
    }
    tracker
}

#[test]
fn kernel_holds_what_was_sent_and_nft_agrees() {
    in_new_netns(async || {
        let ruleset = everything();
        let mut tracker = tracker(&ruleset);
        let mut socket = Socket::open().unwrap();
        let generation = socket.generation().await.unwrap();
        socket.commit(&tracker.batch(), Some(generation)).await.unwrap();
        tracker.committed();
        assert!(tracker.batch().is_empty());

        let (read, _, foreign) = socket.read_table(Family::Inet, TABLE).await.unwrap();
        let read = read.unwrap();
        assert_eq!(read.differences(&ruleset), Vec::<String>::new());
        assert_eq!(read, ruleset);
        assert!(!foreign);

        let listed = nft_list();
        for line in [
            "iifname \"cali*\" iifname vmap @dispatch comment \"dispatch\"",
            "type ifname : verdict",
            "elements = { \"cali1\" : goto target }",
            "type ipv4_addr . inet_proto . inet_service",
            "elements = { 10.0.0.1 . tcp . 80 }",
            "elements = { 10.0.0.0/16, 240.0.0.0/4 }",
            "ip saddr != @nets comment \"not in nets\"",
            "ip saddr . meta l4proto . th dport @endpoints comment \"port set\"",
            "tcp dport != 80-90 jump target comment \"port range\"",
            "log prefix \"DPI0|np/x\" group 1 drop comment \"deny this\"",
            "ip saddr @nets masquerade fully-random comment \"masquerade\"",
            "fib saddr . iif oif missing counter packets 0 bytes 0 drop comment \"rpf\"",
            "meta mark set meta mark | 0x00010000 return comment \"accept mark\"",
        ] {
            assert!(listed.contains(line), "{line:?} is not in\n{listed}");
        }
    });
}

#[test]
fn what_nft_makes_is_read_and_replaced() {
    in_new_netns(async || {
        let script = "table inet calico-test { set s { type ipv4_addr; timeout 1h; }; \
                      chain forward { type filter hook forward priority 5; ip saddr { 1.1.1.1, 2.2.2.2 } accept; }; }";
        let status = Command::new("nft").arg(script).status().unwrap();
        assert!(status.success());
        let ruleset = everything();
        let mut tracker = tracker(&ruleset);
        let mut socket = Socket::open().unwrap();
        let (read, generation, foreign) = socket.read_table(Family::Inet, TABLE).await.unwrap();
        assert!(foreign, "{read:?}");
        assert!(!tracker.observed(read.as_ref(), foreign).is_empty());
        socket.commit(&tracker.batch(), Some(generation)).await.unwrap();
        let (read, _, foreign) = socket.read_table(Family::Inet, TABLE).await.unwrap();
        assert_eq!((read.unwrap(), foreign), (ruleset, false));
    });
}

/// Rules as `nft` compiles them, in every form that this crate models.
const BY_NFT: &str = r#"
table inet calico-test {
    set addresses { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }
    set nets { type ipv6_addr; flags interval; elements = { fd00::/8, 2001:db8::1-2001:db8::9 }; }
    set low { type inet_service; flags interval; elements = { 0-1023, 65000-65535 }; }
    set endpoints {
        type ipv4_addr . inet_proto . inet_service; elements = { 10.0.0.1 . tcp . 80 };
    }
    set ranges {
        type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/24 . 80-90 };
    }
    map dispatch {
        type ifname : verdict; elements = { "cali1" : goto leaf, "cali2" : jump leaf, "x" : drop };
    }
    chain leaf {
        tcp dport 80 counter accept comment "a comment"
        tcp dport != 1000-2000 return
    }
    chain forward {
        type filter hook forward priority filter - 10; policy drop;
        ct state established,related accept
        ct status dnat accept
        ct mark 0x1 accept
        meta mark set meta mark and 0xfffeffff or 0x20000
        meta mark & 0x30000 == 0x10000 return
        iifname "cali*" oifname "eth0" iif "lo" accept
        iifname vmap @dispatch
        ip saddr @addresses ip daddr != 10.0.0.0/9 drop
        ip6 saddr @nets ip6 daddr fd00::/8 drop
        ip saddr . meta l4proto . th dport @endpoints accept
        ip daddr . tcp dport @ranges accept
        th sport @low counter packets 0 bytes 0 drop
        meta l4proto 132 accept
        limit rate 5/second accept comment "an expression that is not modelled"
        icmp type echo-request icmp code 0 accept
        icmpv6 type nd-neighbor-solicit accept
        log prefix "DPI0|gnp/x" group 1 snaplen 64
        log prefix "to syslog" level info
        reject with icmpx admin-prohibited
        meta nfproto ipv4 reject with tcp reset
    }
    chain prerouting {
        type filter hook prerouting priority raw;
        fib saddr . iif oif missing drop
        udp dport 4789 notrack
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 10.0.0.0/8 masquerade fully-random,persistent
        meta nfproto ipv4 snat ip to 192.0.2.1
    }
}
"#;

#[test]
fn what_nft_compiles_survives_reading_and_writing() {
    in_new_netns(async || {
        let status = Command::new("nft").arg(BY_NFT).status().unwrap();
        assert!(status.success());
        let by_nft = nft_list();
        let mut socket = Socket::open().unwrap();
        let (read, _, foreign) = socket.read_table(Family::Inet, TABLE).await.unwrap();
        assert!(!foreign);
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.delete_table();
        socket.commit(&batch, None).await.unwrap();
        let read = read.unwrap();
        socket.commit(&tracker(&read).batch(), None).await.unwrap();
        let (again, ..) = socket.read_table(Family::Inet, TABLE).await.unwrap();
        assert_eq!(again, Some(read));
        // nft lists sets and chains in the order they were made in, which is another.
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&nft_list()), sorted(&by_nft));
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_names_each_culprit() {
    in_new_netns(async || {
        let mut socket = Socket::open().unwrap();
        let before = nft_list();
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_table();
        batch.add_chain("good", None);
        let jump = vec![Expr::Verdict(Verdict::Jump("nowhere".into()))];
        batch.add_rule("good", &jump, "first culprit");
        batch.delete_chain("absent");
        let Err(Error::Refused(refusals)) = socket.commit(&batch, None).await else {
            panic!("not refused");
        };
        let subjects: Vec<_> =
            refusals.iter().map(|r| r.subject.as_ref().unwrap().to_string()).collect();
        assert_eq!(subjects, ["add rule good (first culprit)", "delete chain absent"]);
        assert!(Error::Refused(refusals).is_stale());
        assert_eq!(nft_list(), before);
    });
}

#[test]
fn more_refusals_than_fit_are_an_error_not_a_hang() {
    in_new_netns(async || {
        let mut socket = Socket::open().unwrap();
        let mut batch = Batch::new(Family::Inet, TABLE);
        for n in 0..50_000 {
            batch.delete_chain(&format!("absent{n}"));
        }
        for _ in 0..2 {
            let refused = socket.commit(&batch, None).await;
            assert!(matches!(&refused, Err(error) if error.is_stale()), "{:.300?}", refused);
        }
        // The socket is fit for use.
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_table();
        socket.commit(&batch, None).await.unwrap();
    });
}

#[test]
fn a_change_by_others_is_noticed() {
    in_new_netns(async || {
        let mut socket = Socket::open().unwrap();
        let generation = socket.generation().await.unwrap();
        assert!(
            Command::new("nft").args(["add", "table", "ip", "other"]).status().unwrap().success()
        );
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_table();
        let refused = socket.commit(&batch, Some(generation)).await;
        assert!(matches!(refused, Err(Error::GenerationChanged)), "{refused:?}");
        assert!(!nft_list().contains(TABLE));
        let generation = socket.generation().await.unwrap();
        socket.commit(&batch, Some(generation)).await.unwrap();
        assert!(nft_list().contains(TABLE));
    });
}

#[test]
fn a_hundred_thousand_members_fit_one_batch() {
    in_new_netns(async || {
        let elements = (0..100_000u32).map(|i| Element::key((0x0a00_0000 + i).to_be_bytes()));
        let spec = SetSpec::set([KeyType::Ipv4]);
        let mut tracker = Tracker::new(Family::Inet, TABLE);
        tracker.put_set("big", SetDef { spec, elements: elements.collect() });
        let mut socket = Socket::open().unwrap();
        socket.commit(&tracker.batch(), None).await.unwrap();
        tracker.committed();
        let (read, ..) = socket.read_table(Family::Inet, TABLE).await.unwrap();
        let same = read.as_ref() == Some(tracker.desired());
        assert!(same, "{} members", read.unwrap().sets["big"].elements.len());
        tracker.remove_set("big");
        socket.commit(&tracker.batch(), None).await.unwrap();
        let (read, ..) = socket.read_table(Family::Inet, TABLE).await.unwrap();
        assert_eq!(read, Some(Ruleset::default()));
    });
}
