//! What this node routes and what it announces, from its blocks, endpoints and peers. Pure.
//!
//! Per destination, the first of these that exists is the route:
//!
//! 1. an address of an endpoint of this node: to its interface;
//! 2. a block that this node owns: a blackhole, so that an unused address of it loops nowhere;
//! 3. a block of another node in a pool whose packets travel wrapped: as [`overlay`](crate::overlay)
//!    says;
//! 4. a peer that no subnet leads to: via its gateway;
//! 5. a prefix learned from other routers, unless it is to stay out of the kernel: to their next
//!    hops.
//!
//! A learned route that is preferred to the usual (LOCAL_PREF) comes first: the workload of that
//! address is on its way to another node.
//!
//! Metrics are upstream's: those of endpoints as the settings say, those of learned routes what
//! their LOCAL_PREF leaves of 2147483647.
//!
//! The speaker is told of the own blocks, of every address of own endpoints, of ranges of services,
//! and of routes of the host that somebody may want to hear of. What of it a peer hears is the business of the peer's export filter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{EndpointId, NextHop, Route, RouteTarget, Update, WorkloadEndpoint};
use calico_core::routes::RouteEvent;
use calico_peering::KernelFilter;
use ipnet::IpNet;

/// What changed since the last [`Routing::flush`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// For the dataplane.
    pub routes: Vec<Update>,
    /// Prefixes to announce.
    pub announce: Vec<IpNet>,
    /// Prefixes to withdraw.
    pub withdraw: Vec<IpNet>,
    /// Prefixes that are announced with another LOCAL_PREF than the usual one, or no longer.
    pub preferred: Vec<(IpNet, Option<u32>)>,
    /// Endpoints whose addresses are preferred until [`Routing::settle`].
    pub arrived: Vec<EndpointId>,
}

/// LOCAL_PREF and metric of a route add up to this, as upstream.
const METRIC_BASE: u32 = i32::MAX as u32;

/// LOCAL_PREF of a route that came without (BIRD's default, as upstream's).
const USUAL_LOCAL_PREF: u32 = 100;

/// Metrics of routes to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// In IPv4.
    pub v4: u32,
    /// In IPv6.
    pub v6: u32,
    /// Of endpoints that have just arrived from another node, in IPv4.
    pub elevated_v4: u32,
    /// Likewise in IPv6.
    pub elevated_v6: u32,
}

impl Default for Metrics {
    /// Upstream's.
    fn default() -> Self {
        Self { v4: 1024, v6: 1024, elevated_v4: 512, elevated_v6: 512 }
    }
}

impl Metrics {
    const fn of(self, destination: &IpNet) -> u32 {
        match destination {
            IpNet::V4(_) => self.v4,
            IpNet::V6(_) => self.v6,
        }
    }

    const fn elevated(self, destination: &IpNet) -> u32 {
        match destination {
            IpNet::V4(_) => self.elevated_v4,
            IpNet::V6(_) => self.elevated_v6,
        }
    }
}

/// What others told of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Learned {
    next_hops: Vec<IpAddr>,
    metric: u32,
}

/// Desired routes and announcements of one node. Work per flush follows what changed.
#[derive(Debug, Default)]
pub struct Routing {
    metrics: Metrics,
    blocks: BTreeSet<IpNet>,
    services: BTreeSet<IpNet>,
    host: BTreeSet<IpNet>,
    overlay: BTreeMap<IpNet, RouteTarget>,
    gateways: BTreeMap<IpNet, IpAddr>,
    kernel: KernelFilter,
    endpoints: BTreeMap<EndpointId, (Arc<str>, Vec<IpNet>)>,
    addresses: BTreeMap<IpNet, Arc<str>>,
    arriving: BTreeSet<EndpointId>,
    /// Addresses that have just arrived from another node.
    preferred: BTreeSet<IpNet>,
    arrived: Vec<EndpointId>,
    learned: BTreeMap<IpNet, Learned>,
    relisting: Option<BTreeSet<IpNet>>,
    learned_in_sync: bool,
    dirty: BTreeSet<IpNet>,
    installed: BTreeMap<IpNet, Route>,
    /// With their LOCAL_PREF, if it is another than the usual one.
    announced: BTreeMap<IpNet, Option<u32>>,
}

