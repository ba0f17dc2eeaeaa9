//! The tracker against the kernel: whatever the order of changes, what is committed is what is
//! desired.

use proptest::collection::vec;
use proptest::prelude::*;

use super::test_support::in_new_netns;
use super::*;
use crate::nft::wire::*;

#[derive(Debug, Clone)]
enum Op {
    Chain(u8, Vec<u8>),
    NoChain(u8),
    Element(u8),
    NoElement(u8),
    /// So many elements above those, which is many or few.
    Many(u16),
    /// The map leads from a port to a chain, if there is one.
    Lead(u8, u8),
    Ranges(Vec<(u8, u8)>),
    NoRanges,
    /// What nothing leads to yet.
    Ahead,
    Commit,
    Forget,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..4u8, vec(0..4u8, 0..4)).prop_map(|(name, jumps)| Op::Chain(name, jumps)),
        (0..4u8).prop_map(Op::NoChain),
        any::<u8>().prop_map(|e| Op::Element(e % 8)),
        any::<u8>().prop_map(|e| Op::NoElement(e % 8)),
        (0..4u16).prop_map(|n| Op::Many(n * 70)),
        (0..3u8, 0..4u8).prop_map(|(port, chain)| Op::Lead(port, chain)),
        vec((any::<u8>(), any::<u8>()), 0..4).prop_map(Op::Ranges),
        Just(Op::NoRanges),
        Just(Op::Ahead),
        Just(Op::Commit),
        Just(Op::Forget),
    ]
}

/// Chain `name` may jump to higher ones only, which excludes loops; a jump to an absent chain
/// becomes no rule.
fn chain(tracker: &Tracker, name: u8, jumps: &[u8]) -> ChainDef {
    let rules = jumps.iter().filter(|to| **to > name).map(|to| format!("c{to}"));
    let rules = rules.filter(|to| tracker.desired().chains.contains_key(to));
    ChainDef {
        base: None,
        rules: rules
            .map(|to| RuleDef {
                identity: format!("to {to}"),
                expressions: vec![Expr::COUNTER, Expr::Verdict(Verdict::Jump(to))],
            })
            .collect(),
    }
}

/// Looks addresses up in the set.
fn asks() -> ChainDef {
    let load = Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, dreg: Reg::R0 };
    let look = Expr::Lookup { set: "set".into(), sreg: Reg::R0, dreg: None, inverted: false };
    let expressions = vec![load, look, Expr::COUNTER];
    ChainDef { base: None, rules: vec![RuleDef { identity: "asks".into(), expressions }] }
}

/// Sorts, merges what overlaps or touches.
fn ranges(raw: &[(u8, u8)]) -> SetDef {
    let mut sorted: Vec<_> = raw.iter().map(|(a, b)| (*a.min(b), *a.max(b))).collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u8, u8)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(open) if u16::from(first) <= u16::from(open.1) + 1 => open.1 = open.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let elements = merged.into_iter().map(|(first, last)| Element {
        key_end: Some(vec![last, if last == 255 { 255 } else { 0 }]),
        ..Element::key([first, 0])
    });
    SetDef { spec: SetSpec::intervals(KeyType::Service), elements: elements.collect() }
}

fn lead(port: u8, chain: &str) -> Element {
    Element { verdict: Some(Verdict::Jump(chain.to_owned())), ..Element::key([0, port]) }
}

