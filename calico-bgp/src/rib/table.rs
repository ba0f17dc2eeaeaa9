//! The table itself, its peers and this speaker's own routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use ipnet::IpNet;

use super::adj_in::Sent;
use super::adj_out::{Group, GroupId, Listening};
use super::destinations::{Destinations, Position, Slot};
use super::export::is_routable;
use super::path::Path;
use super::source::{SourceId, Sources};
use super::{
    AddPathFamily, AsRules, AttributeStore, NextHopMode, PeerFacts, PeerId, PeerKind, Policy,
    SessionTraits,
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
    /// Cluster of the peer, if not that of the speaker (RFC 4456, section 7).
    pub cluster_id: Option<Ipv4Addr>,
    /// What is sent says that it will soon be gone (RFC 8326).
    pub graceful_shutdown: bool,
    /// What an external peer says will soon be gone is only used if there is nothing else
    /// (RFC 8326).
    pub honor_graceful_shutdown: bool,
    /// Where several paths to a destination are exchanged, if that was agreed (RFC 7911).
    pub add_path: Vec<AddPathFamily>,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) facts: PeerFacts,
    pub(super) routing: PeerRouting,
    /// The destinations that have a path of this peer.
    pub(super) sent: Sent,
    /// Paths that were more than its limit for one destination, and were left out.
    pub(super) left_out: u64,
    /// There while the session is up.
    pub(super) out: Option<Listening>,
}