impl Routing {
    /// This node owns (or no longer owns) a block. One of a single address is no route of its
    /// own: the address is, once an endpoint has it.
    pub fn set_block(&mut self, block: IpNet, owned: bool) {
        let owned = owned && block.prefix_len() < block.max_prefix_len();
        let changed = if owned { self.blocks.insert(block) } else { self.blocks.remove(&block) };
        if changed {
            self.dirty.insert(block);
        }
    }

    /// The ranges of services that this node announces.
    pub fn set_services(&mut self, services: impl IntoIterator<Item = IpNet>) {
        let services: BTreeSet<IpNet> = services.into_iter().collect();
        self.dirty.extend(self.services.symmetric_difference(&services));
        self.services = services;
    }

    /// Prefixes of the host's own routes that this node announces.
    pub fn set_host(&mut self, host: impl IntoIterator<Item = IpNet>) {
        let host: BTreeSet<IpNet> = host.into_iter().collect();
        self.dirty.extend(self.host.symmetric_difference(&host));
        self.host = host;
    }

    /// Metrics of routes to endpoints.
    pub fn set_metrics(&mut self, metrics: Metrics) {
        if self.metrics != metrics {
            self.dirty.extend(self.addresses.keys());
            self.metrics = metrics;
        }
    }

    /// Ways to peers that no subnet leads to.
    pub fn set_gateways(&mut self, gateways: BTreeMap<IpNet, IpAddr>) {
        if self.gateways != gateways {
            self.dirty.extend(self.gateways.keys().chain(gateways.keys()));
            self.gateways = gateways;
        }
    }

    /// The way to a block or address of another node, if its packets travel wrapped.
    pub fn set_overlay(&mut self, destination: IpNet, target: Option<RouteTarget>) {
        match target {
            Some(target) => self.overlay.insert(destination, target),
            None => self.overlay.remove(&destination),
        };
        self.dirty.insert(destination);
    }

    /// Which learned routes go into the kernel.
    pub fn set_kernel(&mut self, kernel: KernelFilter) {
        if self.kernel != kernel {
            let moved = |prefix: &&IpNet| kernel.programs(prefix) != self.kernel.programs(prefix);
            self.dirty.extend(self.learned.keys().filter(moved));
            self.kernel = kernel;
        }
    }

    /// An endpoint of this node came or changed.
    pub fn set_endpoint(&mut self, endpoint: &WorkloadEndpoint) {
        self.remove_endpoint(&endpoint.id);
        for address in &endpoint.addresses {
            if !self.arriving.contains(&endpoint.id) {
                self.addresses.insert(*address, Arc::clone(&endpoint.interface));
            }
            self.dirty.insert(*address);
        }
        let value = (Arc::clone(&endpoint.interface), endpoint.addresses.clone());
        self.endpoints.insert(endpoint.id.clone(), value);
    }

    /// An endpoint of this node went.
    pub fn remove_endpoint(&mut self, id: &EndpointId) {
        let Some((interface, addresses)) = self.endpoints.remove(id) else { return };
        for address in addresses {
            // Another endpoint may have taken the address over.
            if self.addresses.get(&address) == Some(&interface) {
                self.addresses.remove(&address);
                self.preferred.remove(&address);
            }
            self.dirty.insert(address);
        }
    }

    /// Everybody knows by now that the endpoint is here: its addresses are as those of others.
    pub fn settle(&mut self, id: &EndpointId) {
        for address in self.endpoints.get(id).into_iter().flat_map(|(_, addresses)| addresses) {
            if self.preferred.remove(address) {
                self.dirty.insert(*address);
            }
        }
    }

