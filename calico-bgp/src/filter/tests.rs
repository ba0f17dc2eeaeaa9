//! Rules, one by one and in their order.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::*;
use crate::rib::{
    PeerFacts, PeerKind, PolicyRoute, PrefixRule, RoutePolicy, SessionTraits, Verdict,
};
use crate::wire::{AsPath, AsPathSegment, PathAttributes, SegmentKind};

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn peer(kind: PeerKind, interface: Option<&str>) -> PeerFacts {
    PeerFacts {
        kind,
        asn: 65001,
        local_as: 64512,
        router_id: Ipv4Addr::LOCALHOST,
        address: Ipv4Addr::LOCALHOST.into(),
        local_address: None,
        speaker_as: 64512,
        cluster_id: None,
        traits: SessionTraits { interface: interface.map(Into::into), ..Default::default() },
    }
}

fn evaluate(
    filter: &Filter,
    prefix: &str,
    attributes: &PathAttributes,
    from: &PeerFacts,
    to: Option<&PeerFacts>,
) -> Verdict {
    let prefix = net(prefix);
    filter.evaluate(&PolicyRoute { prefix: &prefix, attributes, from, to, local_pref: None })
}

fn reject(condition: Condition) -> Filter {
    let rule = Rule { conditions: vec![condition], action: Action::Reject };
    Filter { rules: vec![rule], ..Filter::default() }
}

#[test]
fn prefixes() {
    let check = |prefix: PrefixMatch, route: &str, expected: bool| {
        assert_eq!(prefix.matches(&net(route)), expected, "{prefix:?} {route}");
    };
    let exact = PrefixMatch::exactly(net("10.0.0.0/16"));
    check(exact, "10.0.0.0/16", true);
    check(exact, "10.0.0.0/17", false);
    check(exact.negated(), "10.0.0.0/17", true);
    check(exact.negated(), "10.0.0.0/16", false);
    let within = PrefixMatch::within(net("10.0.0.0/16"));
    check(within, "10.0.0.0/16", true);
    check(within, "10.0.1.0/32", true);
    check(within, "10.0.0.0/15", false);
    check(within, "fd00::/64", false);
    check(within.negated(), "fd00::/64", true);
    check(within.lengths(24..=26), "10.0.1.0/26", true);
    check(within.lengths(24..=26), "10.0.1.0/27", false);
    check(within.lengths(24..=26).negated(), "10.0.1.0/27", true);
}

#[test]
fn conditions_about_who_and_whence() {
    use PeerKind::{Client, External, Internal, Local};
    let check = |c: Condition, from: PeerKind, to: Option<PeerKind>, expected: bool| {
        let to = to.map(|kind| peer(kind, Some("eth9")));
        let attributes = PathAttributes::default();
        let from = peer(from, Some("eth0"));
        let verdict = evaluate(&reject(c.clone()), "10.0.0.0/8", &attributes, &from, to.as_ref());
        assert_eq!(verdict == Verdict::Reject, expected, "{c:?} {from:?}");
    };
    check(Condition::Learned, External, None, true);
    check(Condition::Learned, Local, Some(External), false);
    check(Condition::Local, Local, Some(External), true);
    check(Condition::ExternalPeer, External, None, true);
    check(Condition::ExternalPeer, External, Some(Internal), false);
    check(Condition::ExternalPeer, Internal, Some(External), true);
    check(Condition::InternalPeer, Client, None, true);
    let interface = |s: &str| Condition::Interface(s.parse().unwrap());
    check(interface("eth0"), External, None, true);
    check(interface("eth*"), External, Some(External), true);
    check(interface("eth9"), External, Some(External), false);
    check(Condition::Family(Family::IPV4_UNICAST), External, None, true);
    check(Condition::Family(Family::IPV6_UNICAST), External, None, false);
    let list = PrefixList { rules: vec![PrefixRule::within(net("10.0.0.0/8"))] };
    check(Condition::Prefixes(list), External, None, true);
}

#[test]
fn interface_patterns() {
    let check = |pattern: &str, name: &str, expected: bool| {
        let pattern: InterfacePattern = pattern.parse().unwrap();
        assert_eq!(pattern.matches(name), expected, "{pattern} {name}");
    };
    check("*", "anything", true);
    check("eth0", "eth00", false);
    check("eth*", "eth", true);
    check("*.100", "bond0.100", true);
    check("e*h*0", "eth10", true);
    check("e*h*0", "eth1", false);
    check("a*a", "a", false);
    for bad in ["", "a b", "a/b", "0123456789abcdef"] {
        assert!(bad.parse::<InterfacePattern>().is_err(), "{bad}");
    }
}

