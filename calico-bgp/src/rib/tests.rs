//! The table: choice, sharing, export rules, restarts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::*;
use crate::wire::{
    AsPath, Community, ExtendedCommunity, Family, LargeCommunity, MpReach, NextHop, NlriList,
    Origin, PathAttributes, UnknownAttribute, Update,
};

const LOCAL_AS: u32 = 64512;
pub(super) const V4: Family = Family::IPV4_UNICAST;
const V6: Family = Family::IPV6_UNICAST;

pub(super) fn ip(n: u8) -> Ipv4Addr {
    [192, 0, 2, n].into()
}

pub(super) fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

pub(super) fn facts(n: u8, kind: PeerKind) -> PeerFacts {
    PeerFacts {
        kind,
        asn: if kind == PeerKind::External { 65000 + u32::from(n) } else { LOCAL_AS },
        local_as: LOCAL_AS,
        router_id: ip(n),
        address: ip(n).into(),
        local_address: Some(ip(254).into()),
        speaker_as: LOCAL_AS,
        cluster_id: None,
        traits: SessionTraits::default(),
    }
}

/// A table with peers 1, 2, … of the given kinds, all up.
pub(super) fn rib(kinds: &[PeerKind]) -> Rib {
    let mut rib = Rib::new(RibConfig::new(ip(254)));
    for (i, kind) in kinds.iter().enumerate() {
        let n = i as u8 + 1;
        let id = PeerId(n.into());
        rib.add_peer(id, facts(n, *kind), PeerRouting::default());
        rib.peer_up(id, facts(n, *kind), vec![V4, V6]);
        rib.poll_export(id, 100);
    }
    rib
}

pub(super) fn attributes(hop: u8, path: &[u32]) -> PathAttributes {
    let as_path = if path.is_empty() { AsPath::empty() } else { AsPath::sequence(path.to_vec()) };
    PathAttributes { as_path, next_hop: Some(NextHop::V4(ip(hop))), ..Default::default() }
}

pub(super) fn announce(rib: &mut Rib, peer: u32, prefix: &str, attributes: PathAttributes) {
    let update = Update {
        announced: NlriList::from_prefixes(V4, [net(prefix)]),
        attributes: Some(attributes),
        ..Default::default()
    };
    rib.handle_update(PeerId(peer), &update);
}

pub(super) fn withdraw(rib: &mut Rib, peer: u32, prefix: &str) {
    let update =
        Update { withdrawn: NlriList::from_prefixes(V4, [net(prefix)]), ..Default::default() };
    rib.handle_update(PeerId(peer), &update);
}

fn best_peer(rib: &Rib, prefix: &str) -> Option<u32> {
    match rib.best(&net(prefix))?.source {
        RouteSource::Peer { id, .. } => Some(id.0),
        RouteSource::Local => Some(0),
    }
}

/// Puts two paths in, in both orders, and expects the first to win by the given step.
#[track_caller]
fn check_decision(kinds: [PeerKind; 2], a: PathAttributes, b: PathAttributes, step: Decision) {
    for order in [[1, 2], [2, 1]] {
        let mut rib = rib(&kinds);
        for peer in order {
            announce(&mut rib, peer, "10.0.0.0/8", if peer == 1 { a.clone() } else { b.clone() });
        }
        let view = rib.route(&net("10.0.0.0/8")).unwrap();
        assert_eq!(best_peer(&rib, "10.0.0.0/8"), Some(1), "order {order:?}");
        assert_eq!(view.paths[0].decided_by, step);
        assert_eq!(view.paths[1].decided_by, step);
    }
}

