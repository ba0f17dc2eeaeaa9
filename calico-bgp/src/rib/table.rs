//! The table itself, its peers and this speaker's own routes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::adj_out::AdjRibOut;
use super::export::is_routable;
use super::path::Path;
use super::{
    AsRules, AttributeStore, NextHopMode, PeerFacts, PeerId, PeerKind, Policy, SessionTraits,
};
use crate::wire::{Family, NextHop, PathAttributes};

/// What the table needs to know of its speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RibConfig {
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Cluster of this route reflector; the BGP identifier if `None` (RFC 4456, section 7).
    pub cluster_id: Option<Ipv4Addr>,
    /// Most next hops of one route.
    pub max_paths: usize,
    /// Paths with AS paths of equal length but other content may share traffic.
    pub multipath_relax: bool,
    /// Next hop for own IPv4 routes on sessions that run over IPv6.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Next hop for own IPv6 routes on sessions that run over IPv4.
    pub next_hop_v6: Option<Ipv6Addr>,
}

impl RibConfig {
    /// A table with up to 16 next hops per route.
    pub const fn new(router_id: Ipv4Addr) -> Self {
        Self {
            router_id,
            cluster_id: None,
            max_paths: 16,
            multipath_relax: true,
            next_hop_v4: None,
            next_hop_v6: None,
        }
    }

    pub(super) fn cluster_id(&self) -> Ipv4Addr {
        self.cluster_id.unwrap_or(self.router_id)
    }
}

/// What may change for a peer without touching its session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerRouting {
    /// Which routes of the peer are used.
    pub import: Policy,
    /// Which routes the peer hears of.
    pub export: Policy,
    /// Which next hop it is told.
    pub next_hop: NextHopMode,
    /// How AS numbers are treated.
    pub as_rules: AsRules,
}

/// All paths to one prefix, the best first.
#[derive(Debug, Default)]
pub(super) struct Destination {
    pub(super) paths: Vec<Path>,
    /// How many of the first paths share the traffic; 0 if none is eligible.
    pub(super) active: u16,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) facts: PeerFacts,
    pub(super) routing: PeerRouting,
    /// Index of the destinations that have a path of this peer.
    pub(super) prefixes: HashSet<IpNet>,
    /// There while the session is up.
    pub(super) out: Option<AdjRibOut>,
}

/// The routing table of a speaker.
#[derive(Debug)]
pub struct Rib {
    pub(super) config: RibConfig,
    pub(super) store: AttributeStore,
    pub(super) table: HashMap<IpNet, Destination>,
    pub(super) peers: HashMap<PeerId, Peer>,
    /// What is known of next hops: metric, or `None` for unreachable. Others have metric 0.
    pub(super) next_hops: HashMap<IpAddr, Option<u32>>,
    pub(super) changed: BTreeSet<IpNet>,
    pub(super) local: PeerFacts,
}

impl Rib {
    /// An empty table.
    pub fn new(config: RibConfig) -> Self {
        let local = PeerFacts {
            kind: PeerKind::Local,
            asn: 0,
            local_as: 0,
            router_id: config.router_id,
            address: IpAddr::V4(config.router_id),
            local_address: None,
            speaker_as: 0,
            traits: SessionTraits::default(),
        };
        Self {
            config,
            store: AttributeStore::default(),
            table: HashMap::new(),
            peers: HashMap::new(),
            next_hops: HashMap::new(),
            changed: BTreeSet::new(),
            local,
        }
    }

    /// Adds a peer whose session is down.
    pub fn add_peer(&mut self, id: PeerId, facts: PeerFacts, routing: PeerRouting) {
        let peer = Peer { facts, routing, prefixes: HashSet::new(), out: None };
        self.peers.insert(id, peer);
    }

