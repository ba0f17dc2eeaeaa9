//! Adj-RIB-In and Adj-RIB-Out of a peer, and why a peer hears of a route or does not: for
//! operators, not for forwarding.

use std::sync::Arc;

use ipnet::IpNet;

use super::destinations::{Destination, Slot};
use super::export::Exporter;
use super::path::Path;
use super::profile::Profile;
use super::source::SourceId;
use super::{Decision, NotExported, PeerId, Rib, RouteView};
use crate::wire::PathAttributes;

/// A route that a peer told, as it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRoute {
    /// The destination.
    pub prefix: IpNet,
    /// The peer's identifier of the path (RFC 7911); 0 without ADD-PATH.
    pub path_id: u32,
    /// The attributes as received.
    pub received: Arc<PathAttributes>,
    /// The attributes after import policy; `None` if it rejects the route.
    pub accepted: Option<Arc<PathAttributes>>,
    /// It is the best path to the destination.
    pub best: bool,
    /// It is left over from before a restart of the peer (RFC 4724).
    pub stale: bool,
    /// The step that put it behind the best path, or the runner-up behind it.
    pub decided_by: Decision,
}

/// A route that a peer was told and has not been told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertisedRoute {
    /// The destination.
    pub prefix: IpNet,
    /// This side's identifier of the path (RFC 7911); 0 without ADD-PATH.
    pub path_id: u32,
    /// The attributes as sent.
    pub attributes: Arc<PathAttributes>,
}

/// What becomes of the best path to a destination at one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerVerdict {
    /// The peer.
    pub peer: PeerId,
    /// The attributes that it hears, or why it hears nothing.
    pub verdict: Result<Arc<PathAttributes>, NotExported>,
    /// A change of the destination still waits to be written for the peer.
    pub pending: bool,
}

/// A destination: all its paths with the steps that decided, and who hears of the best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The paths, best first.
    pub route: RouteView,
    /// What every peer hears, by number.
    pub peers: Vec<PeerVerdict>,
}

impl Rib {
    /// What a peer told and is still held, in no order: its Adj-RIB-In. Routes that led in a
    /// circle or had no usable next hop are not held.
    pub fn received(&self, id: PeerId) -> Vec<ReceivedRoute> {
        let of_slot = |slot| {
            let view = self.view(self.table.get(slot));
            let prefix = view.prefix;
            view.paths.into_iter().filter(move |p| p.source.id() == id).map(move |path| {
                ReceivedRoute {
                    prefix,
                    path_id: path.path_id,
                    received: path.received,
                    accepted: path.accepted.then_some(path.attributes),
                    best: path.best,
                    stale: path.stale,
                    decided_by: path.decided_by,
                }
            })
        };
        self.slots_of(id).into_iter().flat_map(of_slot).collect()
    }

    /// What a peer was told and is still so, in no order: its Adj-RIB-Out. What has changed since
    /// and waits to be written is left out.
    pub fn advertised(&self, id: PeerId) -> Vec<AdvertisedRoute> {
        let Some(group) = self.group_of(id).and_then(|gid| self.groups.get(&gid)) else {
            return Vec::new();
        };
        let mut exporter = Exporter::default();
        let one = group.told.slots_for(id).map(|slot| (slot, None));
        let several = group.told.paths_for(id).map(|(slot, source)| (slot, Some(source)));
        let settled = |slot: &Slot| !self.table.is_pending(*slot, group.position);
        one.chain(several)
            .filter(|(slot, _)| settled(slot))
            .filter_map(|(slot, source)| {
                let Destination { prefix, paths, .. } = self.table.get(slot);
                let path = match source {
                    None => paths.first()?,
                    Some(source) => paths.iter().find(|p| p.source == source)?,
                };
                let attributes = exporter.export(self, &group.profile, prefix, path).ok()?;
                let path_id = source.map_or(0, SourceId::path_id);
                Some(AdvertisedRoute { prefix: *prefix, path_id, attributes })
            })
            .collect()
    }

    /// One destination with the reasons for everything; `None` if there is no path to it.
    pub fn explain(&self, prefix: &IpNet) -> Option<Explanation> {
        let slot = self.table.find(prefix)?;
        let route = self.route(prefix)?;
        let destination = self.table.get(slot);
        let best = destination.paths.first().filter(|_| destination.active() > 0);
        let mut peers: Vec<PeerVerdict> = self
            .peers
            .keys()
            .map(|&peer| {
                let verdict = best
                    .ok_or(NotExported::NoBestPath)
                    .and_then(|best| self.verdict(peer, prefix, best));
                let group = self.group_of(peer).and_then(|gid| self.groups.get(&gid));
                let pending = group.is_some_and(|g| self.is_pending(g, slot));
                PeerVerdict { peer, verdict, pending }
            })
            .collect();
        peers.sort_by_key(|p| p.peer);
        Some(Explanation { route, peers })
    }

