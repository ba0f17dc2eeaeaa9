//! Desired routes, known routes, and what is between them. Pure: no kernel, no clock.

mod made;
mod op;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::dataplane::{Route, RouteTarget};
use ipnet::IpNet;

use super::config::RouteConfig;
use super::kernel::{Hop, KernelRoute, KernelTarget};
use super::recursive::Detours;
use crate::link::Link;

pub use self::op::{Op, Standing};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    up: bool,
}

/// Desired routes and what is known of the kernel's.
#[derive(Debug)]
pub struct RouteTable {
    config: RouteConfig,
    interfaces: BTreeMap<u32, Interface>,
    indexes: BTreeMap<String, u32>,
    desired: BTreeMap<IpNet, Wanted>,
    /// Only ours.
    kernel: BTreeMap<IpNet, Vec<KernelRoute>>,
    /// Destinations to look at.
    dirty: BTreeSet<IpNet>,
    /// Destinations that were desired in this run and are no longer.
    forgotten: BTreeSet<IpNet>,
    standing: BTreeMap<IpNet, Standing>,
    detours: Detours,
    complete: bool,
    learned_complete: bool,
    /// What routes of ours had before the configuration changed.
    former: Former,
}

/// What is desired of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    target: RouteTarget,
    metric: Option<u32>,
}

/// Protocol numbers that routes of ours had before.
#[derive(Debug, Default)]
struct Former {
    workload: BTreeSet<u8>,
    tunnel: BTreeSet<u8>,
}

impl RouteTable {
    /// An empty one: nothing desired, nothing known.
    #[must_use]
    pub fn new(config: RouteConfig) -> Self {
        Self {
            config,
            interfaces: BTreeMap::new(),
            indexes: BTreeMap::new(),
            desired: BTreeMap::new(),
            kernel: BTreeMap::new(),
            dirty: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            standing: BTreeMap::new(),
            detours: Detours::default(),
            complete: false,
            learned_complete: false,
            former: Former::default(),
        }
    }

