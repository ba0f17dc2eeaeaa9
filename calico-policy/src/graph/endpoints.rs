//! Endpoints and network sets: what has labels and addresses.

use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{Dscp, EndpointId, Limits, Marking, Translation};
use calico_core::kind::Kind;
use calico_core::resource::{
    Cidr, EndpointOutline, FieldError, GlobalNetworkSet, IpNat, NAMESPACE_PROFILE_PREFIX,
    NetworkSet, WorkloadEndpoint, WorkloadEndpointPort,
};
use ipnet::IpNet;

use super::Graph;
use crate::index::{Change, ItemId, pairs};
use crate::sets::{Contribution, NamedPort};

/// The longest name that Linux gives an interface, in bytes.
pub(super) const MAX_INTERFACE_NAME: usize = 15;

/// Identity of an item. 40 bytes; the namespace's text is shared, the name costs its length and
/// 16 bytes more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ItemKey {
    kind: Kind,
    /// Empty for a kind without one.
    namespace: Arc<str>,
    name: Arc<str>,
}

/// What the graph keeps of an item, next to its labels in the index.
#[derive(Debug)]
pub(super) struct Item {
    key: ItemKey,
    pub(super) contribution: Contribution,
    role: Role,
}

/// What an item is to this node, besides a member of sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing.
    Remote,
    /// One of its workload endpoints.
    Workload,
    /// One of its host endpoints.
    Host,
}

/// What the dataplane must know of an endpoint of this node, besides its policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) item: ItemId,
    pub(super) interface: Arc<str>,
    pub(super) addresses: Vec<IpNet>,
    pub(super) allowed_sources: Vec<IpNet>,
    pub(super) limits: Limits,
    pub(super) profiles: Vec<Arc<str>>,
}

impl ItemKey {
    pub(super) fn endpoint(&self) -> EndpointId {
        EndpointId { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name) }
    }
}

impl Item {
    pub(super) fn endpoint(&self) -> EndpointId {
        self.key.endpoint()
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.key.name)
    }
}

impl Graph {
    pub(super) fn item_key(&self, kind: Kind, namespace: &str, name: &str) -> ItemKey {
        // The namespace of an endpoint is also one of its labels.
        let shared = self.names.get(namespace).map(|symbol| Arc::clone(self.names.text(symbol)));
        let namespace = shared.unwrap_or_else(|| namespace.into());
        ItemKey { kind, namespace, name: name.into() }
    }

    pub(super) fn put_endpoint(
        &mut self,
        endpoint: &WorkloadEndpoint,
        warnings: &mut Vec<FieldError>,
    ) -> Result<(), Vec<FieldError>> {
        let spec = &endpoint.spec;
        let key = self.item_key(Kind::WorkloadEndpoint, endpoint.namespace(), endpoint.name());
        if spec.ip_networks.is_empty() {
            // Not ready yet: upstream passes over it, too.
            self.remove_item(&key);
            return Ok(());
        }
        let is_local = self.node.as_deref().is_none_or(|node| node == spec.node);
        if is_local && !(1..=MAX_INTERFACE_NAME).contains(&spec.interface_name.len()) {
            let message = format!("must have 1 to {MAX_INTERFACE_NAME} bytes");
            return Err(vec![FieldError::new("spec.interfaceName", message)]);
        }
        let addresses = addresses(&spec.ip_networks);
        let ports = self.named_ports(&spec.ports);
        let local = is_local.then(|| Local {
            item: 0,
            interface: spec.interface_name.as_str().into(),
            addresses: addresses.iter().map(|address| IpNet::from(*address)).collect(),
            allowed_sources: spec.allow_spoofed_source_prefixes.iter().map(IpNet::trunc).collect(),
            limits: spec.qos_controls.as_ref().map(Limits::from).unwrap_or_default(),
            profiles: spec.profiles.iter().map(|name| name.as_str().into()).collect(),
        });
        let translation = |nat: &IpNat| {
            let (external, internal) = nat.external_ip.zip(nat.internal_ip)?;
            (external.is_ipv4() == internal.is_ipv4()).then_some(Translation { external, internal })
        };
        let floating = spec.ip_nats.iter().filter(|_| is_local).filter_map(translation).collect();
        self.host.set_floating(&key.endpoint(), floating);
        let dscp = spec.qos_controls.as_ref().and_then(|qos| qos.dscp.as_ref());
        let dscp = dscp.filter(|_| is_local).map(Dscp::of_value);
        let markings = markings(dscp, &addresses, "spec.qosControls.dscp", warnings);
        self.host.set_markings(&key.endpoint(), markings);
        let labels = || endpoint.selector_label_pairs();
        let contribution = Contribution::Endpoint { addresses: addresses.into(), ports };
        let role = if is_local { Role::Workload } else { Role::Remote };
        let id = self.put_item(key, contribution, labels, &spec.profiles, role);
        if let Some(local) = local {
            self.put_local(Local { item: id, ..local });
        }
        Ok(())
    }