    fn verdict(
        &self,
        peer: PeerId,
        prefix: &IpNet,
        path: &Path,
    ) -> Result<Arc<PathAttributes>, NotExported> {
        let group = self.group_of(peer).and_then(|gid| self.groups.get(&gid));
        let group = group.ok_or(NotExported::SessionDown)?;
        if self.peer_of(path) == peer {
            return Err(NotExported::SplitHorizon);
        }
        // The profile of the group may be that of another member that is told the same; what
        // the policy sees is this one.
        let facts = self.facts(peer).clone();
        let profile = Profile { facts, ..group.profile.clone() };
        Exporter::default().export(self, &profile, prefix, path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{announce, attributes, ip, net, rib};
    use super::super::{PeerKind, PeerRouting, Policy, PrefixList, PrefixRule};
    use super::*;
    use crate::wire::Community;

    fn only(prefix: &str) -> Policy {
        Policy::Prefixes(Arc::new(PrefixList { rules: vec![PrefixRule::exact(net(prefix))] }))
    }

    #[test]
    fn received_and_advertised_routes_of_a_peer() {
        let mut rib = rib(&[PeerKind::Client, PeerKind::Client]);
        let routing = PeerRouting { import: only("10.1.0.0/16"), ..Default::default() };
        rib.set_routing(PeerId(1), PeerKind::Client, routing);
        announce(&mut rib, 1, "10.1.0.0/16", attributes(1, &[7]));
        announce(&mut rib, 1, "10.2.0.0/16", attributes(1, &[7]));
        let mut received = rib.received(PeerId(1));
        received.sort_by_key(|r| r.prefix);
        let seen: Vec<_> = received.iter().map(|r| (r.accepted.is_some(), r.best)).collect();
        assert_eq!(seen, [(true, true), (false, false)], "a rejected route is kept and shown");
        assert!(rib.received(PeerId(2)).is_empty());
        assert!(rib.advertised(PeerId(2)).is_empty(), "nothing has been written yet");
        rib.poll_export(PeerId(2), 10);
        let advertised = rib.advertised(PeerId(2));
        assert_eq!(advertised.len(), 1);
        assert_eq!(advertised[0].attributes.cluster_list, [ip(254)]);
        assert!(rib.advertised(PeerId(1)).is_empty());
    }

    #[test]
    fn explanations_say_who_hears_and_why_others_do_not() {
        use PeerKind::{Client, External, Internal};
        let mut rib = rib(&[Internal, Internal, External, Client, Client]);
        let routing = PeerRouting { export: only("10.9.0.0/16"), ..Default::default() };
        rib.set_routing(PeerId(5), Client, routing);
        let mut route = attributes(1, &[7]);
        route.communities.push(Community::NO_EXPORT);
        announce(&mut rib, 1, "10.1.0.0/16", route);
        let explained = rib.explain(&net("10.1.0.0/16")).unwrap();
        assert_eq!(explained.route.paths[0].decided_by, Decision::OnlyPath);
        let verdicts: Vec<_> =
            explained.peers.iter().map(|p| p.verdict.as_ref().err().copied()).collect();
        let expected = [
            Some(NotExported::SplitHorizon),
            Some(NotExported::NotReflected),
            Some(NotExported::NoExport),
            None,
            Some(NotExported::Policy),
        ];
        assert_eq!(verdicts, expected);
        assert!(explained.peers[3].pending);
        rib.poll_export(PeerId(4), 10);
        rib.peer_down(PeerId(2), &[]);
        let explained = rib.explain(&net("10.1.0.0/16")).unwrap();
        assert!(!explained.peers[3].pending);
        assert_eq!(explained.peers[1].verdict, Err(NotExported::SessionDown));
        assert!(rib.explain(&net("10.2.0.0/16")).is_none());
    }

    #[test]
    fn addresses_take_the_longest_prefix_that_is_usable() {
        let mut rib = rib(&[PeerKind::Client]);
        let check = |rib: &Rib, address: &str, expected: Option<&str>| {
            let found = rib.lookup(address.parse().unwrap()).map(|r| r.prefix);
            assert_eq!(found, expected.map(net), "{address}");
        };
        for prefix in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.1/32"] {
            announce(&mut rib, 1, prefix, attributes(1, &[7]));
        }
        check(&rib, "10.1.1.1", Some("10.1.1.1/32"));
        check(&rib, "10.1.2.1", Some("10.1.0.0/16"));
        check(&rib, "192.0.2.1", Some("0.0.0.0/0"));
        check(&rib, "2001:db8::1", None);
        let routing = PeerRouting { import: only("10.0.0.0/8"), ..Default::default() };
        rib.set_routing(PeerId(1), PeerKind::Client, routing);
        check(&rib, "10.1.1.1", Some("10.0.0.0/8"));
        assert_eq!(rib.routes_within(net("10.1.0.0/16")).count(), 2);
    }
}