#[test]
fn every_step_decides() {
    use PeerKind::{External, Internal};
    let base = || attributes(1, &[65001]);
    let internal = [Internal, Internal];
    let with = |f: fn(&mut PathAttributes)| {
        let mut a = attributes(2, &[65001]);
        f(&mut a);
        a
    };
    check_decision(internal, base(), with(|a| a.local_pref = Some(99)), Decision::LocalPref);
    check_decision(
        internal,
        base(),
        with(|a| a.as_path = AsPath::sequence([65001, 65002])),
        Decision::AsPathLength,
    );
    check_decision(internal, base(), with(|a| a.origin = Origin::Incomplete), Decision::Origin);
    check_decision(internal, base(), with(|a| a.med = Some(1)), Decision::Med);
    check_decision([External, Internal], base(), with(|_| {}), Decision::ExternalOverInternal);
    check_decision(internal, base(), with(|_| {}), Decision::RouterId);
    check_decision(
        internal,
        with(|a| a.originator_id = Some([9, 9, 9, 9].into())),
        with(|a| {
            a.originator_id = Some([9, 9, 9, 9].into());
            a.cluster_list = vec![[8, 8, 8, 8].into()];
        }),
        Decision::ClusterListLength,
    );
    check_decision(
        internal,
        with(|a| a.originator_id = Some([9, 9, 9, 9].into())),
        with(|a| a.originator_id = Some([9, 9, 9, 9].into())),
        Decision::PeerAddress,
    );
}

#[test]
fn the_metric_of_the_next_hop_decides_and_unreachable_ones_do_not_count() {
    let mut rib = rib(&[PeerKind::Internal, PeerKind::Internal]);
    announce(&mut rib, 1, "10.0.0.0/8", attributes(1, &[]));
    announce(&mut rib, 2, "10.0.0.0/8", attributes(2, &[]));
    assert_eq!(rib.best(&net("10.0.0.0/8")).unwrap().next_hops.len(), 2);
    rib.set_next_hop_metric(ip(1).into(), Some(10));
    assert_eq!(best_peer(&rib, "10.0.0.0/8"), Some(2));
    let view = rib.route(&net("10.0.0.0/8")).unwrap();
    assert_eq!(view.paths[0].decided_by, Decision::IgpMetric);
    rib.set_next_hop_metric(ip(2).into(), None);
    assert_eq!(best_peer(&rib, "10.0.0.0/8"), Some(1));
    rib.set_next_hop_metric(ip(1).into(), None);
    assert_eq!(best_peer(&rib, "10.0.0.0/8"), None);
}

#[test]
fn med_gives_one_answer_in_every_order() {
    // The classic cycle: a and b from AS 1, c from AS 2.
    let mut a = attributes(1, &[1]);
    let mut b = attributes(2, &[1]);
    let c = attributes(3, &[2]);
    (a.med, b.med) = (Some(20), Some(10));
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    for order in orders {
        let mut rib = rib(&[PeerKind::Internal; 3]);
        for peer in order {
            let path = [&a, &b, &c][peer as usize - 1].clone();
            announce(&mut rib, peer, "10.0.0.0/8", path);
        }
        assert_eq!(best_peer(&rib, "10.0.0.0/8"), Some(2), "order {order:?}");
    }
}

#[test]
fn equal_paths_share_traffic_and_changes_are_reported_once() {
    let mut rib = rib(&[PeerKind::External, PeerKind::External, PeerKind::External]);
    let prefix = net("10.96.0.0/12");
    announce(&mut rib, 2, "10.96.0.0/12", attributes(2, &[65002]));
    announce(&mut rib, 1, "10.96.0.0/12", attributes(1, &[65001]));
    announce(&mut rib, 3, "10.96.0.0/12", attributes(3, &[65003, 1]));
    assert_eq!(rib.poll_change(), Some(prefix));
    assert_eq!(rib.poll_change(), None);
    let hops: Vec<IpAddr> = vec![ip(1).into(), ip(2).into()];
    assert_eq!(rib.best(&prefix).unwrap().next_hops, hops);
    // The same again is no change.
    announce(&mut rib, 1, "10.96.0.0/12", attributes(1, &[65001]));
    assert_eq!(rib.poll_change(), None);
    // An active path that changes is one, even if the choice stays.
    let mut other = attributes(1, &[65001]);
    other.communities.push(Community::new(1, 2));
    announce(&mut rib, 1, "10.96.0.0/12", other.clone());
    assert_eq!(rib.poll_change(), Some(prefix));
    assert_eq!(*rib.best(&prefix).unwrap().attributes, other);
    withdraw(&mut rib, 2, "10.96.0.0/12");
    assert_eq!(rib.poll_change(), Some(prefix));
    assert_eq!(rib.best(&prefix).unwrap().next_hops, hops[..1]);
    withdraw(&mut rib, 1, "10.96.0.0/12");
    assert_eq!(best_peer(&rib, "10.96.0.0/12"), Some(3));
    withdraw(&mut rib, 3, "10.96.0.0/12");
    assert!(rib.is_empty());
    assert_eq!(rib.poll_change(), Some(prefix));
}

