//! Reports for people: a large table in pages, and which rule of a policy rejects a route.

use ipnet::IpNet;

use super::export::export_attributes;
use super::{PeerId, PolicyReason, PolicyRoute, Rib, RouteView, Verdict};
use crate::wire::Family;

/// Which rules keep a route from being used or told; see
/// [`Explanation`](super::Explanation) for all other reasons.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rejections {
    /// For each path, in the order of [`RouteView::paths`]: the rule of the import policy, if
    /// that rejects it.
    pub paths: Vec<Option<PolicyReason>>,
    /// Peers whose export policies reject the best path, and the rules.
    pub peers: Vec<(PeerId, PolicyReason)>,
}

impl Rib {
    /// How many destinations have a path.
    pub fn destinations(&self) -> usize {
        self.table.occupied().count()
    }

    /// Some destinations with all their paths, from a place in the table on (0 is the first): at
    /// most `limit`, and the place where the next ones are, if there are more. Destinations that
    /// come and go between two calls may be missed; the others come once.
    pub fn page(&self, from: u32, limit: usize) -> (Vec<RouteView>, Option<u32>) {
        let mut routes = Vec::new();
        for slot in from..self.table.slots() {
            if routes.len() >= limit.max(1) {
                return (routes, Some(slot));
            }
            routes.extend(self.route(&self.table.get(slot).prefix));
        }
        (routes, None)
    }

    /// Which rules of policies reject a destination's paths.
    pub fn rejections(&self, prefix: &IpNet) -> Rejections {
        let Some(slot) = self.table.find(prefix) else { return Rejections::default() };
        let destination = self.table.get(slot);
        let import = |path: &super::path::Path| {
            let peer = self.peers.get(&self.peer_of(path)).filter(|_| !path.accepted())?;
            let (from, attributes) = (&peer.facts, &*path.received);
            let route = PolicyRoute { prefix, attributes, from, to: None, local_pref: None };
            Some(peer.routing.import.reason(&route))
        };
        let paths = destination.paths.iter().map(import).collect();
        let family = Family::of_prefix(prefix);
        let Some(best) = destination.paths.first().filter(|_| destination.active() > 0) else {
            return Rejections { paths, peers: Vec::new() };
        };
        let from = self.facts(self.peer_of(best));
        let export = |(id, peer): (&PeerId, &super::table::Peer)| {
            let (to, routing) = (&peer.facts, &peer.routing);
            let sent = export_attributes(&self.config, routing, from, to, family, &best.attributes)
                .ok()?;
            let route = PolicyRoute {
                prefix,
                attributes: &sent,
                from,
                to: Some(to),
                local_pref: best.attributes.local_pref,
            };
            let rejected = routing.export.evaluate(&route) == Verdict::Reject;
            rejected.then(|| (*id, routing.export.reason(&route)))
        };
        let mut peers: Vec<_> = self.peers.iter().filter_map(export).collect();
        peers.sort_unstable_by_key(|(id, _)| *id);
        Rejections { paths, peers }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{announce, attributes, net, rib, withdraw};
    use super::super::{PeerKind, PeerRouting, Policy};
    use super::*;
    use crate::filter::{Action, Condition, Filter, PrefixMatch, Rule};

    #[test]
    fn the_rule_that_rejects_is_named() {
        let mut rib = rib(&[PeerKind::Client; 3]);
        let condition = Condition::Prefix(PrefixMatch::within(net("10.0.0.0/8")));
        let rules = vec![
            Rule { conditions: vec![Condition::LocalPref(7)], action: Action::Reject },
            Rule { conditions: vec![condition], action: Action::Reject },
        ];
        let labels = vec!["odd".into(), "no tens".into()];
        let policy = Policy::Filter(Filter { rules, labels, ..Filter::default() }.into());
        let import = PeerRouting { import: policy.clone(), ..PeerRouting::default() };
        let export = PeerRouting { export: policy, ..PeerRouting::default() };
        rib.set_routing(PeerId(1), PeerKind::Client, import);
        rib.set_routing(PeerId(3), PeerKind::Client, export);
        announce(&mut rib, 1, "10.0.0.0/24", attributes(1, &[]));
        announce(&mut rib, 2, "10.0.0.0/24", attributes(2, &[]));
        let no_tens = PolicyReason { rule: Some(1), label: Some("no tens".into()) };
        let found = rib.rejections(&net("10.0.0.0/24"));
        assert_eq!(found.paths, [None, Some(no_tens.clone())], "the best path is the first");
        assert_eq!(found.peers, [(PeerId(3), no_tens)]);
        assert_eq!(rib.rejections(&net("10.9.0.0/24")), Rejections::default());
    }

    #[test]
    fn pages_cover_the_table() {
        let mut rib = rib(&[PeerKind::Client; 2]);
        for n in 0..5 {
            announce(&mut rib, 1, &format!("10.0.{n}.0/24"), attributes(1, &[]));
        }
        withdraw(&mut rib, 1, "10.0.2.0/24");
        let (first, next) = rib.page(0, 3);
        let (second, end) = rib.page(next.unwrap(), 3);
        assert_eq!((first.len(), second.len(), end), (3, 1, None));
    }
}
