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

mod metrics;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{EndpointId, NextHop, Route, RouteTarget, Update, WorkloadEndpoint};
use calico_core::routes::RouteEvent;
use calico_peering::KernelFilter;
use ipnet::IpNet;

pub use self::metrics::Metrics;
use self::metrics::{METRIC_BASE, USUAL_LOCAL_PREF};

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