#[test]
fn strict_multipath_wants_equal_as_paths() {
    let config = RibConfig { multipath_relax: false, ..RibConfig::new(ip(254)) };
    let mut rib = Rib::new(config);
    for n in 1..=2 {
        let id = PeerId(n.into());
        rib.add_peer(id, facts(n, PeerKind::External), PeerRouting::default());
        rib.peer_up(id, facts(n, PeerKind::External), vec![V4]);
    }
    announce(&mut rib, 1, "10.0.0.0/8", attributes(1, &[65001]));
    announce(&mut rib, 2, "10.0.0.0/8", attributes(2, &[65002]));
    assert_eq!(rib.best(&net("10.0.0.0/8")).unwrap().next_hops.len(), 1);
    announce(&mut rib, 2, "10.0.0.0/8", attributes(2, &[65001]));
    assert_eq!(rib.best(&net("10.0.0.0/8")).unwrap().next_hops.len(), 2);
}

/// What peer `to` hears of a route from peer `from`.
fn heard(kinds: &[PeerKind], from: u32, to: u32, sent: PathAttributes) -> Option<PathAttributes> {
    let mut rib = rib(kinds);
    announce(&mut rib, from, "10.0.0.0/8", sent);
    let batch = rib.poll_export(PeerId(to), 100);
    batch.announce.first().map(|(a, _)| PathAttributes::clone(a))
}

#[test]
fn export_rules() {
    use PeerKind::{Client, External, Internal};
    let a = || attributes(1, &[65001]);
    let check = |from, to, expected: bool| {
        assert_eq!(heard(&[from, to], 1, 2, a()).is_some(), expected, "{from:?} to {to:?}");
    };
    check(Internal, Internal, false);
    check(Internal, Client, true);
    check(Client, Internal, true);
    check(Client, Client, true);
    check(Internal, External, true);
    check(External, Internal, true);
    check(External, External, true);
    assert!(heard(&[Client], 1, 1, a()).is_none(), "nobody hears back what it said");
}

#[test]
fn reflection_marks_the_route() {
    use PeerKind::{Client, Internal};
    let sent = PathAttributes { local_pref: Some(7), ..attributes(1, &[]) };
    let got = heard(&[Client, Internal], 1, 2, sent).unwrap();
    assert_eq!(got.originator_id, Some(ip(1)));
    assert_eq!(got.cluster_list, [ip(254)]);
    assert_eq!(got.next_hop, Some(NextHop::V4(ip(1))), "a reflector leaves the next hop alone");
    assert_eq!(got.local_pref, Some(7));
    // A second reflection keeps the originator and grows the list.
    let sent = PathAttributes {
        originator_id: Some(ip(77)),
        cluster_list: vec![ip(88)],
        ..attributes(1, &[])
    };
    let got = heard(&[Client, Internal], 1, 2, sent).unwrap();
    assert_eq!((got.originator_id, got.cluster_list), (Some(ip(77)), vec![ip(254), ip(88)]));
}

#[test]
fn loops_are_not_taken_in() {
    use PeerKind::{External, Internal};
    let check = |kind, a: PathAttributes| {
        let mut rib = rib(&[kind]);
        announce(&mut rib, 1, "10.0.0.0/8", attributes(1, &[]));
        assert_eq!(rib.len(), 1);
        announce(&mut rib, 1, "10.0.0.0/8", a);
        assert!(rib.is_empty(), "the looped route also ends the one it replaces");
    };
    check(External, attributes(1, &[65001, LOCAL_AS]));
    check(Internal, PathAttributes { originator_id: Some(ip(254)), ..attributes(1, &[]) });
    check(Internal, PathAttributes { cluster_list: vec![ip(254)], ..attributes(1, &[]) });
    check(Internal, attributes(254, &[]));
}