#[test]
fn communities_and_their_text() {
    for text in [
        "65000:1",
        "65000:1:2",
        "4200000000:0:4294967295",
        "rt:65000:70000",
        "rt:70000:1",
        "ro:192.0.2.1:7",
        "no-export",
        "llgr-stale",
    ] {
        let community: AnyCommunity = text.parse().unwrap();
        assert_eq!(community.to_string(), text);
        let mut attributes = PathAttributes::default();
        assert!(!community.is_on(&attributes));
        community.put_on(&mut attributes);
        let once = attributes.clone();
        community.put_on(&mut attributes);
        assert_eq!(attributes, once);
        let verdict = |a: &PathAttributes| {
            let condition = Condition::Community(community);
            evaluate(&reject(condition), "10.0.0.0/8", a, &peer(PeerKind::Internal, None), None)
        };
        assert_eq!(verdict(&attributes), Verdict::Reject);
        community.take_off(&mut attributes);
        assert_eq!(attributes, PathAttributes::default());
        assert_eq!(verdict(&attributes), Verdict::Accept);
    }
    for bad in ["", "1", "65536:1", "1:+2", "1:2:3:4", "rt:1", "rt:70000:70000", "a:b", "1:-2"] {
        assert!(bad.parse::<AnyCommunity>().is_err(), "{bad}");
    }
}

fn path(asns: &[u32]) -> PathAttributes {
    PathAttributes { as_path: AsPath::sequence(asns.iter().copied()), ..Default::default() }
}

#[test]
fn as_paths_without_what_we_put_in_front() {
    let (from, external, internal) = (
        peer(PeerKind::External, None),
        peer(PeerKind::External, None),
        peer(PeerKind::Client, None),
    );
    let check = |c: Condition, asns: &[u32], to: Option<&PeerFacts>, expected: bool| {
        let verdict = evaluate(&reject(c.clone()), "10.0.0.0/8", &path(asns), &from, to);
        assert_eq!(verdict == Verdict::Reject, expected, "{c:?} {asns:?}");
    };
    let prefix = |asns: &[u32]| Condition::AsPathPrefix(asns.to_vec());
    check(prefix(&[65001, 7]), &[65001, 7, 8], None, true);
    check(prefix(&[65001, 7]), &[65001], None, false);
    check(prefix(&[65001]), &[64512, 65001], Some(&external), true);
    check(prefix(&[64512]), &[64512, 65001], Some(&external), false);
    check(prefix(&[65001]), &[65001, 7], Some(&internal), true);
    check(Condition::AsPathContains(7), &[65001, 7], None, true);
    check(Condition::AsPathContains(64512), &[64512, 7], Some(&external), false);

    let prepend = |asns: &[u32]| Filter {
        rules: vec![Rule {
            conditions: vec![],
            action: Action::Accept(vec![Operation::PrependAsPath(asns.to_vec())]),
        }],
        ..Filter::default()
    };
    let check = |attributes: &PathAttributes, to: Option<&PeerFacts>, expected: &str| match evaluate(
        &prepend(&[1, 2]),
        "10.0.0.0/8",
        attributes,
        &from,
        to,
    ) {
        Verdict::Modify(a) => assert_eq!(a.as_path.to_string(), expected),
        other => panic!("{other:?}"),
    };
    check(&path(&[65001]), None, "1 2 65001");
    check(&path(&[64512, 65001]), Some(&external), "64512 1 2 65001");
    check(&path(&[65001]), Some(&internal), "1 2 65001");
    check(&path(&[64512]), Some(&external), "64512 1 2");
    let set = AsPathSegment { kind: SegmentKind::Set, asns: vec![5, 6] };
    let sets = AsPath::from_segments([set]).prepend(64512, 1);
    let sets = PathAttributes { as_path: sets, ..Default::default() };
    check(&sets, Some(&external), "64512 1 2 {5,6}");
}

