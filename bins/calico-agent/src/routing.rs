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
//! The speaker is told of the own blocks, of every address of own endpoints and of ranges of
//! services. What of it a peer hears is the business of the peer's export filter.

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
}

/// Desired routes and announcements of one node. Work per flush follows what changed.
#[derive(Debug, Default)]
pub struct Routing {
    blocks: BTreeSet<IpNet>,
    services: BTreeSet<IpNet>,
    overlay: BTreeMap<IpNet, RouteTarget>,
    gateways: BTreeMap<IpNet, IpAddr>,
    kernel: KernelFilter,
    endpoints: BTreeMap<EndpointId, (Arc<str>, Vec<IpNet>)>,
    addresses: BTreeMap<IpNet, Arc<str>>,
    learned: BTreeMap<IpNet, Vec<IpAddr>>,
    relisting: Option<BTreeSet<IpNet>>,
    learned_in_sync: bool,
    dirty: BTreeSet<IpNet>,
    installed: BTreeMap<IpNet, RouteTarget>,
    announced: BTreeSet<IpNet>,
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
            self.addresses.insert(*address, Arc::clone(&endpoint.interface));
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
            }
            self.dirty.insert(address);
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
                self.learned.insert(route.prefix, route.next_hops);
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
        self.announced.iter().copied()
    }

    /// Best paths that others told us of.
    pub fn learned(&self) -> impl Iterator<Item = (IpNet, &[IpAddr])> {
        self.learned.iter().map(|(prefix, hops)| (*prefix, hops.as_slice()))
    }

    /// What to do about everything that changed.
    pub fn flush(&mut self) -> Changes {
        let mut changes = Changes::default();
        for destination in std::mem::take(&mut self.dirty) {
            let target = self.target(&destination);
            if self.installed.get(&destination) != target.as_ref() {
                match target {
                    Some(target) => {
                        self.installed.insert(destination, target.clone());
                        changes.routes.push(Update::Route(Route { destination, target }));
                    }
                    None => {
                        self.installed.remove(&destination);
                        changes.routes.push(Update::RouteRemoved(destination));
                    }
                }
            }
            let announce = self.is_announced(&destination);
            if announce && self.announced.insert(destination) {
                changes.announce.push(destination);
            } else if !announce && self.announced.remove(&destination) {
                changes.withdraw.push(destination);
            }
        }
        changes
    }

    fn target(&self, destination: &IpNet) -> Option<RouteTarget> {
        if let Some(interface) = self.addresses.get(destination) {
            return Some(RouteTarget::Workload(Arc::clone(interface)));
        }
        if self.blocks.contains(destination) {
            return Some(RouteTarget::Blackhole);
        }
        if let Some(target) = self.overlay.get(destination) {
            return Some(target.clone());
        }
        let hop = |gateway: &IpAddr| NextHop { gateway: *gateway, interface: None };
        if let Some(gateway) = self.gateways.get(destination) {
            return Some(RouteTarget::Via(vec![hop(gateway)]));
        }
        let hops = self.learned.get(destination)?;
        let programmed = self.kernel.programs(destination);
        programmed.then(|| RouteTarget::Via(hops.iter().map(hop).collect()))
    }

    fn is_announced(&self, prefix: &IpNet) -> bool {
        self.blocks.contains(prefix)
            || self.addresses.contains_key(prefix)
            || self.services.contains(prefix)
    }
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
        RouteEvent::Put(LearnedRoute { prefix: net(prefix), next_hops: vec![hop.parse().unwrap()] })
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
        routing.set_services([net("10.96.0.0/12")]);
        assert_eq!(routing.flush().withdraw, [net("203.0.113.0/24")]);
    }

    #[test]
    fn a_far_peer_is_reached_by_its_gateway() {
        let mut routing = Routing::default();
        let (peer, gateway) = (net("10.9.0.1/32"), "192.0.2.1".parse().unwrap());
        routing.handle_route(learn("10.9.0.1/32", "192.0.2.2"));
        routing.set_gateways([(peer, gateway)].into());
        let via = |gateway| RouteTarget::Via(vec![NextHop { gateway, interface: None }]);
        let route = |gateway| Update::Route(Route { destination: peer, target: via(gateway) });
        assert_eq!(routing.flush().routes, [route(gateway)]);
        routing.set_gateways(BTreeMap::new());
        assert_eq!(routing.flush().routes, [route("192.0.2.2".parse().unwrap())]);
    }

    #[test]
    fn own_addresses_and_blocks_win_over_learned_routes() {
        let mut routing = Routing::default();
        routing.handle_route(learn("10.65.0.0/26", "192.0.2.2"));
        assert_eq!(routing.flush().routes.len(), 1);
        routing.set_block(net("10.65.0.0/26"), true);
        let changes = routing.flush();
        let own = Route { destination: net("10.65.0.0/26"), target: RouteTarget::Blackhole };
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
    fn an_address_that_moved_to_another_endpoint_stays() {
        let mut routing = Routing::default();
        routing.set_endpoint(&endpoint("old", "cali1", "10.65.0.1/32"));
        routing.set_endpoint(&endpoint("new", "cali2", "10.65.0.1/32"));
        routing.remove_endpoint(&EndpointId { namespace: "default".into(), name: "old".into() });
        let to_new = RouteTarget::Workload("cali2".into());
        let route = Route { destination: net("10.65.0.1/32"), target: to_new };
        assert_eq!(routing.flush().routes, [Update::Route(route)]);
    }
}