#[test]
fn leaving_the_as_changes_the_attributes() {
    use PeerKind::{External, Internal};
    let sent = PathAttributes {
        local_pref: Some(200),
        med: Some(5),
        originator_id: Some(ip(9)),
        cluster_list: vec![ip(8)],
        unknown: vec![
            UnknownAttribute { flags: 0xC0, code: 99, value: vec![1].into() },
            UnknownAttribute { flags: 0x80, code: 98, value: vec![2].into() },
        ],
        ..attributes(1, &[65009])
    };
    let got = heard(&[Internal, External], 1, 2, sent).unwrap();
    assert_eq!(got.as_path.to_string(), "64512 65009");
    assert_eq!(got.next_hop, Some(NextHop::V4(ip(254))));
    assert_eq!((got.local_pref, got.med, got.originator_id), (None, None, None));
    assert!(got.cluster_list.is_empty());
    assert_eq!(got.unknown.len(), 1, "only the transitive one goes on");
    assert_eq!(got.unknown[0].flags, 0xE0, "with the Partial bit");
    // Into the AS: LOCAL_PREF appears, the next hop stays.
    let got = heard(&[External, Internal], 1, 2, attributes(1, &[65001])).unwrap();
    assert_eq!((got.local_pref, got.next_hop), (Some(100), Some(NextHop::V4(ip(1)))));
}

#[test]
fn well_known_communities_are_obeyed() {
    use PeerKind::{Client, External};
    let with = |c| PathAttributes { communities: vec![c], ..attributes(1, &[65001]) };
    assert!(heard(&[External, External], 1, 2, with(Community::NO_EXPORT)).is_none());
    assert!(heard(&[External, Client], 1, 2, with(Community::NO_EXPORT)).is_some());
    assert!(heard(&[External, Client], 1, 2, with(Community::NO_ADVERTISE)).is_none());
    assert!(heard(&[External, External], 1, 2, with(Community::NO_EXPORT_SUBCONFED)).is_none());
    assert!(heard(&[External, Client], 1, 2, with(Community::NO_EXPORT_SUBCONFED)).is_some());
    // None of them is taken off on the way.
    let got = heard(&[External, Client], 1, 2, with(Community::NO_EXPORT)).unwrap();
    assert_eq!(got.communities, [Community::NO_EXPORT]);
}

#[test]
fn communities_of_all_sizes_leave_the_as_but_for_those_that_stay_in_it() {
    use PeerKind::{Client, External};
    let transitive = ExtendedCommunity([0x00, 2, 0, 1, 0, 0, 0, 1]);
    let inner = ExtendedCommunity([0x40, 2, 0, 1, 0, 0, 0, 1]);
    let large = LargeCommunity { global: 1, local1: 2, local2: 3 };
    let sent = PathAttributes {
        communities: vec![Community::new(1, 2)],
        extended_communities: vec![transitive, inner],
        large_communities: vec![large],
        ..attributes(1, &[])
    };
    let check = |to, expected: &[ExtendedCommunity]| {
        let got = heard(&[Client, to], 1, 2, sent.clone()).unwrap();
        assert_eq!(got.extended_communities, expected);
        assert_eq!(
            (got.communities, got.large_communities),
            (vec![Community::new(1, 2)], vec![large])
        );
    };
    check(Client, &[transitive, inner]);
    check(External, &[transitive]);
}

#[test]
fn next_hop_modes() {
    use PeerKind::{Client, External, Internal};
    let hop = |kinds: [PeerKind; 2], next_hop| {
        let mut rib = rib(&kinds);
        rib.set_routing(PeerId(2), kinds[1], PeerRouting { next_hop, ..Default::default() });
        announce(&mut rib, 1, "10.0.0.0/8", attributes(1, &[65001]));
        rib.poll_export(PeerId(2), 10).announce[0].0.next_hop.unwrap().address()
    };
    let (own, theirs) = (IpAddr::from(ip(254)), IpAddr::from(ip(1)));
    assert_eq!(hop([External, Internal], NextHopMode::OwnAddress), own);
    assert_eq!(hop([Client, Client], NextHopMode::OwnAddress), theirs);
    assert_eq!(hop([Client, Client], NextHopMode::OwnAddressAlways), own);
    assert_eq!(hop([External, External], NextHopMode::Keep), theirs);
    assert_eq!(hop([External, External], NextHopMode::Auto), own);
    let on = |subnet: &str| NextHopMode::AutoOnSubnet(subnet.parse().unwrap());
    let beside = |last: u8| format!("{}/32", ip(last));
    assert_eq!(hop([External, External], on(&beside(1))), theirs, "a third party on the subnet");
    assert_eq!(hop([External, External], on(&beside(9))), own, "on another subnet");
}

