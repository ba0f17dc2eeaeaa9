//! What this node routes and what it announces, from its blocks, endpoints and peers. Pure.
//!
//! Per destination, the first of these that exists is the route:
//!
//! 1. an address of an endpoint of this node: to its interface;
//! 2. a block that this node owns: a blackhole, so that an unused address of it loops nowhere;
//! 3. a prefix learned from other routers: to their next hops.
//!
//! Announced are the own blocks, and addresses of own endpoints that lie in no own block (borrowed
//! ones), as far as they lie in a pool that is exported (upstream: `calico_export_to_bgp_peers`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{EndpointId, NextHop, Route, RouteTarget, Update, WorkloadEndpoint};
use calico_core::routes::RouteEvent;
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

/// A pool, as far as export is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportPool {
    /// Its addresses.
    pub cidr: IpNet,
    /// Whether prefixes in it may be announced.
    pub exported: bool,
}

/// Desired routes and announcements of one node. Work per flush follows what changed.
#[derive(Debug, Default)]
pub struct Routing {
    blocks: BTreeSet<IpNet>,
    pools: Vec<ExportPool>,
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
    /// This node owns (or no longer owns) a block.
    pub fn set_block(&mut self, block: IpNet, owned: bool) {
        let changed = if owned { self.blocks.insert(block) } else { self.blocks.remove(&block) };
        if changed {
            self.dirty.insert(block);
            // Addresses inside are announced one by one exactly when the block is not.
            let inside = self.addresses.keys().filter(|address| block.contains(*address));
            self.dirty.extend(inside.copied());
        }
    }

    /// The pools of the cluster; a block outside of all of them is not announced.
    pub fn set_pools(&mut self, pools: Vec<ExportPool>) {
        if self.pools != pools {
            self.pools = pools;
            self.dirty.extend(&self.blocks);
            self.dirty.extend(self.addresses.keys());
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
        let hops = self.learned.get(destination)?;
        let hop = |gateway: &IpAddr| NextHop { gateway: *gateway, interface: None };
        Some(RouteTarget::Via(hops.iter().map(hop).collect()))
    }

    fn is_announced(&self, prefix: &IpNet) -> bool {
        let own = self.blocks.contains(prefix)
            || (self.addresses.contains_key(prefix)
                && !self.blocks.iter().any(|block| block.contains(prefix)));
        // The most specific pool decides, should pools ever overlap.
        let pool = self.pools.iter().filter(|pool| pool.cidr.contains(prefix));
        own && pool.max_by_key(|pool| pool.cidr.prefix_len()).is_some_and(|pool| pool.exported)
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
            tiers: Vec::new(),
            profiles: Vec::new(),
        }
    }

    fn with_pool() -> Routing {
        let mut routing = Routing::default();
        routing.set_pools(vec![ExportPool { cidr: net("10.65.0.0/16"), exported: true }]);
        routing
    }

    fn learn(prefix: &str, hop: &str) -> RouteEvent {
        RouteEvent::Put(LearnedRoute { prefix: net(prefix), next_hops: vec![hop.parse().unwrap()] })
    }

    #[test]
    fn an_own_block_is_blackholed_and_announced() {
        let mut routing = with_pool();
        routing.set_block(net("10.65.0.0/26"), true);
        routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.1/32"));
        let changes = routing.flush();
        assert_eq!(changes.announce, [net("10.65.0.0/26")], "no address of an own block");
        assert_eq!(changes.routes.len(), 2);
        assert_eq!(routing.flush(), Changes::default());

        routing.set_block(net("10.65.0.0/26"), false);
        let changes = routing.flush();
        assert_eq!(changes.withdraw, [net("10.65.0.0/26")]);
        assert_eq!(changes.announce, [net("10.65.0.1/32")], "now a borrowed address");
    }

    #[test]
    fn what_lies_in_no_exported_pool_stays_secret() {
        let mut routing = with_pool();
        routing.set_block(net("10.66.0.0/26"), true);
        assert_eq!(routing.flush().announce, []);
        routing.set_pools(vec![ExportPool { cidr: net("10.66.0.0/16"), exported: false }]);
        assert_eq!(routing.flush().announce, []);
        routing.set_pools(vec![ExportPool { cidr: net("10.66.0.0/16"), exported: true }]);
        assert_eq!(routing.flush().announce, [net("10.66.0.0/26")]);
    }

    #[test]
    fn own_addresses_and_blocks_win_over_learned_routes() {
        let mut routing = with_pool();
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
        let mut routing = with_pool();
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
        let mut routing = with_pool();
        routing.set_endpoint(&endpoint("old", "cali1", "10.65.0.1/32"));
        routing.set_endpoint(&endpoint("new", "cali2", "10.65.0.1/32"));
        routing.remove_endpoint(&EndpointId { namespace: "default".into(), name: "old".into() });
        let to_new = RouteTarget::Workload("cali2".into());
        let route = Route { destination: net("10.65.0.1/32"), target: to_new };
        assert_eq!(routing.flush().routes, [Update::Route(route)]);
    }
}