    /// Endpoints of this node whose addresses another node has yet: they are neither routed nor
    /// announced. Those that are no longer among them have arrived: others prefer them to the node
    /// they were on, which may not know it yet.
    pub fn set_arriving(&mut self, arriving: BTreeSet<EndpointId>) {
        let changed: Vec<EndpointId> =
            self.arriving.symmetric_difference(&arriving).cloned().collect();
        self.arriving = arriving;
        for id in changed {
            let Some((interface, addresses)) = self.endpoints.get(&id) else { continue };
            let arrived = !self.arriving.contains(&id);
            if arrived {
                self.arrived.push(id.clone());
            }
            for address in addresses {
                if arrived {
                    self.addresses.insert(*address, Arc::clone(interface));
                    self.preferred.insert(*address);
                } else if self.addresses.get(address) == Some(interface) {
                    self.addresses.remove(address);
                }
                self.dirty.insert(*address);
            }
        }
    }

    /// News from other routers.
    pub fn handle_route(&mut self, event: RouteEvent) {
        match event {
            RouteEvent::Begin => self.relisting = Some(self.learned.keys().copied().collect()),
            RouteEvent::Item(route) | RouteEvent::Put(route) => {
                if let Some(unseen) = &mut self.relisting {
                    unseen.remove(&route.prefix);
                }
                self.dirty.insert(route.prefix);
                let local_pref = route.local_pref.unwrap_or(USUAL_LOCAL_PREF);
                let metric = METRIC_BASE.saturating_sub(local_pref);
                let learned = Learned { next_hops: route.next_hops, metric };
                self.learned.insert(route.prefix, learned);
            }
            RouteEvent::Ready => {
                self.learned_in_sync = true;
                for prefix in self.relisting.take().unwrap_or_default() {
                    self.learned.remove(&prefix);
                    self.dirty.insert(prefix);
                }
            }
            RouteEvent::Gone(prefix) => {
                self.learned.remove(&prefix);
                self.dirty.insert(prefix);
            }
        }
    }

    /// Whether the learned routes were listed once: every peer has told its own, or had its time
    /// to.
    #[must_use]
    pub const fn learned_in_sync(&self) -> bool {
        self.learned_in_sync
    }

    /// How many routes are wanted in the kernel.
    #[must_use]
    pub fn installed(&self) -> usize {
        self.installed.len()
    }

    /// Prefixes that are announced.
    pub fn announced(&self) -> impl Iterator<Item = IpNet> {
        self.announced.keys().copied()
    }

    /// Best paths that others told us of.
    pub fn learned(&self) -> impl Iterator<Item = (IpNet, &[IpAddr])> {
        self.learned.iter().map(|(prefix, learned)| (*prefix, learned.next_hops.as_slice()))
    }

    /// What to do about everything that changed.
    pub fn flush(&mut self) -> Changes {
        let arrived = std::mem::take(&mut self.arrived);
        let mut changes = Changes { arrived, ..Changes::default() };
        for destination in std::mem::take(&mut self.dirty) {
            let route = self.route(&destination);
            if self.installed.get(&destination) != route.as_ref() {
                match route {
                    Some(route) => {
                        self.installed.insert(destination, route.clone());
                        changes.routes.push(Update::Route(route));
                    }
                    None => {
                        self.installed.remove(&destination);
                        changes.routes.push(Update::RouteRemoved(destination));
                    }
                }
            }
            let wanted = self.is_announced(&destination).then(|| self.local_pref(&destination));
            let before = match wanted {
                Some(local_pref) => self.announced.insert(destination, local_pref),
                None => self.announced.remove(&destination),
            };
            match wanted {
                None if before.is_some() => changes.withdraw.push(destination),
                Some(_) if before != wanted => changes.announce.push(destination),
                _ => {}
            }
            if before.flatten() != wanted.flatten() {
                changes.preferred.push((destination, wanted.flatten()));
            }
        }
        changes
    }

    fn route(&self, destination: &IpNet) -> Option<Route> {
        let usual = |target| Some(Route::new(*destination, target));
        if let Some(interface) = self.addresses.get(destination) {
            let metric = match self.preferred.contains(destination) {
                true => self.metrics.elevated(destination),
                false => self.metrics.of(destination),
            };
            let target = RouteTarget::Workload(Arc::clone(interface));
            let own = Route { metric: Some(metric), ..Route::new(*destination, target) };
            let preferred = self.learned_route(destination).filter(|it| it.metric < Some(metric));
            return preferred.or(Some(own));
        }
        if self.blocks.contains(destination) {
            return usual(RouteTarget::Blackhole);
        }
        if let Some(target) = self.overlay.get(destination) {
            return usual(target.clone());
        }
        if let Some(gateway) = self.gateways.get(destination) {
            return usual(RouteTarget::Via(vec![via(gateway)]));
        }
        self.learned_route(destination)
    }