#[test]
fn a_batch_groups_by_attributes_and_ends_the_listing() {
    let mut rib = rib(&[PeerKind::Internal]);
    for i in 0..50u8 {
        rib.announce(net(&format!("10.0.{i}.0/24")), PathAttributes::default());
    }
    rib.announce(net("fd00::/64"), PathAttributes::default());
    assert!(!rib.announce(net("fe80::/64"), PathAttributes::default()), "link-local stays here");
    rib.peer_up(PeerId(1), facts(1, PeerKind::Internal), vec![V4, V6]);
    let first = rib.poll_export(PeerId(1), 20);
    assert_eq!((first.announce.len(), first.announce[0].1.len()), (1, 20));
    assert!(first.end_of_rib.is_empty());
    let rest = rib.poll_export(PeerId(1), 1000);
    assert_eq!(rest.announce[0].1.len(), 30, "no IPv6 next hop is known, so no IPv6 route");
    assert_eq!(rest.end_of_rib, [V4, V6]);
    assert!(rib.poll_export(PeerId(1), 1000).is_empty());
    // A refresh sends it all again, and what is gone since is withdrawn.
    rib.withdraw(net("10.0.0.0/24"));
    rib.refresh(PeerId(1), V4);
    let again = rib.poll_export(PeerId(1), 1000);
    assert_eq!((again.withdraw.len(), again.announce[0].1.len()), (1, 49));
}

#[test]
fn flapping_between_polls_sends_nothing() {
    let mut rib = rib(&[PeerKind::Internal]);
    rib.announce(net("10.0.0.0/24"), PathAttributes::default());
    rib.withdraw(net("10.0.0.0/24"));
    assert!(rib.poll_export(PeerId(1), 10).is_empty());
    rib.announce(net("10.0.0.0/24"), PathAttributes::default());
    assert_eq!(rib.poll_export(PeerId(1), 10).announce.len(), 1);
    rib.withdraw(net("10.0.0.0/24"));
    rib.announce(net("10.0.0.0/24"), PathAttributes::default());
    assert!(rib.poll_export(PeerId(1), 10).is_empty());
}

#[test]
fn policies_apply_to_routes_that_are_there() {
    let mut rib = rib(&[PeerKind::Internal, PeerKind::Client]);
    announce(&mut rib, 1, "10.0.0.0/24", attributes(1, &[]));
    announce(&mut rib, 1, "10.0.1.0/24", attributes(1, &[]));
    assert_eq!(rib.poll_export(PeerId(2), 10).announce[0].1.len(), 2);
    let list =
        |p: &str| Policy::Prefixes(Arc::new(PrefixList { rules: vec![PrefixRule::exact(net(p))] }));
    let import = PeerRouting { import: list("10.0.1.0/24"), ..Default::default() };
    rib.set_routing(PeerId(1), PeerKind::Internal, import);
    assert_eq!(best_peer(&rib, "10.0.0.0/24"), None);
    assert_eq!(rib.poll_export(PeerId(2), 10).withdraw, [net("10.0.0.0/24")]);
    rib.set_routing(PeerId(1), PeerKind::Internal, PeerRouting::default());
    assert_eq!(rib.poll_export(PeerId(2), 10).announce.len(), 1, "it was kept, only not used");
    let export = PeerRouting { export: list("10.0.0.0/24"), ..Default::default() };
    rib.set_routing(PeerId(2), PeerKind::Client, export);
    assert_eq!(rib.poll_export(PeerId(2), 10).withdraw, [net("10.0.1.0/24")]);
    // A client that becomes an ordinary peer hears nothing of other ordinary peers.
    rib.set_routing(PeerId(2), PeerKind::Internal, PeerRouting::default());
    assert_eq!(rib.poll_export(PeerId(2), 10).withdraw, [net("10.0.0.0/24")]);
}