#[test]
fn the_first_rule_that_matches_decides() {
    let accept = |conditions, operations| Rule { conditions, action: Action::Accept(operations) };
    let filter = Filter {
        rules: vec![
            accept(
                vec![
                    Condition::Prefix(PrefixMatch::within(net("10.0.0.0/8"))),
                    Condition::LocalPref(7),
                ],
                vec![Operation::SetLocalPref(300), Operation::SetMed(5)],
            ),
            Rule {
                conditions: vec![Condition::Prefix(PrefixMatch::within(net("10.0.0.0/8")))],
                action: Action::Reject,
            },
            accept(vec![Condition::Learned], vec![]),
        ],
        otherwise: Otherwise::Reject,
        ..Filter::default()
    };
    let from = peer(PeerKind::Internal, None);
    let with = |local_pref| PathAttributes { local_pref, ..Default::default() };
    let changed = PathAttributes { med: Some(5), ..with(Some(300)) };
    let verdict = evaluate(&filter, "10.1.0.0/16", &with(Some(7)), &from, None);
    assert_eq!(verdict, Verdict::Modify(Box::new(changed)));
    assert_eq!(evaluate(&filter, "10.1.0.0/16", &with(None), &from, None), Verdict::Reject);
    assert_eq!(evaluate(&filter, "11.1.0.0/16", &with(None), &from, None), Verdict::Accept);
    let own = peer(PeerKind::Local, None);
    assert_eq!(evaluate(&filter, "11.1.0.0/16", &with(None), &own, Some(&from)), Verdict::Reject);
    // Another AS is not told LOCAL_PREF.
    let external = peer(PeerKind::External, None);
    let verdict = evaluate(&filter, "10.1.0.0/16", &with(Some(7)), &own, Some(&external));
    let changed = PathAttributes { med: Some(5), ..with(Some(7)) };
    assert_eq!(verdict, Verdict::Modify(Box::new(changed)));
}

#[test]
fn a_change_goes_on_to_the_rules_that_follow() {
    let community = |text: &str| text.parse::<AnyCommunity>().unwrap();
    let ten = || vec![Condition::Prefix(PrefixMatch::within(net("10.0.0.0/8")))];
    let change = |operation| Rule { conditions: ten(), action: Action::Change(vec![operation]) };
    let filter = |last: Action, otherwise| Filter {
        rules: vec![
            change(Operation::AddCommunity(community("1:1"))),
            change(Operation::SetLocalPref(7)),
            Rule { conditions: vec![Condition::LocalPref(7)], action: last },
        ],
        otherwise,
        ..Filter::default()
    };
    let from = peer(PeerKind::Internal, None);
    let none = PathAttributes::default();
    let check = |filter: &Filter, prefix: &str| evaluate(filter, prefix, &none, &from, None);

    let add = Action::Accept(vec![Operation::AddCommunity(community("2:2"))]);
    let accepting = filter(add, Otherwise::Reject);
    let Verdict::Modify(changed) = check(&accepting, "10.1.0.0/16") else { panic!("unchanged") };
    assert_eq!(changed.local_pref, Some(7));
    assert_eq!(changed.communities.len(), 2);
    assert_eq!(check(&accepting, "11.0.0.0/8"), Verdict::Reject);
    assert_eq!(check(&filter(Action::Reject, Otherwise::Accept), "10.1.0.0/16"), Verdict::Reject);
    assert_eq!(check(&filter(Action::Reject, Otherwise::Accept), "11.0.0.0/8"), Verdict::Accept);
    let unmatched = Filter { rules: vec![change(Operation::SetMed(1))], ..Filter::default() };
    assert!(matches!(check(&unmatched, "10.0.0.0/8"), Verdict::Modify(c) if c.med == Some(1)));
}

#[test]
fn local_preference_is_asked_for_even_where_it_is_not_told() {
    let to = peer(PeerKind::External, None);
    let from = peer(PeerKind::Local, None);
    let attributes = PathAttributes::default();
    let holds = |condition: Condition, local_pref| {
        let prefix = net("10.0.0.0/8");
        condition.holds(&PolicyRoute {
            prefix: &prefix,
            attributes: &attributes,
            from: &from,
            to: Some(&to),
            local_pref,
        })
    };
    assert!(holds(Condition::LocalPref(100), Some(100)));
    assert!(!holds(Condition::LocalPref(100), None));
    assert!(holds(Condition::LocalPrefAbove(99), Some(100)));
    assert!(!holds(Condition::LocalPrefAbove(100), Some(100)));
}