    /// What others told, unless it is to stay out of the kernel.
    fn learned_route(&self, destination: &IpNet) -> Option<Route> {
        let learned =
            self.learned.get(destination).filter(|_| self.kernel.programs(destination))?;
        let target = RouteTarget::Via(learned.next_hops.iter().map(via).collect());
        Some(Route { metric: Some(learned.metric), ..Route::new(*destination, target) })
    }

    /// LOCAL_PREF that a prefix is announced with, if it is another than the usual one.
    fn local_pref(&self, prefix: &IpNet) -> Option<u32> {
        let elevated = self.metrics.elevated(prefix);
        self.preferred.contains(prefix).then(|| METRIC_BASE.saturating_sub(elevated))
    }

    fn is_announced(&self, prefix: &IpNet) -> bool {
        self.blocks.contains(prefix)
            || self.addresses.contains_key(prefix)
            || self.services.contains(prefix)
            || self.host.contains(prefix)
    }
}

const fn via(gateway: &IpAddr) -> NextHop {
    NextHop { gateway: *gateway, interface: None }
}

#[cfg(test)]
mod tests {
    use calico_core::routes::LearnedRoute;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn endpoint(name: &str, interface: &str, address: &str) -> WorkloadEndpoint {
        WorkloadEndpoint {
            id: EndpointId { namespace: "default".into(), name: name.into() },
            interface: interface.into(),
            addresses: vec![net(address)],
            allowed_sources: Vec::new(),
            limits: Default::default(),
            tiers: Vec::new(),
            profiles: Vec::new(),
        }
    }

    fn learn(prefix: &str, hop: &str) -> RouteEvent {
        learn_with(prefix, hop, METRIC_BASE - 1024)
    }

    fn learn_with(prefix: &str, hop: &str, local_pref: u32) -> RouteEvent {
        let (next_hops, local_pref) = (vec![hop.parse().unwrap()], Some(local_pref));
        RouteEvent::Put(LearnedRoute { prefix: net(prefix), next_hops, local_pref })
    }

    /// Metrics of the routes that are wanted in the kernel.
    fn metrics(changes: &Changes) -> Vec<Option<u32>> {
        let metric = |update: &Update| match update {
            Update::Route(route) => route.metric,
            other => panic!("{other:?}"),
        };
        changes.routes.iter().map(metric).collect()
    }

    #[test]
    fn metrics_are_those_of_the_settings_and_of_local_pref() {
        let mut routing = Routing::default();
        routing.set_block(net("10.65.0.0/26"), true);
        routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.1/32"));
        routing.set_endpoint(&endpoint("b", "cali2", "fd00::1/128"));
        routing.handle_route(learn_with("10.66.0.0/26", "192.0.2.2", METRIC_BASE - 700));
        let RouteEvent::Put(mut foreign) = learn("10.67.0.0/26", "192.0.2.2") else {
            unreachable!()
        };
        foreign.local_pref = None;
        routing.handle_route(RouteEvent::Put(foreign));
        let usual = [None, Some(1024), Some(700), Some(METRIC_BASE - 100), Some(1024)];
        assert_eq!(metrics(&routing.flush()), usual);
        routing.set_metrics(Metrics { v4: 77, ..Metrics::default() });
        assert_eq!(metrics(&routing.flush()), [Some(77)], "only what changes");
        routing.set_metrics(Metrics { v4: 77, v6: 78, ..Metrics::default() });
        assert_eq!(metrics(&routing.flush()), [Some(78)]);
    }