#[test]
fn stale_routes_survive_a_restart_and_are_swept() {
    let mut rib = rib(&[PeerKind::Internal]);
    announce(&mut rib, 1, "10.0.0.0/24", attributes(1, &[]));
    announce(&mut rib, 1, "10.0.1.0/24", attributes(1, &[]));
    rib.handle_update(
        PeerId(1),
        &Update {
            attributes: Some(PathAttributes::default()),
            mp_reach: Some(MpReach {
                next_hop: Some(NextHop::V6("2001:db8::1".parse().unwrap())),
                raw_next_hop: Default::default(),
                nlri: NlriList::from_prefixes(V6, [net("fd00::/64")]),
            }),
            ..Default::default()
        },
    );
    while rib.poll_change().is_some() {}
    rib.peer_down(PeerId(1), &[V4]);
    assert_eq!(rib.poll_change(), Some(net("fd00::/64")), "only IPv6 was not to be kept");
    assert_eq!(rib.poll_change(), None);
    rib.peer_up(PeerId(1), facts(1, PeerKind::Internal), vec![V4]);
    announce(&mut rib, 1, "10.0.0.0/24", attributes(1, &[]));
    rib.sweep_stale(PeerId(1), V4);
    assert_eq!(best_peer(&rib, "10.0.0.0/24"), Some(1));
    assert_eq!(best_peer(&rib, "10.0.1.0/24"), None);
    rib.peer_down(PeerId(1), &[]);
    assert!(rib.is_empty());
}

#[test]
fn treat_as_withdraw_withdraws() {
    let mut rib = rib(&[PeerKind::Internal]);
    announce(&mut rib, 1, "10.0.0.0/24", attributes(1, &[]));
    let mut update = Update {
        announced: NlriList::from_prefixes(V4, [net("10.0.0.0/24")]),
        attributes: Some(attributes(1, &[])),
        ..Default::default()
    };
    update.errors.push(crate::wire::AttributeError {
        attribute: 1,
        fault: crate::wire::AttributeFault::Value,
        class: crate::wire::ErrorClass::TreatAsWithdraw,
    });
    rib.handle_update(PeerId(1), &update);
    assert!(rib.is_empty());
}

#[test]
fn an_own_route_wins_and_has_no_next_hop() {
    let mut rib = rib(&[PeerKind::Internal, PeerKind::Internal]);
    announce(&mut rib, 1, "10.0.0.0/24", attributes(1, &[]));
    rib.announce(net("10.0.0.0/24"), PathAttributes::default());
    let best = rib.best(&net("10.0.0.0/24")).unwrap();
    assert_eq!((best.source, best.next_hops.len()), (RouteSource::Local, 0));
    assert_eq!(rib.poll_export(PeerId(2), 10).announce[0].0.next_hop, Some(NextHop::V4(ip(254))));
    rib.withdraw(net("10.0.0.0/24"));
    assert_eq!(best_peer(&rib, "10.0.0.0/24"), Some(1));
}

/// As a workload that is on its way to another node.
#[test]
fn an_own_route_with_a_preference_yields_to_what_is_preferred_to_it() {
    let mut rib = rib(&[PeerKind::Internal]);
    let with = |local_pref| PathAttributes { local_pref: Some(local_pref), ..attributes(1, &[]) };
    let own = |local_pref| PathAttributes { local_pref, ..PathAttributes::default() };
    for (own, learned, best) in [
        (own(Some(1000)), 999, 0),
        (own(Some(1000)), 1000, 0),
        (own(Some(1000)), 1001, 1),
        (own(None), 1001, 0),
    ] {
        rib.announce(net("10.0.0.1/32"), own.clone());
        announce(&mut rib, 1, "10.0.0.1/32", with(learned));
        assert_eq!(best_peer(&rib, "10.0.0.1/32"), Some(best), "{own:?} {learned}");
        let step = if best == 1 { Decision::LocalPref } else { Decision::Local };
        let view = rib.route(&net("10.0.0.1/32")).unwrap();
        assert_eq!(view.paths[0].decided_by, step);
        withdraw(&mut rib, 1, "10.0.0.1/32");
        assert_eq!(best_peer(&rib, "10.0.0.1/32"), Some(0));
    }
}

