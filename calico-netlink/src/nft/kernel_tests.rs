//! What the running kernel makes of our messages, each test in a network namespace of its own.
//! `nft` is asked what the kernel holds; it is an oracle here and used nowhere else.

use std::process::Command;

use super::test_support::in_new_netns;
use super::*;
use crate::nft::wire::*;

mod everything;
mod refused;

use everything::everything;

const TABLE: &str = "calico-test";

fn nft_list() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output();
    let output = output.expect("nft is needed as oracle: apt-get install nftables");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
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
