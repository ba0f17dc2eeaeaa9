//! The table itself: changes in, best paths and updates for peers out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::decision::{Candidate, Decision, compare};
use super::export::{export_attributes, is_loop, is_routable};
use super::path::Path;
use super::{
    AttributeStore, BestRoute, NextHopMode, PathView, PeerFacts, PeerId, PeerKind, Policy,
    PolicyRoute, RouteSource, RouteView, Verdict,
};
use crate::wire::{Family, NextHop, NlriList, PathAttributes, Update};

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
}

/// Updates for one peer, in an order that is safe to send: withdrawals first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportBatch {
    /// Prefixes to withdraw.
    pub withdraw: Vec<IpNet>,
    /// Prefixes to announce, by shared attributes.
    pub announce: Vec<(Arc<PathAttributes>, Vec<IpNet>)>,
    /// Families that are complete after this batch.
    pub end_of_rib: Vec<Family>,
}

impl ExportBatch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.withdraw.is_empty() && self.announce.is_empty() && self.end_of_rib.is_empty()
    }
}

/// All paths to one prefix, the best first.
#[derive(Debug, Default)]
struct Destination {
    paths: Vec<Path>,
    /// How many of the first paths share the traffic; 0 if none is eligible.
    active: u16,
}

#[derive(Debug)]
struct Peer {
    facts: PeerFacts,
    routing: PeerRouting,
    /// Index of the destinations that have a path of this peer.
    prefixes: HashSet<IpNet>,
    /// There while the session is up.
    out: Option<AdjRibOut>,
}

#[derive(Debug)]
struct AdjRibOut {
    families: Vec<Family>,
    advertised: HashMap<IpNet, Arc<PathAttributes>>,
    dirty: BTreeSet<IpNet>,
    /// Prefixes to send again even if they did not change.
    resend: HashSet<IpNet>,
    /// Families whose first listing is not complete yet.
    end_of_rib: Vec<Family>,
}

/// The routing table of a speaker.
#[derive(Debug)]
pub struct Rib {
    config: RibConfig,
    store: AttributeStore,
    table: HashMap<IpNet, Destination>,
    peers: HashMap<PeerId, Peer>,
    /// What is known of next hops: metric, or `None` for unreachable. Others have metric 0.
    next_hops: HashMap<IpAddr, Option<u32>>,
    changed: BTreeSet<IpNet>,
    local: PeerFacts,
}