async fn run(ops: &[Op]) {
    const TABLE: &str = "calico-test";
    let mut socket = Socket::open().unwrap();
    let mut tracker = Tracker::new(Family::Inet, TABLE);
    let set = SetDef { spec: SetSpec::set([KeyType::Ipv4]), elements: [].into() };
    tracker.put_set("set", set);
    let spec = SetSpec::verdict_map([KeyType::Service]);
    tracker.put_set("map", SetDef { spec, elements: [].into() });
    tracker.put_chain("asks", asks());
    for op in ops.iter().chain([&Op::Commit]) {
        match op {
            Op::Chain(name, jumps) => {
                let chain = chain(&tracker, *name, jumps);
                tracker.put_chain(&format!("c{name}"), chain);
            }
            Op::NoChain(name) => {
                // As a caller must: nothing leads to a chain that goes.
                let target = format!("c{name}");
                for user in 0..*name {
                    let user = format!("c{user}");
                    if let Some(mut chain) = tracker.desired().chains.get(&user).cloned() {
                        chain.rules.retain(|rule| rule.identity != format!("to {target}"));
                        tracker.put_chain(&user, chain);
                    }
                }
                for port in 0..3 {
                    tracker.remove_element("map", &lead(port, &target));
                }
                tracker.remove_chain(&target);
            }
            Op::Element(e) => tracker.add_element("set", Element::key([10, 0, 0, *e])),
            Op::NoElement(e) => tracker.remove_element("set", &Element::key([10, 0, 0, *e])),
            Op::Many(count) => {
                for n in 0..300u16 {
                    let [high, low] = n.to_be_bytes();
                    let element = Element::key([10, 1, high, low]);
                    match n < *count {
                        true => tracker.add_element("set", element),
                        false => tracker.remove_element("set", &element),
                    }
                }
            }
            Op::Lead(port, chain) => {
                let target = format!("c{chain}");
                if tracker.desired().chains.contains_key(&target) {
                    for chain in 0..4 {
                        tracker.remove_element("map", &lead(*port, &format!("c{chain}")));
                    }
                    tracker.add_element("map", lead(*port, &target));
                }
            }
            Op::Ranges(raw) => tracker.put_set("ranges", ranges(raw)),
            Op::NoRanges => tracker.remove_set("ranges"),
            Op::Ahead => {
                let Some(batch) = tracker.take_ahead() else { continue };
                let (before, ..) = socket.read_table(Family::Inet, TABLE).await.unwrap();
                socket.commit(&batch, None).await.unwrap();
                let (after, ..) = socket.read_table(Family::Inet, TABLE).await.unwrap();
                let (before, mut after) = (before.unwrap(), after.unwrap());
                after.sets.retain(|name, _| before.sets.contains_key(name));
                after.chains.retain(|name, _| before.chains.contains_key(name));
                assert_eq!(after, before, "what is in force changed");
            }
            Op::Commit => {
                if let Some(ahead) = tracker.batch_ahead(&Counts::default()) {
                    socket.commit(&ahead, None).await.unwrap();
                    tracker.committed_ahead();
                    assert!(tracker.batch_ahead(&Counts::default()).is_none());
                }
                socket.commit(&tracker.batch(), None).await.unwrap();
                tracker.committed();
                assert!(tracker.batch().is_empty());
                let (read, ..) = socket.read_table(Family::Inet, TABLE).await.unwrap();
                assert_eq!(read.as_ref(), Some(tracker.desired()));
            }
            // A restart: what is known of the kernel is read back from it.
            Op::Forget => {
                let (read, _, foreign) = socket.read_table(Family::Inet, TABLE).await.unwrap();
                tracker.observed(read.as_ref(), foreign);
            }
        }
    }
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.delete_table();
    socket.commit(&batch, None).await.unwrap();
}