    /// As [`put_endpoint`](Self::put_endpoint), of another node's.
    pub(super) fn put_endpoint_elsewhere(&mut self, endpoint: &EndpointOutline) {
        let key = self.item_key(Kind::WorkloadEndpoint, &endpoint.namespace, &endpoint.name);
        if endpoint.addresses.is_empty() {
            self.remove_item(&key);
            return;
        }
        // What this node's have besides goes with the item's role, if it was one of them.
        let addresses = addresses(&endpoint.addresses).into();
        let ports = self.named_ports(&endpoint.ports);
        let contribution = Contribution::Endpoint { addresses, ports };
        let labels = || endpoint.selector_label_pairs();
        self.put_item(key, contribution, labels, &endpoint.profiles, Role::Remote);
    }

    fn named_ports(&mut self, ports: &[WorkloadEndpointPort]) -> Box<[NamedPort]> {
        let named = ports.iter().filter(|port| !port.name.is_empty());
        let ports = named.map(|port| NamedPort {
            name: self.names.acquire(&port.name),
            protocol: port.protocol.map_or(6, |protocol| protocol.number()),
            port: port.port,
        });
        ports.collect()
    }

    pub(super) fn put_network_set(&mut self, set: &NetworkSet) {
        let labels = set.selector_labels();
        let parents = [format!("{NAMESPACE_PROFILE_PREFIX}{}", set.namespace())];
        let nets = set.spec.nets.iter().map(|net| net.0.trunc()).collect();
        let key = self.item_key(Kind::NetworkSet, set.namespace(), set.name());
        self.put_item(key, Contribution::Nets(nets), || pairs(&labels), &parents, Role::Remote);
    }

    pub(super) fn put_global_network_set(&mut self, set: &GlobalNetworkSet) {
        let nets = set.spec.nets.iter().map(|net| net.0.trunc()).collect();
        let key = self.item_key(Kind::GlobalNetworkSet, "", set.name());
        let labels = || pairs(&set.metadata.labels);
        self.put_item(key, Contribution::Nets(nets), labels, &[], Role::Remote);
    }