/// The routing table of a speaker.
#[derive(Debug)]
pub struct Rib {
    pub(super) config: RibConfig,
    pub(super) store: AttributeStore,
    pub(super) table: Destinations,
    pub(super) sources: Sources,
    pub(super) peers: HashMap<PeerId, Peer>,
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) next_group: GroupId,
    /// What is known of next hops: metric, or `None` for unreachable. Others have metric 0.
    pub(super) next_hops: HashMap<IpAddr, Option<u32>>,
    /// How far [`poll_change`](Self::poll_change) is, if anybody asks it.
    pub(super) follower: Option<Position>,
    pub(super) local: PeerFacts,
    /// Clusters of this reflector: that of the speaker and those of peers.
    pub(super) clusters: Vec<Ipv4Addr>,
    /// Some peer is told more than the best paths, so all changes matter.
    pub(super) several: bool,
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
            cluster_id: None,
            traits: SessionTraits::default(),
        };
        let table = Destinations::default();
        Self {
            clusters: vec![config.cluster_id()],
            config,
            store: AttributeStore::default(),
            peers: HashMap::new(),
            groups: BTreeMap::new(),
            next_group: 0,
            next_hops: HashMap::new(),
            follower: Some(table.end()),
            table,
            sources: Sources::default(),
            local,
            several: false,
        }
    }

    /// Adds a peer whose session is down.
    pub fn add_peer(&mut self, id: PeerId, facts: PeerFacts, routing: PeerRouting) {
        let peer = Peer { facts, routing, sent: Sent::default(), left_out: 0, out: None };
        self.peers.insert(id, peer);
        self.note_clusters();
    }

    /// Forgets a peer and its routes.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.drop_paths(id, |_, _| true);
        self.stop_listening(id);
        self.peers.remove(&id);
        self.note_clusters();
    }

    /// The session is up: everything has to be told to the peer.
    pub fn peer_up(&mut self, id: PeerId, facts: PeerFacts, families: Vec<Family>) {
        self.stop_listening(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let moved = peer.facts != facts;
        peer.facts = facts;
        if moved {
            // Stale paths of the peer may compare differently now.
            self.renew_paths(id);
        }
        self.start_listening(id, families);
    }

    /// The session is down. Routes of the families in `keep` stay, marked stale (RFC 4724,
    /// section 4.2); all others go.
    pub fn peer_down(&mut self, id: PeerId, keep: &[Family]) {
        self.stop_listening(id);
        // A path that is stale already has not been sent again since the last restart: a peer
        // that restarts twice must not keep it for ever.
        self.drop_paths(id, |prefix, path| {
            path.stale() || !keep.contains(&Family::of_prefix(prefix))
        });
        for slot in self.slots_of(id) {
            self.mark_stale_at(id, slot);
        }
    }

    /// Drops what is still stale of a peer's family: it came back and said all it had to say, or
    /// it did not come back in time.
    pub fn sweep_stale(&mut self, id: PeerId, family: Family) {
        self.drop_paths(id, |prefix, path| path.stale() && Family::of_prefix(prefix) == family);
    }

    /// Applies changed policies to the routes that are there, without touching the session.
    pub fn set_routing(&mut self, id: PeerId, kind: PeerKind, routing: PeerRouting) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.routing == routing && peer.facts.kind == kind {
            return;
        }
        let import_changed = peer.routing.import != routing.import;
        let place = |facts: &PeerFacts| (facts.kind, facts.cluster_id);
        let kind_changed = place(&peer.facts) != (kind, routing.cluster_id);
        let before = (peer.facts.clone(), std::mem::replace(&mut peer.routing, routing));
        peer.facts.kind = kind;
        peer.facts.cluster_id = peer.routing.cluster_id;
        self.note_clusters();
        if import_changed {
            for slot in self.slots_of(id) {
                self.import_again(id, slot, |path| Some(PathAttributes::clone(&path.received)));
            }
        }
        if kind_changed {
            // Others may hear of the peer's routes now, or no longer.
            self.renew_paths(id);
        }
        self.listen_anew(id, before);
    }

    /// Announces a route of this speaker. A next hop is filled in on export if there is none.
    ///
    /// Returns `false`, and changes nothing, for prefixes that mean nothing beyond one link.
    pub fn announce(&mut self, prefix: IpNet, attributes: PathAttributes) -> bool {
        let prefix = prefix.trunc();
        if !is_routable(&prefix) {
            return false;
        }
        let attributes = self.store.numbered(attributes);
        self.put_path(PeerId::LOCAL, 0, prefix, &attributes);
        true
    }

    /// Takes back a route of this speaker. Returns whether it was there.
    pub fn withdraw(&mut self, prefix: IpNet) -> bool {
        self.remove_path(PeerId::LOCAL, 0, &prefix.trunc())
    }

    /// Prefixes that this speaker announces.
    pub fn local_prefixes(&self) -> impl Iterator<Item = &IpNet> {
        let is_local =
            |slot: &Slot| self.table.get(*slot).paths.iter().any(|p| p.source == SourceId::LOCAL);
        let local = self.table.occupied().filter(is_local);
        local.map(|slot| &self.table.get(slot).prefix)
    }

    /// Tells the metric of the way to a next hop; `None` makes its paths unusable.
    pub fn set_next_hop_metric(&mut self, next_hop: IpAddr, metric: Option<u32>) {
        if self.next_hops.insert(next_hop, metric) == Some(metric) {
            return;
        }
        let uses = |slot: &Slot| {
            let mut paths = self.table.get(*slot).paths.iter();
            paths.any(|p| p.attributes.next_hop.map(NextHop::address) == Some(next_hop))
        };
        let slots: Vec<Slot> = self.table.occupied().filter(uses).collect();
        slots.into_iter().for_each(|slot| self.evaluate(slot, false));
    }

    /// Whether [`poll_change`](Self::poll_change) has anything to say; it has unless it is told
    /// otherwise. What changes in the meantime is not told later.
    pub fn set_following(&mut self, following: bool) {
        if following != self.follower.is_some() {
            self.follower = following.then(|| self.table.end());
            self.trim();
        }
    }

    /// A prefix whose best route is not what it was; ask [`best`](Self::best) for it.
    pub fn poll_change(&mut self) -> Option<IpNet> {
        while let Some(slot) = self.table.follow(self.follower.as_mut()?) {
            let destination = self.table.get_mut(slot);
            if destination.take_news() {
                return Some(destination.prefix);
            }
        }
        self.trim();
        None
    }

    /// Paths of a peer that were left out: more to one destination than it may tell.
    pub fn left_out(&self, id: PeerId) -> u64 {
        self.peers.get(&id).map_or(0, |p| p.left_out)
    }

    /// How many prefixes a peer sent and was sent; with ADD-PATH, how many paths.
    pub fn counts(&self, id: PeerId) -> (usize, usize) {
        self.peers.get(&id).map_or((0, 0), |p| (p.sent.count(), self.told_count(id)))
    }

    /// Destinations in the table.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Rib {
    pub(super) fn facts(&self, id: PeerId) -> &PeerFacts {
        self.peers.get(&id).map_or(&self.local, |p| &p.facts)
    }

    fn note_clusters(&mut self) {
        let theirs = self.peers.values().filter_map(|p| p.facts.cluster_id);
        self.clusters = theirs.chain([self.config.cluster_id()]).collect();
        self.clusters.sort_unstable();
        self.clusters.dedup();
    }

    /// Whose path it is.
    pub(super) fn peer_of(&self, path: &Path) -> PeerId {
        self.sources.peer(path.source)
    }
}