#[test]
fn a_map_leads_to_a_chain_only_once_it_has_its_rules() {
    in_new_netns(async || {
        let mut socket = Socket::open().unwrap();
        let mut tracker = Tracker::new(Family::Inet, "calico-test");
        let ahead = |tracker: &Tracker| tracker.batch_ahead(&Counts::default());
        let spec = SetSpec::verdict_map([KeyType::Service]);
        tracker.put_set("map", SetDef { spec, elements: [].into() });
        // Nothing is in force yet, so that nothing can lead anywhere.
        tracker.put_chain("c1", chain(&tracker, 1, &[]));
        tracker.add_element("map", lead(1, "c1"));
        assert!(ahead(&tracker).is_none());
        socket.commit(&tracker.batch(), None).await.unwrap();
        tracker.committed();
        // A new chain that nothing leads to, and an element that leads to an old one.
        tracker.put_chain("c3", chain(&tracker, 3, &[]));
        assert!(ahead(&tracker).is_none());
        tracker.add_element("map", lead(2, "c1"));
        tracker.put_chain("c2", chain(&tracker, 2, &[3]));
        tracker.remove_element("map", &lead(1, "c1"));
        tracker.add_element("map", lead(1, "c2"));
        let first = ahead(&tracker).unwrap();
        socket.commit(&first, None).await.unwrap();
        tracker.committed_ahead();
        let (read, ..) = socket.read_table(Family::Inet, "calico-test").await.unwrap();
        let read = read.unwrap();
        assert_eq!(read.chains["c2"].rules.len(), 1);
        assert_eq!(read.sets["map"].elements, [lead(1, "c1")].into());
        socket.commit(&tracker.batch(), None).await.unwrap();
        tracker.committed();
        let (read, ..) = socket.read_table(Family::Inet, "calico-test").await.unwrap();
        assert_eq!(read.as_ref(), Some(tracker.desired()));
    });
}

#[test]
fn a_set_that_outgrows_its_size_is_replaced_with_the_rules_that_look_it_up() {
    in_new_netns(async || {
        let mut socket = Socket::open().unwrap();
        let mut tracker = Tracker::new(Family::Inet, "calico-test");
        let element = |n: u32| Element::key((0x0a00_0000 + n).to_be_bytes());
        let spec = SetSpec::set([KeyType::Ipv4]);
        tracker.put_set("set", SetDef { spec, elements: (0..64).map(element).collect() });
        tracker.put_chain("asks", asks());
        tracker.put_chain("c1", chain(&tracker, 1, &[]));
        let mut last = None;
        for count in [64, 96, 97, 300, 5] {
            let Ruleset { sets, .. } = tracker.desired();
            let have = u32::try_from(sets["set"].elements.len()).unwrap();
            (have..count).for_each(|n| tracker.add_element("set", element(n)));
            (count..have).for_each(|n| tracker.remove_element("set", &element(n)));
            let replaced = tracker.replaced_chains().contains(&"asks");
            assert!(!tracker.replaced_chains().contains(&"c1"));
            socket.commit(&tracker.batch(), None).await.unwrap();
            tracker.committed();
            let (read, ..) = socket.read_table(Family::Inet, "calico-test").await.unwrap();
            assert_eq!(read.as_ref(), Some(tracker.desired()), "{count}");
            let size = read.unwrap().sets["set"].spec.size.unwrap();
            assert!(count <= size, "{count} of {size}");
            let grew = last.is_some_and(|last| last != size);
            assert_eq!(replaced, grew, "{count} of {size}, before {last:?}");
            last = Some(size);
        }
        assert_eq!(last, Some(384));
        // A restart takes the set as it is, and one that somebody filled is full for us, too.
        let (read, _, foreign) = socket.read_table(Family::Inet, "calico-test").await.unwrap();
        assert_eq!(tracker.observed(read.as_ref(), foreign), Vec::<String>::new());
        assert!(tracker.batch().is_empty());
        let foreign: Vec<_> = (1000..1379).map(element).collect();
        let mut batch = Batch::new(Family::Inet, "calico-test");
        batch.add_elements("set", &foreign);
        socket.commit(&batch, None).await.unwrap();
        tracker.add_element("set", element(6));
        let error = socket.commit(&tracker.batch(), None).await.unwrap_err();
        assert!(error.is_stale(), "{error}");
        assert!(error.to_string().contains("to add elements of set set"), "{error}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_changes_ends_in_the_desired_state(ops in vec(op(), 1..30)) {
        in_new_netns(async || run(&ops).await);
    }
}
