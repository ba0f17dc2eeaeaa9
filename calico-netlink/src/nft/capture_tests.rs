//! What `nft` sends, seen by `strace` as the kernel sees it, read and written again by this crate:
//! the same attributes with the same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::test_support::in_new_netns;
use super::wire::{Expr, Messages, Object, Writer, msg};

/// Every kind of statement that the dataplane uses, and those that it reads.
const RULESET: &str = r#"
table inet t {
    set addresses { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }
    set nets { type ipv6_addr; flags interval; elements = { fd00::/8, 2001:db8::1-2001:db8::9 }; }
    set endpoints {
        type ipv4_addr . inet_proto . inet_service; elements = { 10.0.0.1 . tcp . 80 };
    }
    set ranges {
        type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/24 . 80-90 };
    }
    map dispatch {
        type ifname : verdict; elements = { "cali1" : goto leaf, "cali2" : jump leaf, "x" : drop };
    }
    map sources { type ifname . ipv4_addr : verdict; elements = { "cali1" . 10.0.0.1 : goto leaf }; }
    chain leaf {
        tcp dport 80 counter accept comment "np/prod/web rule 3"
        tcp dport != 1000-2000 return
    }
    chain forward {
        type filter hook forward priority filter - 10; policy drop;
        ct state established,related accept
        ct mark & 0x100000 == 0 accept
        ct status & dnat != 0 accept
        meta mark set meta mark and 0xfffeffff or 0x20000
        meta mark & 0x30000 == 0x10000 return
        iifname "cali*" oifname "eth0" goto leaf
        iifname != "cali*" jump leaf
        iifname vmap @dispatch
        meta nfproto ipv4 iifname . ip saddr vmap @sources
        ip saddr @addresses ip daddr != 10.0.0.0/9 drop
        ip6 saddr @nets ip6 daddr fd00::/8 drop
        ip6 saddr & ffc0:: == fe80:: accept
        ip saddr . meta l4proto . th dport @endpoints accept
        ip saddr . meta l4proto . th dport != @endpoints accept
        ip daddr . tcp dport @ranges accept
        meta l4proto 132 accept
        limit rate 5/second burst 7 packets log prefix "LPI0|gnp/x" group 1
        limit rate over 100/minute burst 5 packets counter drop
        icmp type echo-request icmp code 0 accept
        icmpv6 type nd-neighbor-solicit accept
        log prefix "DPI0|gnp/x" group 1 snaplen 64
        log prefix "to syslog" level info
        reject with icmpx host-unreachable
        meta l4proto tcp ct count over 7 counter reject with tcp reset
    }
    chain prerouting {
        type filter hook prerouting priority raw; policy accept;
        fib saddr . iif oif missing drop
        udp dport 4789 notrack
        ip dscp set ef
        ip6 dscp set af41
    }
    chain destination {
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr 192.0.2.1 dnat ip to 10.0.0.1
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.0.0.0/8 masquerade fully-random
        oifname "tunl0" fib saddr . oif type != local fib saddr type local masquerade
        ip saddr 10.0.0.0/8 meta l4proto tcp masquerade to :1024-2048 fully-random
        meta nfproto ipv4 snat ip to 192.0.2.1
        meta nfproto ipv4 meta l4proto udp snat ip to 192.0.2.1:1024-2048 fully-random
    }
}
"#;

/// Connections that pass from device to device.
const FLOW_TABLE: &str = "
table inet t {
    flowtable calico { hook ingress priority filter - 7; devices = { lo }; }
    chain forward {
        type filter hook forward priority 1000; policy accept;
        meta l4proto tcp ct status & 0x4000 == 0 fib saddr . iif oif exists flow add @calico
    }
}
";

/// An attribute: its type, its bytes if it holds no others, and those that it holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Leaf(u16, Vec<u8>),
    Nest(u16, Vec<Self>),
}