/// Results of the export of one attribute set, remembered for the length of a batch.
type ExportCache = HashMap<(*const PathAttributes, PeerId, Family), Option<Arc<PathAttributes>>>;

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

    /// Takes in an UPDATE of a peer; families that were not negotiated are ignored.
    pub fn handle_update(&mut self, id: PeerId, update: &Update) {
        let lists = [Some(&update.withdrawn), update.mp_unreach.as_ref()];
        for list in lists.into_iter().flatten() {
            self.withdraw_list(id, list);
        }
        let Some(attributes) = &update.attributes else { return };
        let reach = update.mp_reach.as_ref().map(|r| (&r.nlri, r.next_hop));
        let classic = (&update.announced, attributes.next_hop);
        for (list, next_hop) in reach.into_iter().chain([classic]) {
            if update.treat_as_withdraw() {
                self.withdraw_list(id, list);
            } else {
                self.announce_list(id, list, attributes, next_hop);
            }
        }
    }

    fn announce_list(
        &mut self,
        id: PeerId,
        list: &NlriList,
        attributes: &PathAttributes,
        next_hop: Option<NextHop>,
    ) {
        if list.is_empty() || !self.speaks(id, list.family()) {
            return;
        }
        let Some(peer) = self.peers.get(&id) else { return };
        let attributes = PathAttributes { next_hop, ..attributes.clone() };
        let usable = next_hop.is_some_and(|h| {
            let a = h.address();
            !(a.is_unspecified()
                || a.is_multicast()
                || a.is_loopback() && !peer.facts.address.is_loopback())
        });
        if !usable || is_loop(&self.config, &peer.facts, &attributes) {
            self.withdraw_list(id, list);
            return;
        }
        let attributes = self.store.intern(attributes);
        for (_, prefix) in list {
            if is_routable(&prefix) {
                self.put_path(id, prefix, Arc::clone(&attributes));
            }
        }
    }

    fn withdraw_list(&mut self, id: PeerId, list: &NlriList) {
        for (_, prefix) in list {
            self.remove_path(id, &prefix);
        }
    }

    fn speaks(&self, id: PeerId, family: Family) -> bool {
        let out = self.peers.get(&id).and_then(|p| p.out.as_ref());
        out.is_some_and(|out| out.families.contains(&family))
    }

    /// Sends everything of a family to a peer again (RFC 2918).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        if let Some(Peer { out: Some(out), .. }) = self.peers.get_mut(&id) {
            let of_family = |p: &&IpNet| Family::of_prefix(p) == family;
            out.dirty.extend(self.table.keys().filter(of_family));
            // What was sent stays known: it may have to be withdrawn before it is sent again.
            out.resend.extend(out.advertised.keys().filter(of_family));
            out.dirty.extend(&out.resend);
        }
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

    /// Whether a peer has to be told something.
    pub fn has_export(&self, id: PeerId) -> bool {
        let out = self.peers.get(&id).and_then(|p| p.out.as_ref());
        out.is_some_and(|out| !out.dirty.is_empty() || !out.end_of_rib.is_empty())
    }

    /// What a peer has to be told next, from at most `limit` changed prefixes.
    pub fn poll_export(&mut self, id: PeerId, limit: usize) -> ExportBatch {
        let mut batch = ExportBatch::default();
        let Some(mut out) = self.peers.get_mut(&id).and_then(|p| p.out.take()) else {
            return batch;
        };
        let mut cache = ExportCache::new();
        let mut groups: HashMap<*const PathAttributes, usize> = HashMap::new();
        for _ in 0..limit {
            let Some(prefix) = out.dirty.pop_first() else { break };
            let again = out.resend.remove(&prefix);
            let wanted = self.exported(id, &prefix, &mut cache);
            match wanted {
                None => {
                    if out.advertised.remove(&prefix).is_some() {
                        batch.withdraw.push(prefix);
                    }
                }
                Some(attributes) => {
                    let before = out.advertised.insert(prefix, Arc::clone(&attributes));
                    // Interned, but a set may have been dropped and made anew in between.
                    if !again && before.is_some_and(|b| b == attributes) {
                        continue;
                    }
                    let at = *groups.entry(Arc::as_ptr(&attributes)).or_insert_with(|| {
                        batch.announce.push((attributes, Vec::new()));
                        batch.announce.len() - 1
                    });
                    batch.announce[at].1.push(prefix);
                }
            }
        }
        if out.dirty.is_empty() {
            batch.end_of_rib = std::mem::take(&mut out.end_of_rib);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.out = Some(out);
        }
        batch
    }

    /// What was announced to a peer could not be sent after all.
    pub fn unexport(&mut self, id: PeerId, prefixes: &[IpNet]) {
        if let Some(Peer { out: Some(out), .. }) = self.peers.get_mut(&id) {
            prefixes.iter().for_each(|p| {
                out.advertised.remove(p);
            });
        }
    }

    /// The best route to a prefix.
    pub fn best(&self, prefix: &IpNet) -> Option<BestRoute> {
        let destination = self.table.get(prefix)?;
        let best = destination.paths.first().filter(|_| destination.active > 0)?;
        Some(BestRoute {
            prefix: *prefix,
            next_hops: next_hops(&destination.paths[..usize::from(destination.active)]),
            source: self.source(best.source),
            attributes: Arc::clone(&best.attributes),
        })
    }

    /// All best routes, in no order.
    pub fn best_routes(&self) -> impl Iterator<Item = BestRoute> {
        self.table.keys().filter_map(|p| self.best(p))
    }

    /// One destination with all paths and the reasons for their order.
    pub fn route(&self, prefix: &IpNet) -> Option<RouteView> {
        self.table.get(prefix).map(|d| self.view(prefix, d))
    }

    /// The whole table, in no order.
    pub fn routes(&self) -> impl Iterator<Item = RouteView> {
        self.table.iter().map(|(p, d)| self.view(p, d))
    }

    /// What a peer was told, in no order.
    pub fn advertised(&self, id: PeerId) -> impl Iterator<Item = (&IpNet, &Arc<PathAttributes>)> {
        let out = self.peers.get(&id).and_then(|p| p.out.as_ref());
        out.into_iter().flat_map(|out| &out.advertised)
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
    fn facts(&self, id: PeerId) -> &PeerFacts {
        self.peers.get(&id).map_or(&self.local, |p| &p.facts)
    }

    fn source(&self, id: PeerId) -> RouteSource {
        let facts = self.facts(id);
        if id == PeerId::LOCAL {
            return RouteSource::Local;
        }
        RouteSource::Peer { id, address: facts.address, asn: facts.asn, kind: facts.kind }
    }

    fn put_path(&mut self, source: PeerId, prefix: IpNet, received: Arc<PathAttributes>) {
        let (accepted, attributes) = self.import(source, &prefix, &received);
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.prefixes.insert(prefix);
        }
        let path = Path { source, stale: false, accepted, received, attributes };
        let destination = self.table.entry(prefix).or_default();
        let active = usize::from(destination.active);
        let mut replaced_active = false;
        match destination.paths.iter_mut().enumerate().find(|(_, p)| p.source == source) {
            Some((at, old)) => {
                let same = old.accepted == path.accepted && old.attributes == path.attributes;
                replaced_active = at < active;
                *old = path;
                if same {
                    return;
                }
            }
            None => destination.paths.push(path),
        }
        self.evaluate(&prefix, replaced_active);
    }

    fn import(
        &mut self,
        source: PeerId,
        prefix: &IpNet,
        received: &Arc<PathAttributes>,
    ) -> (bool, Arc<PathAttributes>) {
        let Some(peer) = self.peers.get(&source) else { return (true, Arc::clone(received)) };
        if peer.routing.import.accepts_all() {
            return (true, Arc::clone(received));
        }
        let route = PolicyRoute { prefix, attributes: received, from: &peer.facts, to: None };
        match peer.routing.import.evaluate(&route) {
            Verdict::Accept => (true, Arc::clone(received)),
            Verdict::Reject => (false, Arc::clone(received)),
            Verdict::Modify(attributes) => (true, self.store.intern(*attributes)),
        }
    }

    fn import_again(&mut self, id: PeerId, prefix: &IpNet) {
        let received = self
            .table
            .get(prefix)
            .and_then(|d| d.paths.iter().find(|p| p.source == id).map(|p| Arc::clone(&p.received)));
        let Some(received) = received else { return };
        let (accepted, attributes) = self.import(id, prefix, &received);
        if let Some(d) = self.table.get_mut(prefix)
            && let Some(path) = d.paths.iter_mut().find(|p| p.source == id)
        {
            (path.accepted, path.attributes) = (accepted, attributes);
        }
    }

    fn remove_path(&mut self, source: PeerId, prefix: &IpNet) -> bool {
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

    fn drop_paths(&mut self, id: PeerId, gone: impl Fn(&IpNet, &Path) -> bool) {
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

    /// Chooses the best path again. With `force`, peers and listeners look again even if the
    /// choice is the same: an active path was replaced or removed, or its source changed.
    fn evaluate(&mut self, prefix: &IpNet, force: bool) {
        let Some(mut destination) = self.table.remove(prefix) else { return };
        let active_before = usize::from(destination.active);
        let before: Vec<(PeerId, Arc<PathAttributes>)> = destination.paths
            [..active_before.min(destination.paths.len())]
            .iter()
            .map(|p| (p.source, Arc::clone(&p.attributes)))
            .collect();
        let active = self.rank(&mut destination.paths);
        destination.active = u16::try_from(active).unwrap_or(u16::MAX);
        let after = &destination.paths[..active];
        let same = !force
            && before.len() == after.len()
            && before
                .iter()
                .zip(after)
                .all(|((s, a), p)| *s == p.source && Arc::ptr_eq(a, &p.attributes));
        if !destination.paths.is_empty() {
            self.table.insert(*prefix, destination);
        }
        if !same {
            self.note_change(prefix);
        }
    }

    fn note_change(&mut self, prefix: &IpNet) {
        self.changed.insert(*prefix);
        let family = Family::of_prefix(prefix);
        for out in self.peers.values_mut().filter_map(|p| p.out.as_mut()) {
            if out.families.contains(&family) {
                out.dirty.insert(*prefix);
            }
        }
    }

    fn candidate<'a>(&'a self, path: &'a Path) -> Option<Candidate<'a>> {
        let metric = match path.attributes.next_hop {
            Some(hop) => self.next_hops.get(&hop.address()).copied().unwrap_or(Some(0)),
            None => Some(0),
        };
        let igp_metric = metric.filter(|_| path.accepted)?;
        let peer = self.facts(path.source);
        Some(Candidate { attributes: &path.attributes, peer, igp_metric })
    }

    /// Puts the best path first and those that share its traffic behind it; returns how many.
    fn rank(&self, paths: &mut [Path]) -> usize {
        let Some(best) = self.best_index(paths) else { return 0 };
        paths.swap(0, best);
        let mut active = 1;
        for at in 1..paths.len() {
            if active < self.config.max_paths && self.shares(&paths[0], &paths[at]) {
                paths.swap(active, at);
                active += 1;
            }
        }
        // A fixed order among equals, so that a re-evaluation that changes nothing is seen as
        // one.
        paths[1..active].sort_by_key(|p| p.source);
        active
    }

    /// The best path: first the best of each neighbouring AS, then the best of those, so that
    /// MULTI_EXIT_DISC gives the same answer in whatever order the paths came.
    fn best_index(&self, paths: &[Path]) -> Option<usize> {
        let mut winners: Vec<(u32, usize, Candidate<'_>)> = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            let Some(candidate) = self.candidate(path) else { continue };
            let neighbor = candidate.neighbor_as();
            match winners.iter_mut().find(|(n, ..)| *n == neighbor) {
                Some(winner) if compare(&candidate, &winner.2).0.is_lt() => {
                    *winner = (neighbor, at, candidate);
                }
                Some(_) => {}
                None => winners.push((neighbor, at, candidate)),
            }
        }
        winners.into_iter().min_by(|a, b| compare(&a.2, &b.2).0).map(|(_, at, _)| at)
    }

    fn shares(&self, best: &Path, other: &Path) -> bool {
        let (Some(a), Some(b)) = (self.candidate(best), self.candidate(other)) else {
            return false;
        };
        a.peer.kind != PeerKind::Local
            && compare(&a, &b).1 > Decision::IgpMetric
            && (self.config.multipath_relax || a.attributes.as_path == b.attributes.as_path)
    }

    /// What a peer is to hear of a prefix.
    fn exported(
        &mut self,
        to: PeerId,
        prefix: &IpNet,
        cache: &mut ExportCache,
    ) -> Option<Arc<PathAttributes>> {
        let destination = self.table.get(prefix)?;
        let best = destination.paths.first().filter(|_| destination.active > 0)?;
        // Split horizon: nobody hears back what it said.
        if best.source == to {
            return None;
        }
        let peer = self.peers.get(&to)?;
        let from = self.peers.get(&best.source).map_or(&self.local, |p| &p.facts);
        let family = Family::of_prefix(prefix);
        let key = (Arc::as_ptr(&best.attributes), best.source, family);
        let attributes = match cache.get(&key) {
            Some(known) => known.clone(),
            None => {
                let sent = export_attributes(
                    &self.config,
                    peer.routing.next_hop,
                    from,
                    &peer.facts,
                    family,
                    &best.attributes,
                );
                let sent = sent.map(|a| self.store.intern(a));
                cache.insert(key, sent.clone());
                sent
            }
        }?;
        if peer.routing.export.accepts_all() {
            return Some(attributes);
        }
        let route = PolicyRoute { prefix, attributes: &attributes, from, to: Some(&peer.facts) };
        match peer.routing.export.evaluate(&route) {
            Verdict::Accept => Some(attributes),
            Verdict::Reject => None,
            Verdict::Modify(changed) => Some(self.store.intern(*changed)),
        }
    }

    fn view(&self, prefix: &IpNet, destination: &Destination) -> RouteView {
        let paths = &destination.paths;
        let active = usize::from(destination.active);
        let best = paths.first().filter(|_| active > 0).and_then(|p| self.candidate(p));
        let step = |path: &Path| match (&best, self.candidate(path)) {
            (Some(best), Some(other)) => compare(best, &other).1,
            _ => Decision::NotEligible,
        };
        let runner_up = paths[1.min(paths.len())..].iter().map(step).max();
        let view = |(at, path): (usize, &Path)| PathView {
            source: self.source(path.source),
            attributes: Arc::clone(&path.attributes),
            best: at == 0 && active > 0,
            multipath: at < active,
            stale: path.stale,
            decided_by: match (at, active) {
                (0, 1..) => runner_up
                    .filter(|step| *step != Decision::NotEligible)
                    .unwrap_or(Decision::OnlyPath),
                _ => step(path),
            },
        };
        RouteView { prefix: *prefix, paths: paths.iter().enumerate().map(view).collect() }
    }
}

fn destination_is_empty(table: &HashMap<IpNet, Destination>, prefix: &IpNet) -> bool {
    table.get(prefix).is_some_and(|d| d.paths.is_empty())
}

/// The distinct next hops of paths, sorted.
fn next_hops(paths: &[Path]) -> Vec<IpAddr> {
    let mut hops: Vec<IpAddr> =
        paths.iter().filter_map(|p| p.attributes.next_hop.map(NextHop::address)).collect();
    hops.sort_unstable();
    hops.dedup();
    hops
}