#[test]
fn long_lived_stale_routes_are_a_last_resort() {
    use PeerKind::Internal;
    let mut rib = rib(&[Internal, Internal, PeerKind::Client, PeerKind::Client]);
    let up = |rib: &mut Rib, n: u8, long_lived: bool| {
        let traits = SessionTraits { long_lived, ..Default::default() };
        let facts = PeerFacts { traits, ..facts(n, PeerKind::Client) };
        rib.peer_up(PeerId(n.into()), facts, vec![V4]);
    };
    up(&mut rib, 3, true);
    let no_llgr =
        PathAttributes { communities: vec![Community::NO_LLGR], ..attributes(1, &[65001]) };
    announce(&mut rib, 1, "10.1.0.0/16", attributes(1, &[65001]));
    announce(&mut rib, 1, "10.2.0.0/16", no_llgr);
    let worse = PathAttributes { local_pref: Some(1), ..attributes(2, &[65001, 65001, 65001]) };
    announce(&mut rib, 2, "10.1.0.0/16", worse);
    announce(&mut rib, 1, "10.3.0.0/16", attributes(1, &[65001]));
    rib.peer_down(PeerId(1), &[V4]);
    let hops = |rib: &Rib, prefix| rib.best(&net(prefix)).map(|b| b.next_hops);
    assert_eq!(hops(&rib, "10.1.0.0/16"), Some(vec![ip(1).into()]), "stale, but as good as ever");
    rib.keep_long_lived(PeerId(1), V4);
    assert_eq!(hops(&rib, "10.1.0.0/16"), Some(vec![ip(2).into()]), "anything alive is better");
    assert_eq!(hops(&rib, "10.2.0.0/16"), None, "it did not want to be kept");
    assert_eq!(hops(&rib, "10.3.0.0/16"), Some(vec![ip(1).into()]), "better than none");
    let view = rib.route(&net("10.1.0.0/16")).unwrap();
    assert_eq!(view.paths[1].decided_by, Decision::LastResort);
    let heard = |rib: &mut Rib, n: u32| {
        let batch = rib.poll_export(PeerId(n), 100);
        let of = batch.announce.iter().find(|(_, p)| p.contains(&net("10.3.0.0/16")));
        of.map(|(a, _)| a.communities.clone())
    };
    assert_eq!(heard(&mut rib, 3), Some(vec![Community::LLGR_STALE]));
    assert_eq!(heard(&mut rib, 4), None, "it would take the route for a good one");
    rib.sweep_stale(PeerId(1), V4);
    assert_eq!(hops(&rib, "10.3.0.0/16"), None);
}

#[test]
fn a_peer_that_tells_all_anew_loses_what_it_does_not_repeat() {
    let mut rib = rib(&[PeerKind::Internal]);
    for prefix in ["10.1.0.0/16", "10.2.0.0/16"] {
        announce(&mut rib, 1, prefix, attributes(1, &[]));
    }
    rib.mark_stale(PeerId(1), V4);
    announce(&mut rib, 1, "10.2.0.0/16", attributes(1, &[]));
    assert_eq!(rib.len(), 2, "nothing is missing in between");
    rib.sweep_stale(PeerId(1), V4);
    assert!(rib.best(&net("10.1.0.0/16")).is_none());
    assert!(rib.best(&net("10.2.0.0/16")).is_some());
}

#[test]
fn an_ipv6_next_hop_of_an_ipv4_route_goes_only_to_those_who_read_it() {
    let mut rib = rib(&[PeerKind::Client, PeerKind::Client]);
    let v6 = "fd00::9".parse().unwrap();
    let route = PathAttributes { next_hop: Some(NextHop::V6(v6)), ..Default::default() };
    rib.announce(net("10.0.0.0/8"), route);
    let hop = |rib: &mut Rib, extended_next_hop| {
        let traits = SessionTraits { extended_next_hop, ..Default::default() };
        let facts = PeerFacts { traits, ..facts(1, PeerKind::Client) };
        rib.peer_up(PeerId(1), facts, vec![V4]);
        rib.poll_export(PeerId(1), 10).announce[0].0.next_hop.unwrap().address()
    };
    assert_eq!(hop(&mut rib, true), IpAddr::from(v6));
    assert_eq!(hop(&mut rib, false), IpAddr::from(ip(254)));
}