    #[test]
    fn a_workload_that_moves_is_followed_before_it_is_gone_here() {
        let mut routing = Routing::default();
        routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.1/32"));
        routing.handle_route(learn_with("10.65.0.1/32", "192.0.2.2", METRIC_BASE - 1024));
        let here = |changes: &Changes| {
            matches!(
                &changes.routes[..],
                [Update::Route(Route { target: RouteTarget::Workload(_), .. })]
            )
        };
        assert!(here(&routing.flush()), "not preferred");
        routing.handle_route(learn_with("10.65.0.1/32", "192.0.2.2", METRIC_BASE - 512));
        let changes = routing.flush();
        assert_eq!((here(&changes), metrics(&changes)), (false, vec![Some(512)]));
        routing.handle_route(RouteEvent::Gone(net("10.65.0.1/32")));
        assert!(here(&routing.flush()), "it stayed");
    }

    #[test]
    fn a_workload_that_arrived_is_preferred_until_everybody_knows() {
        let mut routing = Routing::default();
        let vm = endpoint("vm", "cali1", "10.65.0.1/32");
        let address = vm.addresses[0];
        routing.set_arriving([vm.id.clone()].into());
        routing.set_endpoint(&vm);
        assert_eq!(routing.flush(), Changes::default(), "it is elsewhere yet");
        routing.set_arriving(BTreeSet::new());
        let changes = routing.flush();
        assert_eq!(changes.arrived, std::slice::from_ref(&vm.id));
        assert_eq!((metrics(&changes), &changes.announce), (vec![Some(512)], &vec![address]));
        assert_eq!(changes.preferred, [(address, Some(METRIC_BASE - 512))]);
        assert_eq!(routing.flush(), Changes::default());

        routing.settle(&vm.id);
        let changes = routing.flush();
        assert_eq!((metrics(&changes), changes.announce), (vec![Some(1024)], vec![address]));
        assert_eq!(changes.preferred, [(address, None)]);
        routing.settle(&vm.id);
        assert_eq!(routing.flush(), Changes::default());

        // One that goes before leaves no preference to who has the address next.
        routing.set_arriving([vm.id.clone()].into());
        routing.set_arriving(BTreeSet::new());
        routing.flush();
        routing.remove_endpoint(&vm.id);
        assert_eq!(routing.flush().preferred, [(address, None)]);
        routing.set_endpoint(&vm);
        assert_eq!(metrics(&routing.flush()), [Some(1024)]);
    }

    #[test]
    fn an_own_block_is_blackholed_and_told_with_the_addresses_in_it() {
        let mut routing = Routing::default();
        routing.set_block(net("10.65.0.0/26"), true);
        routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.1/32"));
        let changes = routing.flush();
        assert_eq!(changes.announce, [net("10.65.0.0/26"), net("10.65.0.1/32")]);
        assert_eq!(changes.routes.len(), 2);
        assert_eq!(routing.flush(), Changes::default());

        routing.set_block(net("10.65.0.0/26"), false);
        let changes = routing.flush();
        assert_eq!(changes.withdraw, [net("10.65.0.0/26")]);
        assert_eq!(changes.announce, []);
    }

    #[test]
    fn a_block_of_one_address_is_no_route() {
        let mut routing = Routing::default();
        routing.set_block(net("10.65.0.7/32"), true);
        assert_eq!(routing.flush(), Changes::default());
        routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.7/32"));
        assert_eq!(routing.flush().announce, [net("10.65.0.7/32")]);
    }

    #[test]
    fn services_are_announced_and_not_routed() {
        let mut routing = Routing::default();
        routing.set_services([net("10.96.0.0/12"), net("203.0.113.0/24")]);
        let changes = routing.flush();
        assert_eq!(changes.announce, [net("10.96.0.0/12"), net("203.0.113.0/24")]);
        assert_eq!(changes.routes, []);
        routing.set_host([net("10.7.0.0/24")]);
        let changes = routing.flush();
        assert_eq!((changes.announce, changes.routes), (vec![net("10.7.0.0/24")], vec![]));
        routing.set_host([]);
        assert_eq!(routing.flush().withdraw, [net("10.7.0.0/24")]);
        routing.set_services([net("10.96.0.0/12")]);
        assert_eq!(routing.flush().withdraw, [net("203.0.113.0/24")]);
    }

