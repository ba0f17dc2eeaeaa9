//! What a path looks like to a peer, or why the peer does not hear of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use super::decision::DEFAULT_LOCAL_PREF;
use super::path::Path;
use super::profile::Profile;
use super::{
    AsRules, PeerFacts, PeerId, PeerKind, PeerRouting, PolicyRoute, Rib, RibConfig, Verdict, leaks,
    long_lived,
};
use crate::wire::{Community, Family, NextHop, PathAttributes, UnknownAttribute};

/// Which next hop a peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NextHopMode {
    /// This speaker to external peers and for its own routes, the received one to internal peers
    /// (RFC 4271, section 5.1.3).
    #[default]
    Auto,
    /// Like `Auto`, but a received next hop on this subnet is told to external peers as it is: they
    /// are on the subnet, too, and need no detour over this speaker (RFC 4271, section 5.1.3,
    /// "third party").
    AutoOnSubnet(IpNet),
    /// Always this speaker, except for reflected routes (RFC 4456, section 10).
    OwnAddress,
    /// Always this speaker, of reflected routes as well (BIRD's `next hop self`).
    OwnAddressAlways,
    /// The received one, also to external peers.
    Keep,
}

/// Why a peer does not hear of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotExported {
    /// Its session is not up.
    SessionDown,
    /// The session does not carry the family.
    Family,
    /// No path can be used: rejected on import, or without a reachable next hop.
    NoBestPath,
    /// It told the route itself.
    SplitHorizon,
    /// Both are internal peers and neither is a client (RFC 4456, section 6).
    NotReflected,
    /// The route carries NO_ADVERTISE (RFC 1997).
    NoAdvertise,
    /// The route carries NO_EXPORT or NO_EXPORT_SUBCONFED, and the peer is external (RFC 1997).
    NoExport,
    /// The route is only kept as a last resort, and the peer does not know what that is
    /// (RFC 9494, section 4.6).
    LongLivedStale,
    /// The route was told to customers only (RFC 9234, section 5).
    OnlyToCustomer,
    /// This side has no next hop of the family to tell the peer.
    NoNextHop,
    /// The export policy rejects it.
    Policy,
}

impl fmt::Display for NotExported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SessionDown => "session is down",
            Self::Family => "session does not carry the address family",
            Self::NoBestPath => "no path is usable",
            Self::SplitHorizon => "the peer told the route itself",
            Self::NotReflected => "not reflected between two internal peers that are no clients",
            Self::NoAdvertise => "community no-advertise",
            Self::NoExport => "community no-export",
            Self::LongLivedStale => "long-lived stale, and the peer does not know what that is",
            Self::OnlyToCustomer => "meant only for customers (role)",
            Self::NoNextHop => "no next hop of the address family to tell the peer",
            Self::Policy => "rejected by the export policy",
        })
    }
}

/// Number of a set of attributes, its source, and whether the destination is an IPv4 one.
type Known = (u32, PeerId, bool);

/// Exports for one group, with a memory of the sets of attributes it has made.
#[derive(Debug, Default)]
pub(super) struct Exporter {
    /// What became of a set of attributes from a source.
    sent: HashMap<Known, Result<Arc<PathAttributes>, NotExported>>,
    /// Sets that the policy made.
    changed: HashSet<Arc<PathAttributes>>,
    last: Option<(Known, Result<Arc<PathAttributes>, NotExported>)>,
}

impl Exporter {
    /// What peers with a profile hear of a path; equal sets are one.
    pub(super) fn export(
        &mut self,
        rib: &Rib,
        to: &Profile,
        prefix: &IpNet,
        path: &Path,
    ) -> Result<Arc<PathAttributes>, NotExported> {
        let family = Family::of_prefix(prefix);
        if !to.families.contains(&family) {
            return Err(NotExported::Family);
        }
        let source = rib.peer_of(path);
        let from = rib.facts(source);
        let key = (path.serial(), source, family == Family::IPV4_UNICAST);
        let sent = match &self.last {
            Some((last, sent)) if *last == key => sent.clone(),
            _ => {
                let make = || {
                    let (facts, attributes) = (&to.facts, &path.attributes);
                    export_attributes(&rib.config, &to.routing, from, facts, family, attributes)
                };
                let sent = self.sent.entry(key).or_insert_with(|| make().map(Arc::new)).clone();
                self.last = Some((key, sent.clone()));
                sent
            }
        }?;
        if to.routing.export.accepts_all() {
            return Ok(sent);
        }
        let (to_facts, local_pref) = (Some(&to.facts), path.attributes.local_pref);
        let route = PolicyRoute { prefix, attributes: &sent, from, to: to_facts, local_pref };
        match to.routing.export.evaluate(&route) {
            Verdict::Accept => Ok(sent),
            Verdict::Reject => Err(NotExported::Policy),
            Verdict::Modify(changed) => {
                let changed = Arc::new(*changed);
                Ok(Arc::clone(self.changed.get_or_insert_with(&changed, Arc::clone)))
            }
        }
    }
}

/// Whether a path from one peer may go to another at all.
fn may_export(
    from: &PeerFacts,
    to: &PeerFacts,
    attributes: &PathAttributes,
) -> Result<(), NotExported> {
    // RFC 4456, section 6: between internal peers only from or to a client.
    if from.kind == PeerKind::Internal && to.kind == PeerKind::Internal {
        return Err(NotExported::NotReflected);
    }
    if attributes.has_community(Community::NO_ADVERTISE) {
        return Err(NotExported::NoAdvertise);
    }
    if !long_lived::may_send(to, attributes) {
        return Err(NotExported::LongLivedStale);
    }
    let stays_inside = attributes.has_community(Community::NO_EXPORT)
        || attributes.has_community(Community::NO_EXPORT_SUBCONFED);
    if to.kind == PeerKind::External && stays_inside {
        return Err(NotExported::NoExport);
    }
    Ok(())
}