/// The attributes in any order, but those of one type in theirs.
fn tree(mut bytes: &[u8]) -> Vec<Node> {
    let mut nodes = Vec::new();
    while bytes.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
        let payload = &bytes[4..len];
        nodes.push(if kind & 0x8000 != 0 {
            Node::Nest(kind & 0x3fff, tree(payload))
        } else {
            Node::Leaf(kind, payload.to_vec())
        });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    nodes.sort_by_key(|node| match node {
        Node::Leaf(kind, _) | Node::Nest(kind, _) => *kind,
    });
    nodes
}

/// What `nft` says of an object besides what it is: numbers within the transaction, hints of sizes,
/// notes to itself. We say these otherwise or not at all.
fn without_notes(kind: u16, nodes: Vec<Node>) -> Vec<Node> {
    let notes: &[u16] = match kind {
        // NFTA_TABLE_USERDATA
        msg::NEW_TABLE => &[6],
        // NFTA_SET_DESC of a set without concatenated ranges, NFTA_SET_ID, NFTA_SET_USERDATA
        msg::NEW_SET => &[9, 10, 13],
        // NFTA_SET_ELEM_LIST_SET_ID
        msg::NEW_SET_ELEM => &[4],
        _ => &[],
    };
    let is_note = |node: &Node| match node {
        Node::Leaf(kind, _) | Node::Nest(kind, _) => notes.contains(kind),
    };
    let nodes = nodes.into_iter().filter(|node| !is_note(node)).map(without_silent);
    // `nft` numbers the elements of a set, which the kernel does not look at.
    let unnumbered = |node| match node {
        Node::Nest(3, elements) if kind == msg::NEW_SET_ELEM => {
            let elements = elements.into_iter().map(|element| match element {
                Node::Nest(_, nodes) => Node::Nest(1, nodes),
                leaf => leaf,
            });
            Node::Nest(3, elements.collect())
        }
        other => other,
    };
    nodes.map(unnumbered).collect()
}

/// What can be said by silence: attributes of expressions, with the value that they have then, if
/// they can have others. (`NFTA_LOOKUP_SET_ID`: the set's number in the transaction, besides its
/// name; `NFTA_LOOKUP_FLAGS`; `NFTA_BITWISE_OP`; `NFTA_LIMIT_TYPE` and `NFTA_LIMIT_FLAGS`;
/// `NFTA_CONNLIMIT_FLAGS`; `NFTA_REJECT_ICMP_CODE`; `NFTA_PAYLOAD_CSUM_TYPE`,
/// `NFTA_PAYLOAD_CSUM_OFFSET` and `NFTA_PAYLOAD_CSUM_FLAGS`.)
const SILENT: &[(&str, u16, Option<&[u8]>)] = &[
    ("lookup", 4, None),
    ("lookup", 5, Some(&[0; 4])),
    ("bitwise", 6, Some(&[0; 4])),
    ("limit", 4, Some(&[0; 4])),
    ("limit", 5, Some(&[0; 4])),
    ("connlimit", 2, Some(&[0; 4])),
    ("reject", 2, Some(&[0])),
    ("payload", 6, Some(&[0; 4])),
    ("payload", 7, Some(&[0; 4])),
    ("payload", 8, Some(&[0; 4])),
];

fn without_silent(node: Node) -> Node {
    let Node::Nest(kind, nodes) = node else { return node };
    let name = nodes.iter().find_map(|node| match node {
        Node::Leaf(1, name) => {
            Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
        }
        _ => None,
    });
    let silent = |node: &Node| {
        let Node::Leaf(kind, value) = node else { return false };
        SILENT.iter().any(|(of, silent, default)| {
            name.as_deref() == Some(of)
                && silent == kind
                && default.is_none_or(|default| value.as_slice() == default)
        })
    };
    let nodes = nodes.iter().map(|node| match node {
        Node::Nest(2, data) => {
            let data = data.iter().filter(|node| !silent(node));
            Node::Nest(2, data.cloned().map(without_silent).collect())
        }
        other => without_silent(other.clone()),
    });
    Node::Nest(kind, nodes.collect())
}