    /// Forgets a peer and its routes.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.drop_paths(id, |_, _| true);
        self.peers.remove(&id);
    }

    /// The session is up: everything has to be told to the peer.
    pub fn peer_up(&mut self, id: PeerId, facts: PeerFacts, families: Vec<Family>) {
        let dirty = self
            .table
            .keys()
            .filter(|p| families.contains(&Family::of_prefix(p)))
            .copied()
            .collect();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let moved = peer.facts != facts;
        peer.facts = facts;
        peer.out = Some(AdjRibOut {
            end_of_rib: families.clone(),
            families,
            advertised: HashMap::new(),
            resend: HashSet::new(),
            dirty,
        });
        if moved {
            // Stale paths of the peer may compare differently now.
            let prefixes: Vec<IpNet> = peer.prefixes.iter().copied().collect();
            prefixes.iter().for_each(|p| self.evaluate(p, true));
        }
    }

    /// The session is down. Routes of the families in `keep` stay, marked stale (RFC 4724,
    /// section 4.2); all others go.
    pub fn peer_down(&mut self, id: PeerId, keep: &[Family]) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.out = None;
        // A path that is stale already has not been sent again since the last restart: a peer
        // that restarts twice must not keep it for ever.
        self.drop_paths(id, |prefix, path| {
            path.stale || !keep.contains(&Family::of_prefix(prefix))
        });
        let Some(peer) = self.peers.get(&id) else { return };
        for prefix in &peer.prefixes {
            if let Some(d) = self.table.get_mut(prefix)
                && let Some(path) = d.paths.iter_mut().find(|p| p.source == id)
            {
                path.stale = true;
            }
        }
    }

    /// Drops what is still stale of a peer's family: it came back and said all it had to say, or
    /// it did not come back in time.
    pub fn sweep_stale(&mut self, id: PeerId, family: Family) {
        self.drop_paths(id, |prefix, path| path.stale && Family::of_prefix(prefix) == family);
    }

    /// Applies changed policies to the routes that are there, without touching the session.
    pub fn set_routing(&mut self, id: PeerId, kind: PeerKind, routing: PeerRouting) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.routing == routing && peer.facts.kind == kind {
            return;
        }
        let import_changed = peer.routing.import != routing.import;
        let kind_changed = peer.facts.kind != kind;
        peer.routing = routing;
        peer.facts.kind = kind;
        let prefixes: Vec<IpNet> = peer.prefixes.iter().copied().collect();
        if import_changed {
            for prefix in &prefixes {
                self.import_again(id, prefix);
                self.evaluate(prefix, true);
            }
        }
        if kind_changed {
            // Others may hear of the peer's routes now, or no longer.
            prefixes.iter().for_each(|p| self.evaluate(p, true));
        }
        if let Some(Peer { out: Some(out), .. }) = self.peers.get_mut(&id) {
            let of_family = |p: &&IpNet| out.families.contains(&Family::of_prefix(p));
            out.dirty.extend(self.table.keys().filter(of_family));
            out.dirty.extend(out.advertised.keys());
        }
    }

    /// Announces a route of this speaker. A next hop is filled in on export if there is none.
    ///
    /// Returns `false`, and changes nothing, for prefixes that mean nothing beyond one link.
    pub fn announce(&mut self, prefix: IpNet, attributes: PathAttributes) -> bool {
        let prefix = prefix.trunc();
        if !is_routable(&prefix) {
            return false;
        }
        let attributes = self.store.intern(attributes);
        self.put_path(PeerId::LOCAL, prefix, attributes);
        true
    }

    /// Takes back a route of this speaker. Returns whether it was there.
    pub fn withdraw(&mut self, prefix: IpNet) -> bool {
        self.remove_path(PeerId::LOCAL, &prefix.trunc())
    }

    /// Prefixes that this speaker announces.
    pub fn local_prefixes(&self) -> impl Iterator<Item = &IpNet> {
        let is_local = |d: &Destination| d.paths.iter().any(|p| p.source == PeerId::LOCAL);
        self.table.iter().filter(move |(_, d)| is_local(d)).map(|(p, _)| p)
    }

    /// Tells the metric of the way to a next hop; `None` makes its paths unusable.
    pub fn set_next_hop_metric(&mut self, next_hop: IpAddr, metric: Option<u32>) {
        if self.next_hops.insert(next_hop, metric) == Some(metric) {
            return;
        }
        let uses = |d: &Destination| {
            d.paths.iter().any(|p| p.attributes.next_hop.map(NextHop::address) == Some(next_hop))
        };
        let prefixes: Vec<IpNet> =
            self.table.iter().filter(|(_, d)| uses(d)).map(|(p, _)| *p).collect();
        prefixes.iter().for_each(|p| self.evaluate(p, false));
    }

    /// A prefix whose best route is not what it was; ask [`best`](Self::best) for it.
    pub fn poll_change(&mut self) -> Option<IpNet> {
        self.changed.pop_first()
    }

    /// How many prefixes a peer sent and was sent.
    pub fn counts(&self, id: PeerId) -> (usize, usize) {
        self.peers.get(&id).map_or((0, 0), |p| {
            (p.prefixes.len(), p.out.as_ref().map_or(0, |o| o.advertised.len()))
        })
    }

    /// Destinations in the table.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl Rib {
    pub(super) fn facts(&self, id: PeerId) -> &PeerFacts {
        self.peers.get(&id).map_or(&self.local, |p| &p.facts)
    }

    pub(super) fn remove_path(&mut self, source: PeerId, prefix: &IpNet) -> bool {
        let Some(destination) = self.table.get_mut(prefix) else { return false };
        let Some(at) = destination.paths.iter().position(|p| p.source == source) else {
            return false;
        };
        let active = at < usize::from(destination.active);
        destination.paths.remove(at);
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.prefixes.remove(prefix);
        }
        if active {
            self.evaluate(prefix, true);
        } else if destination_is_empty(&self.table, prefix) {
            self.table.remove(prefix);
        }
        true
    }

    pub(super) fn drop_paths(&mut self, id: PeerId, gone: impl Fn(&IpNet, &Path) -> bool) {
        let Some(peer) = self.peers.get(&id) else { return };
        let doomed: Vec<IpNet> = peer
            .prefixes
            .iter()
            .filter(|prefix| {
                let path =
                    self.table.get(prefix).and_then(|d| d.paths.iter().find(|p| p.source == id));
                path.is_some_and(|path| gone(prefix, path))
            })
            .copied()
            .collect();
        for prefix in doomed {
            self.remove_path(id, &prefix);
        }
    }
}

fn destination_is_empty(table: &HashMap<IpNet, Destination>, prefix: &IpNet) -> bool {
    table.get(prefix).is_some_and(|d| d.paths.is_empty())
}