/// The attributes to send, or why the route does not go.
pub(super) fn export_attributes(
    config: &RibConfig,
    routing: &PeerRouting,
    from: &PeerFacts,
    to: &PeerFacts,
    family: Family,
    attributes: &PathAttributes,
) -> Result<PathAttributes, NotExported> {
    may_export(from, to, attributes)?;
    let mut out = attributes.clone();
    let reflected = from.kind.is_internal() && to.kind.is_internal();
    let own = match routing.next_hop {
        NextHopMode::Auto => to.kind == PeerKind::External,
        NextHopMode::AutoOnSubnet(subnet) => {
            let received = out.next_hop.map(NextHop::address);
            // A peer is never told of its own address.
            let shared = |hop: IpAddr| subnet.contains(&hop) && hop != to.address;
            to.kind == PeerKind::External && !received.is_some_and(shared)
        }
        NextHopMode::OwnAddress => !reflected,
        NextHopMode::OwnAddressAlways => true,
        NextHopMode::Keep => false,
    };
    let foreign = family == Family::IPV4_UNICAST
        && matches!(out.next_hop, Some(hop) if !hop.address().is_ipv4());
    // RFC 8950, section 4: an IPv6 next hop is only for those who understand it.
    let unreadable = foreign && !to.traits.extended_next_hop;
    if own || unreadable || out.next_hop.is_none() {
        let own = own_next_hop(config, to, family).ok_or(NotExported::NoNextHop)?;
        out.next_hop = Some(own);
    }
    if let Some(NextHop::V6LinkLocal(global, _)) = out.next_hop {
        // A link-local address means nothing beyond the link it was heard on.
        out.next_hop = Some(NextHop::V6(global));
    }
    out.unknown =
        out.unknown.iter().filter(|a| a.is_transitive()).map(UnknownAttribute::passed_on).collect();
    match to.kind {
        PeerKind::External => {
            leave_the_as(&mut out, routing, from, to);
            if !leaks::send(to, &mut out) {
                return Err(NotExported::OnlyToCustomer);
            }
        }
        _ => {
            out.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
        }
    }
    if reflected {
        out.originator_id.get_or_insert(from.router_id);
        let cluster = |peer: &PeerFacts| peer.cluster_id.unwrap_or_else(|| config.cluster_id());
        let (far, near) = (cluster(from), cluster(to));
        out.cluster_list.insert(0, far);
        if near != far {
            out.cluster_list.insert(0, near);
        }
    }
    if routing.graceful_shutdown {
        // RFC 8326, section 4: external peers find out by the community, internal ones by the
        // preference.
        if !out.has_community(Community::GRACEFUL_SHUTDOWN) {
            out.communities.push(Community::GRACEFUL_SHUTDOWN);
        }
        out.local_pref = out.local_pref.map(|_| 0);
    }
    Ok(out)
}

/// RFC 4271, sections 5.1.2, 5.1.4, 5.1.5.
fn leave_the_as(out: &mut PathAttributes, routing: &PeerRouting, from: &PeerFacts, to: &PeerFacts) {
    out.as_path = routing.as_rules.leave(&out.as_path, to);
    out.local_pref = None;
    out.originator_id = None;
    out.cluster_list.clear();
    out.extended_communities.retain(|c| c.is_transitive());
    if from.kind != PeerKind::Local {
        out.med = None;
    }
}

fn own_next_hop(config: &RibConfig, to: &PeerFacts, family: Family) -> Option<NextHop> {
    let configured = match family {
        Family::IPV4_UNICAST => config.next_hop_v4.map(IpAddr::V4),
        _ => config.next_hop_v6.map(IpAddr::V6),
    };
    let session = to.local_address.filter(|a| Family::of_address(*a) == family);
    // RFC 8950: IPv4 routes over an IPv6 session, from a node that may have no IPv4 address.
    let extended = to.local_address.filter(|a| a.is_ipv6() && to.traits.extended_next_hop);
    session.or(configured).or(extended).map(NextHop::from)
}

/// Whether a received path has been here before, or leads back to this speaker.
pub(super) fn is_loop(
    config: &RibConfig,
    clusters: &[Ipv4Addr],
    rules: &AsRules,
    from: &PeerFacts,
    attributes: &PathAttributes,
) -> bool {
    let own_id: Ipv4Addr = config.router_id;
    rules.is_loop(from, attributes)
        || attributes.originator_id == Some(own_id)
        || attributes.cluster_list.iter().any(|id| clusters.contains(id))
        || attributes.next_hop.is_some_and(|hop| Some(hop.address()) == from.local_address)
}

/// Whether this speaker may hand out a prefix at all: not what has meaning on one link only.
pub(super) fn is_routable(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => {
            let a = net.addr();
            net.prefix_len() == 0 || !(a.is_loopback() || a.is_multicast() || a.is_link_local())
        }
        IpNet::V6(net) => {
            let a = net.addr();
            net.prefix_len() == 0
                || !(a.is_loopback() || a.is_multicast() || a.is_unicast_link_local())
        }
    }
}