/// The datagrams that a trace shows being sent.
fn datagrams(trace: &str) -> Vec<Vec<u8>> {
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    for line in trace.lines() {
        if line.contains("sendmsg(") {
            datagrams.push(Vec::new());
        }
        // ` | 00010  00 00 00 0a 24 00 00 00  00 0a 01 00 01 00 00 00  ....$........... |`
        let Some(dump) = line.strip_prefix(" | ") else { continue };
        let Some((_, dump)) = dump.split_once("  ") else { continue };
        let hex = &dump[..dump.len().min(49)];
        let bytes = hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap());
        datagrams.last_mut().expect("a dump after its call").extend(bytes);
    }
    datagrams
}

/// Has `nft` send a ruleset, and holds each message against what this crate makes of it. Gives the
/// kinds of messages and the names of expressions, and whether the kernel took all of it.
fn compare(ruleset: &str) -> (BTreeSet<u16>, BTreeSet<String>, bool) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("cr-test-capture-{}-{number}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).unwrap();
    let (script, trace) = (dir.join("rules"), dir.join("trace"));
    fs::write(&script, ruleset).unwrap();
    let status = Command::new("strace")
        .args(["-f", "-e", "trace=sendmsg", "-e", "write=all", "-e", "signal=none", "-o"])
        .arg(&trace)
        .args(["nft", "-f"])
        .arg(&script)
        .status()
        .expect("strace is needed: apt-get install strace");
    let trace = fs::read_to_string(&trace).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let (mut kinds, mut names) = (BTreeSet::new(), BTreeSet::new());
    for datagram in datagrams(&trace) {
        for message in Messages::new(&datagram) {
            let message = message.unwrap();
            if message.header.kind < msg::NEW_TABLE || message.payload.is_empty() {
                continue;
            }
            let kind = message.header.kind;
            let Some(written) = written_again(&Object::decode(&message).unwrap(), &mut names)
            else {
                continue;
            };
            kinds.insert(kind);
            let sent = without_notes(kind, tree(message.payload));
            assert_eq!(without_notes(kind, tree(&written)), sent, "message {kind:#x}");
        }
    }
    (kinds, names, status.success())
}

/// Many kernels have no flow tables; what `nft` sends is the same.
#[test]
fn flow_tables_are_read_and_written_as_nft_sends_them() {
    in_new_netns(async || {
        let (kinds, names, _taken) = compare(FLOW_TABLE);
        let all = [msg::NEW_TABLE, msg::NEW_CHAIN, msg::NEW_RULE, msg::NEW_FLOWTABLE];
        assert_eq!(kinds, all.into(), "a kind of message was not seen");
        assert!(names.contains("flow_offload"), "{names:?}");
    });
}

#[test]
fn what_nft_sends_is_read_and_written_alike() {
    in_new_netns(async || {
        let (kinds, names, taken) = compare(RULESET);
        assert!(taken, "the kernel refused what nft sent");
        let all = [msg::NEW_TABLE, msg::NEW_CHAIN, msg::NEW_RULE, msg::NEW_SET, msg::NEW_SET_ELEM];
        assert_eq!(kinds, all.into(), "a kind of message was not seen");
        let expressions = [
            "bitwise",
            "cmp",
            "connlimit",
            "counter",
            "ct",
            "fib",
            "immediate",
            "limit",
            "log",
            "lookup",
            "masq",
            "meta",
            "nat",
            "notrack",
            "payload",
            "range",
            "reject",
        ];
        assert_eq!(names, expressions.map(str::to_owned).into(), "expressions that were seen");
    });
}

/// The attributes of an object as we send it; `names` takes the names of expressions in.
fn written_again(object: &Object, names: &mut BTreeSet<String>) -> Option<Vec<u8>> {
    let mut w = Writer::new();
    match object {
        Object::Table(table) => table.encode(&mut w),
        Object::Chain(chain) => chain.encode(&mut w),
        Object::Set(set) => set.encode(&mut w, 1),
        Object::Elements(elements) => elements.encode(&mut w),
        Object::Flowtable(flowtable) => flowtable.encode(&mut w),
        Object::Rule(rule) => {
            for expression in &rule.expressions {
                assert!(!matches!(expression, Expr::Unknown { .. }), "{expression:?}");
                names.insert(expression.name().to_owned());
            }
            rule.encode(&mut w);
        }
        _ => return None,
    }
    Some(w.bytes().to_vec())
}