    #[test]
    fn a_far_peer_is_reached_by_its_gateway() {
        let mut routing = Routing::default();
        let (peer, gateway) = (net("10.9.0.1/32"), "192.0.2.1".parse().unwrap());
        routing.handle_route(learn("10.9.0.1/32", "192.0.2.2"));
        routing.set_gateways([(peer, gateway)].into());
        let by = |gateway| Route::new(peer, RouteTarget::Via(vec![via(&gateway)]));
        assert_eq!(routing.flush().routes, [Update::Route(by(gateway))]);
        routing.set_gateways(BTreeMap::new());
        let learned = Route { metric: Some(1024), ..by("192.0.2.2".parse().unwrap()) };
        assert_eq!(routing.flush().routes, [Update::Route(learned)]);
    }

    #[test]
    fn own_addresses_and_blocks_win_over_learned_routes() {
        let mut routing = Routing::default();
        routing.handle_route(learn("10.65.0.0/26", "192.0.2.2"));
        assert_eq!(routing.flush().routes.len(), 1);
        routing.set_block(net("10.65.0.0/26"), true);
        let changes = routing.flush();
        let own = Route::new(net("10.65.0.0/26"), RouteTarget::Blackhole);
        assert_eq!(changes.routes, [Update::Route(own)]);
        routing.set_block(net("10.65.0.0/26"), false);
        assert!(matches!(&routing.flush().routes[..],
            [Update::Route(Route { target: RouteTarget::Via(hops), .. })] if hops.len() == 1));
    }

    #[test]
    fn a_new_listing_drops_what_it_lacks() {
        let mut routing = Routing::default();
        routing.handle_route(learn("10.65.1.0/26", "192.0.2.2"));
        routing.handle_route(learn("10.65.2.0/26", "192.0.2.3"));
        routing.flush();
        routing.handle_route(RouteEvent::Begin);
        let RouteEvent::Put(kept) = learn("10.65.2.0/26", "192.0.2.3") else { unreachable!() };
        routing.handle_route(RouteEvent::Item(kept));
        routing.handle_route(RouteEvent::Ready);
        assert_eq!(routing.flush().routes, [Update::RouteRemoved(net("10.65.1.0/26"))]);
    }

    #[test]
    fn an_endpoint_that_is_about_to_arrive_is_not_routed_yet() {
        let mut routing = Routing::default();
        let target = endpoint("new", "cali2", "10.65.0.1/32");
        routing.set_arriving([target.id.clone()].into());
        routing.handle_route(learn("10.65.0.1/32", "192.0.2.2"));
        routing.set_endpoint(&target);
        let changes = routing.flush();
        assert!(
            matches!(
                &changes.routes[..],
                [Update::Route(Route { target: RouteTarget::Via(_), .. })]
            ),
            "{changes:?}"
        );
        assert_eq!(changes.announce, []);
        // It has arrived.
        routing.set_arriving(BTreeSet::new());
        let changes = routing.flush();
        assert!(
            matches!(
                &changes.routes[..],
                [Update::Route(Route { target: RouteTarget::Workload(_), .. })]
            ),
            "{changes:?}"
        );
        assert_eq!(changes.announce, [net("10.65.0.1/32")]);
        // One that is to leave and come again.
        routing.set_arriving([target.id.clone()].into());
        assert_eq!(routing.flush().withdraw, [net("10.65.0.1/32")]);
        routing.remove_endpoint(&target.id);
        routing.set_arriving(BTreeSet::new());
        assert_eq!(routing.flush().announce, []);
    }

    #[test]
    fn an_address_that_moved_to_another_endpoint_stays() {
        let mut routing = Routing::default();
        routing.set_endpoint(&endpoint("old", "cali1", "10.65.0.1/32"));
        routing.set_endpoint(&endpoint("new", "cali2", "10.65.0.1/32"));
        routing.remove_endpoint(&EndpointId { namespace: "default".into(), name: "old".into() });
        let to_new = RouteTarget::Workload("cali2".into());
        let route = Route::new(net("10.65.0.1/32"), to_new);
        let route = Route { metric: Some(1024), ..route };
        assert_eq!(routing.flush().routes, [Update::Route(route)]);
    }
}