    /// `labels` names each label of the item once, every time that it is called.
    pub(super) fn put_item<'a, L: Iterator<Item = (&'a str, &'a str)>>(
        &mut self,
        key: ItemKey,
        contribution: Contribution,
        labels: impl Fn() -> L,
        parents: &[String],
        role: Role,
    ) -> ItemId {
        let known = self.items.get(&key).copied();
        let id = known.unwrap_or_else(|| {
            let id = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                ItemId::try_from(self.slots.len() - 1).expect("fewer than 2^32 endpoints")
            });
            self.items.insert(key.clone(), id);
            id
        });
        let item = Item { key, contribution, role };
        let before = self.slots[id as usize].replace(item);
        if let Some(before) = before.as_ref().map(|item| item.role).filter(|before| *before != role)
        {
            self.remove_local(id, before);
        }

        // Sets that it stays in see its new addresses; those that it joins or leaves are told by
        // the index.
        let stays: Vec<_> = self.everyone.queries_of(id).to_vec();
        let mut changes = Vec::new();
        self.everyone.put_item(&mut self.names, id, labels(), parents, &mut changes);
        if let (Some(before), Some(now)) = (&before, &self.slots[id as usize]) {
            let left: Vec<_> = changes.iter().filter(|c| !c.matches).map(|c| c.query).collect();
            for query in &left {
                self.sets.change(*query, &before.contribution, false);
            }
            if before.contribution != now.contribution {
                for query in stays.iter().filter(|query| !left.contains(query)) {
                    self.sets.change(*query, &now.contribution, true);
                    self.sets.change(*query, &before.contribution, false);
                }
            }
        }
        changes.retain(|change| change.matches);
        self.apply_members(&changes);
        if let Some(before) = before {
            self.release_ports(&before.contribution);
        }

        let index = match role {
            Role::Remote => return id,
            Role::Workload => &mut self.residents,
            Role::Host => &mut self.host_residents,
        };
        let mut changes = Vec::new();
        index.put_item(&mut self.names, id, labels(), parents, &mut changes);
        self.apply_selections(&changes);
        id
    }

    pub(super) fn remove_item(&mut self, key: &ItemKey) {
        let Some(id) = self.items.remove(key) else { return };
        if let Some(role) = self.slots[id as usize].as_ref().map(|item| item.role) {
            self.remove_local(id, role);
        }
        let mut changes = Vec::new();
        self.everyone.remove_item(&mut self.names, id, &mut changes);
        self.apply_members(&changes);
        if let Some(item) = self.slots[id as usize].take() {
            self.release_ports(&item.contribution);
        }
        self.free.push(id);
    }

    /// Items joined or left sets, with the addresses that they have now.
    pub(super) fn apply_members(&mut self, changes: &[Change]) {
        for change in changes {
            if let Some(item) = &self.slots[change.item as usize] {
                self.sets.change(change.query, &item.contribution, change.matches);
            }
        }
    }

    /// Policies began or ceased to select local endpoints.
    pub(super) fn apply_selections(&mut self, changes: &[Change]) {
        for change in changes {
            self.touch(change.item);
            if let Some(policy) = self.policies.get(&change.query) {
                self.dirty.owners.insert(policy.owner());
            }
        }
    }

    /// Has a local endpoint looked at in the next flush.
    pub(super) fn touch(&mut self, item: ItemId) {
        let Some(Some(item)) = self.slots.get(item as usize) else { return };
        if item.key.kind == Kind::HostEndpoint {
            self.dirty.hosts.insert(item.name());
        } else {
            self.dirty.endpoints.insert(item.endpoint());
        }
    }

    fn put_local(&mut self, local: Local) {
        let Some(item) = &self.slots[local.item as usize] else { return };
        let id = item.key.endpoint();
        if self.locals.get(&id) == Some(&local) {
            return;
        }
        local.profiles.iter().for_each(|profile| self.use_profile(profile));
        if let Some(before) = self.locals.insert(id.clone(), local) {
            before.profiles.iter().for_each(|profile| self.leave_profile(profile));
        }
        self.dirty.endpoints.insert(id);
    }

    /// The item is no longer an endpoint of this node, as which it had this role.
    fn remove_local(&mut self, id: ItemId, role: Role) {
        let index = match role {
            Role::Remote => return,
            Role::Workload => &mut self.residents,
            Role::Host => &mut self.host_residents,
        };
        let mut changes = Vec::new();
        index.remove_item(&mut self.names, id, &mut changes);
        self.apply_selections(&changes);
        self.touch(id);
        let Some(item) = &self.slots[id as usize] else { return };
        self.host.set_markings(&item.key.endpoint(), Vec::new());
        let profiles = match role {
            Role::Host => self.local_hosts.remove(&item.key.name).map(|local| local.profiles),
            _ => {
                let id = item.key.endpoint();
                self.host.set_floating(&id, Vec::new());
                self.locals.remove(&id).map(|local| local.profiles)
            }
        };
        profiles.iter().flatten().for_each(|profile| self.leave_profile(profile));
    }

    fn release_ports(&mut self, contribution: &Contribution) {
        if let Contribution::Endpoint { ports, .. } = contribution {
            ports.iter().for_each(|port| self.names.release(port.name));
        }
    }
}

/// Each address once.
fn addresses(nets: &[Cidr]) -> Vec<IpAddr> {
    let mut addresses = Vec::with_capacity(nets.len());
    for address in nets.iter().map(|net| net.addr()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// What packets from these addresses carry; nothing if the code point cannot be read.
pub(super) fn markings(
    dscp: Option<Result<Dscp, String>>,
    addresses: &[IpAddr],
    path: &str,
    warnings: &mut Vec<FieldError>,
) -> Vec<Marking> {
    match dscp.transpose() {
        Ok(None) => Vec::new(),
        Ok(Some(dscp)) => {
            addresses.iter().map(|source| Marking { source: *source, dscp }).collect()
        }
        Err(problem) => {
            warnings.push(FieldError::new(path, format!("{problem}; it has no effect")));
            Vec::new()
        }
    }
}
