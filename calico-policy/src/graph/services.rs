//! What stands behind services: a set for each service that active rules name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use calico_core::resource::{KubernetesEndpointSlice, Protocol, SliceEndpoint};

use super::Graph;
use crate::index::QueryId;
use crate::rules::{ServiceName, service_name};
use crate::sets::Contribution;

/// `<namespace>/<name>` of an endpoint slice.
type SliceName = Arc<str>;

/// All endpoint slices of the cluster, and the sets of services.
#[derive(Debug, Default)]
pub(super) struct Services {
    slices: HashMap<SliceName, Slice>,
    services: HashMap<ServiceName, Service>,
}

#[derive(Debug)]
struct Slice {
    service: ServiceName,
    contribution: Contribution,
}

/// A service that has slices or is named by an active rule.
#[derive(Debug, Default)]
struct Service {
    slices: BTreeSet<SliceName>,
    /// At most two: with ports and without.
    sets: Vec<QueryId>,
}

impl Graph {
    /// A slice is there or has changed; one that names no service counts for nothing.
    pub(super) fn put_slice(&mut self, slice: &KubernetesEndpointSlice) {
        let name: SliceName = service_name(slice.namespace(), slice.name());
        let Some(service) = slice.service() else { return self.remove_slice(&name) };
        let service = service_name(slice.namespace(), service);
        let contribution = contribution(slice);
        let same = self.services.slices.get(&name).is_some_and(|before| {
            (&before.service, &before.contribution) == (&service, &contribution)
        });
        if same {
            return;
        }
        let entry = self.services.services.entry(Arc::clone(&service)).or_default();
        entry.slices.insert(Arc::clone(&name));
        // What stays is counted twice for a moment, and never leaves its sets.
        for set in &entry.sets {
            self.sets.change(*set, &contribution, true);
        }
        let slice = Slice { service: Arc::clone(&service), contribution };
        if let Some(before) = self.services.slices.insert(Arc::clone(&name), slice) {
            self.slice_leaves(&name, &before, before.service == service);
        }
    }

    pub(super) fn remove_slice(&mut self, name: &SliceName) {
        if let Some(before) = self.services.slices.remove(name) {
            self.slice_leaves(name, &before, false);
        }
    }

    fn slice_leaves(&mut self, name: &SliceName, slice: &Slice, replaced: bool) {
        let Some(service) = self.services.services.get_mut(&slice.service) else { return };
        for set in &service.sets {
            self.sets.change(*set, &slice.contribution, false);
        }
        if !replaced {
            service.slices.remove(name);
            self.services.forget_idle(&slice.service);
        }
    }

    /// A rule names the service for the first time: `set` gets what stands behind it.
    pub(super) fn watch_service(&mut self, service: &ServiceName, set: QueryId) {
        let entry = self.services.services.entry(Arc::clone(service)).or_default();
        entry.sets.push(set);
        for slice in entry.slices.iter().filter_map(|name| self.services.slices.get(name)) {
            self.sets.change(set, &slice.contribution, true);
        }
    }

    /// No rule needs `set` any more.
    pub(super) fn leave_service(&mut self, service: &ServiceName, set: QueryId) {
        if let Some(entry) = self.services.services.get_mut(service) {
            entry.sets.retain(|other| *other != set);
            self.services.forget_idle(service);
        }
    }
}

impl Services {
    fn forget_idle(&mut self, service: &ServiceName) {
        let idle = |entry: &Service| entry.slices.is_empty() && entry.sets.is_empty();
        if self.services.get(service).is_some_and(idle) {
            self.services.remove(service);
        }
    }
}

/// Every endpoint counts, ready or not: policy lets through what goes to one that is about to go.
fn contribution(slice: &KubernetesEndpointSlice) -> Contribution {
    let ports = slice.spec.ports.iter().filter_map(|port| {
        let protocol = port.protocol.unwrap_or(Protocol::Tcp);
        Some((protocol.number(), port.port?))
    });
    Contribution::Slice {
        addresses: slice.spec.endpoints.iter().flat_map(SliceEndpoint::ips).collect(),
        ports: ports.collect(),
    }
}