    /// Another configuration holds from now on. Routes of the one before are still ours; those
    /// that are not as the new one wants them are looked at by the next [`plan`](Self::plan).
    pub fn configure(&mut self, config: RouteConfig) {
        self.former.workload.insert(self.config.workload_protocol);
        self.former.tunnel.insert(self.config.tunnel_protocol);
        self.config = config;
        self.dirty.extend(self.desired.keys());
        self.dirty.extend(self.kernel.keys());
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &RouteConfig {
        &self.config
    }

    /// Desires a route.
    pub fn desire(&mut self, route: Route) {
        let destination = route.destination.trunc();
        let wanted = Wanted { target: route.target, metric: route.metric };
        if self.desired.get(&destination) == Some(&wanted) {
            return;
        }
        self.desired.insert(destination, wanted);
        self.forgotten.remove(&destination);
        self.dirty.insert(destination);
    }

    /// Desires no route to a destination (any more). One that was never desired stays in the
    /// kernel until the desired state is complete.
    pub fn forget(&mut self, destination: IpNet) {
        let destination = destination.trunc();
        if self.desired.remove(&destination).is_some() {
            self.forgotten.insert(destination);
        }
        self.standing.remove(&destination);
        self.dirty.insert(destination);
    }

    /// Desires exactly these, and no others of ours. Unless `learned` is (or was) set, routes over
    /// other routers that were never desired stay: their peers may still be about to tell them.
    pub fn desire_exactly(&mut self, routes: &[Route], learned: bool) {
        let wanted: BTreeSet<IpNet> =
            routes.iter().map(|route| route.destination.trunc()).collect();
        let gone: Vec<_> =
            self.desired.keys().filter(|known| !wanted.contains(known)).copied().collect();
        for destination in gone {
            self.forget(destination);
        }
        for route in routes {
            self.desire(route.clone());
        }
        if !self.complete || (learned && !self.learned_complete) {
            self.complete = true;
            self.learned_complete |= learned;
            self.dirty.extend(self.kernel.keys());
        }
    }

    /// What keeps desired routes out of the kernel.
    pub fn standing(&self) -> impl Iterator<Item = (IpNet, &Standing)> {
        self.standing.iter().map(|(destination, standing)| (*destination, standing))
    }

    /// The interface is there and like this.
    pub fn link_seen(&mut self, link: &Link) {
        let interface = Interface { name: link.name.clone(), up: link.up };
        if self.interfaces.get(&link.index) == Some(&interface) {
            return;
        }
        self.forget_name(link.index);
        self.indexes.insert(link.name.clone(), link.index);
        self.interfaces.insert(link.index, interface);
        if !link.up {
            self.routes_lost(link.index);
        }
        self.retry();
    }

    /// The interface is gone.
    pub fn link_gone(&mut self, index: u32) {
        self.forget_name(index);
        if self.interfaces.remove(&index).is_some() {
            self.routes_lost(index);
            self.retry();
        }
    }

    /// The kernel has this route, in its place.
    pub fn route_seen(&mut self, route: KernelRoute) {
        if !self.owns(&route) {
            let routes = self.kernel.get(&route.destination);
            if routes.is_some_and(|routes| routes.iter().any(|known| known.same_place(&route))) {
                // It has taken the place of one of ours.
                self.lost(&route);
                self.dirty.insert(route.destination);
            }
            return;
        }
        // The CNI program makes a workload's route before anyone desires it. Only a whole
        // comparison tells such a route from one that is left over.
        let is_early = self.is_workload_protocol(route.protocol)
            && !self.desired.contains_key(&route.destination);
        if !is_early {
            self.dirty.insert(route.destination);
        }
        let routes = self.kernel.entry(route.destination).or_default();
        routes.retain(|known| !known.same_place(&route));
        routes.push(route);
    }

    /// The kernel no longer has this route.
    pub fn route_gone(&mut self, route: &KernelRoute) {
        let Some(routes) = self.kernel.get_mut(&route.destination) else { return };
        let before = routes.len();
        routes.retain(|known| !(known.same_place(route) && known.protocol == route.protocol));
        if routes.len() != before {
            self.dirty.insert(route.destination);
        }
    }

    /// The kernel has exactly these interfaces and routes. Returns how its routes differ from
    /// what is desired, one line each, before anything is repaired.
    pub fn observe(&mut self, links: &[Link], routes: Vec<KernelRoute>) -> Vec<String> {
        self.interfaces = links
            .iter()
            .map(|link| (link.index, Interface { name: link.name.clone(), up: link.up }))
            .collect();
        self.indexes = links.iter().map(|link| (link.name.clone(), link.index)).collect();
        self.kernel.clear();
        for route in routes {
            if self.owns(&route) {
                self.kernel.entry(route.destination).or_default().push(route);
            }
        }
        self.dirty.extend(self.desired.keys());
        if self.complete {
            self.dirty.extend(self.kernel.keys());
        }
        self.dirty.iter().filter_map(|destination| self.difference(*destination)).collect()
    }

    /// What to do, in order: routes that come before routes that go.
    pub fn plan(&mut self) -> Vec<Op> {
        let (mut come, mut go) = (Vec::new(), Vec::new());
        let config = &self.config;
        for destination in std::mem::take(&mut self.dirty) {
            if !config.manages(&destination) {
                self.standing.remove(&destination);
                continue;
            }
            let known = self.kernel.get(&destination).map_or(&[][..], Vec::as_slice);
            let wanted = match self
                .desired
                .get(&destination)
                .map(|wanted| self.resolve(destination, wanted))
            {
                None => {
                    self.standing.remove(&destination);
                    let forgotten = self.forgotten.remove(&destination);
                    let unwanted =
                        known.iter().filter(|known| forgotten || self.is_unwanted(known));
                    go.extend(unwanted.cloned().map(Op::Remove));
                    continue;
                }
                Some(Err(standing)) => {
                    if self.complete {
                        go.extend(known.iter().cloned().map(Op::Remove));
                    }
                    self.standing.insert(destination, standing);
                    continue;
                }
                Some(Ok(wanted)) => wanted,
            };
            self.standing.remove(&destination);
            match known.iter().find(|known| wanted.same_place(known)) {
                Some(known) if wanted.is_met_by(known) => {}
                Some(_) => come.push(Op::Replace(wanted.clone())),
                None => come.push(Op::Add(wanted.clone())),
            }
            if self.complete {
                let others = known.iter().filter(|known| !wanted.same_place(known));
                go.extend(others.cloned().map(Op::Remove));
            }
        }
        come.extend(go);
        come
    }

    /// The kernel carried the change out.
    pub fn done(&mut self, op: Op) {
        match op {
            Op::Add(route) | Op::Replace(route) => {
                let routes = self.kernel.entry(route.destination).or_default();
                routes.retain(|known| !known.same_place(&route));
                routes.push(route);
            }
            Op::Remove(route) => self.lost(&route),
        }
    }

    /// The kernel refused the change.
    pub fn refused(&mut self, op: &Op, reason: String) {
        let route = op.route();
        if let Op::Replace(_) = op {
            // IPv6 replaces a route of several hops in several steps: what it has now is unknown.
            self.lost(route);
        }
        if self.desired.contains_key(&route.destination) {
            self.standing.insert(route.destination, Standing::Refused { reason });
        }
    }

    /// Whether there is anything to look at.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether there is this destination to look at.
    pub(super) fn is_dirty_at(&self, destination: &IpNet) -> bool {
        self.dirty.contains(destination)
    }

    /// Looks at what waits or was refused again.
    pub fn retry(&mut self) {
        self.dirty.extend(self.standing.keys());
    }

    /// The gateways, found by the kernel, of the desired route to a destination.
    pub(super) fn gateways(&self, destination: &IpNet) -> Vec<IpAddr> {
        match self.desired.get(destination).map(|wanted| &wanted.target) {
            Some(RouteTarget::Via(hops)) => {
                let found = hops.iter().filter(|hop| hop.interface.is_none());
                found.map(|hop| hop.gateway).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Gateways of desired routes that are known to be on no link; forgets those that no desired
    /// route has any more.
    pub(super) fn far_gateways(&mut self) -> Vec<IpAddr> {
        if self.detours.gateways().next().is_some() {
            let desired = self.desired.keys();
            let used: BTreeSet<IpAddr> = desired.flat_map(|at| self.gateways(at)).collect();
            self.detours.forget(|gateway| !used.contains(&gateway));
        }
        self.detours.gateways().collect()
    }

    /// These hops lead to a gateway that is on no link; or it is on one.
    pub(super) fn gateway_seen(&mut self, gateway: IpAddr, hops: Option<Vec<Hop>>) {
        if self.detours.learn(gateway, hops) {
            let through = self.desired.keys().filter(|at| self.gateways(at).contains(&gateway));
            let through: Vec<IpNet> = through.copied().collect();
            self.dirty.extend(through);
        }
    }

    fn difference(&self, destination: IpNet) -> Option<String> {
        if !self.config.manages(&destination) {
            return None;
        }
        let known = self.kernel.get(&destination).map_or(&[][..], Vec::as_slice);
        match self.desired.get(&destination) {
            None => {
                let unwanted = known.iter().find(|known| self.is_unwanted(known))?;
                Some(format!("unwanted route {unwanted}"))
            }
            Some(wanted) => {
                let wanted = self.resolve(destination, wanted).ok()?;
                match known.iter().find(|known| wanted.same_place(known)) {
                    None => Some(format!("missing route {wanted}")),
                    Some(known) if wanted.is_met_by(known) => None,
                    Some(known) => Some(format!("wrong route {known} instead of {wanted}")),
                }
            }
        }
    }

    /// Whether a route of ours that nobody desires has to go.
    fn is_unwanted(&self, route: &KernelRoute) -> bool {
        let via = match &route.target {
            KernelTarget::Hops(hops) => hops.iter().any(|hop| hop.gateway.is_some()),
            KernelTarget::Blackhole | KernelTarget::Other => false,
        };
        self.complete && (self.learned_complete || !via)
    }

    /// The kernel drops the routes of an interface that goes down, silently.
    fn routes_lost(&mut self, index: u32) {
        for (destination, routes) in &mut self.kernel {
            let before = routes.len();
            routes.retain(|route| !route.uses(index));
            if routes.len() != before {
                self.dirty.insert(*destination);
            }
        }
    }

    fn forget_name(&mut self, index: u32) {
        let Some(interface) = self.interfaces.get(&index) else { return };
        if self.indexes.get(&interface.name) == Some(&index) {
            self.indexes.remove(&interface.name);
        }
    }

    fn lost(&mut self, route: &KernelRoute) {
        if let Some(routes) = self.kernel.get_mut(&route.destination) {
            routes.retain(|known| !known.same_place(route));
            if routes.is_empty() {
                self.kernel.remove(&route.destination);
            }
        }
    }
}
