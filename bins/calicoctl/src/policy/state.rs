//! All resources that have a say in policy, from the store or from files.

use std::net::IpAddr;

use calico_core::Datastore;
use calico_core::dataplane::EndpointId;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{
    AnyResource, Cidr, FieldError, HostEndpoint, KubernetesEndpointSlice, Node, Resource, Spec,
    StagedAction, StagedKubernetesNetworkPolicy, WorkloadEndpoint,
};
use calico_datastore::conversion::{self, NETWORK_POLICY_PREFIX};
use calico_policy::desired::Desired;
use calico_policy::way::{Cluster, Topology};
use calico_policy::{Graph, Input, Object, staged};
use serde_json::json;

use crate::failure::{Failure, name_of};
use crate::stored::{from_entry, place};

/// Kinds that explanations look at besides those of [`Object`].
const STAGED: [Kind; 3] = [
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
];

/// A cluster, as far as policy goes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) graph: Graph,
    /// What the graph says.
    pub(super) desired: Desired,
    pub(super) topology: Topology,
    pub(super) endpoints: Vec<WorkloadEndpoint>,
    pub(super) hosts: Vec<HostEndpoint>,
    pub(super) nodes: Vec<Node>,
    pub(super) slices: Vec<KubernetesEndpointSlice>,
    /// Networks that have labels: what people call each set, and what is in it.
    pub(super) networks: Vec<(String, Vec<Cidr>)>,
    pub(super) staged: Vec<AnyResource>,
    /// What was left out, and what does not do what it says.
    pub(super) warnings: Vec<String>,
}

impl State {
    pub(super) async fn of_store(store: &dyn Datastore) -> Result<Self, Failure> {
        let mut state = Self::new();
        let kinds = Kind::ALL.iter().copied().filter(|kind| is_wanted(*kind));
        for kind in kinds {
            for entry in store.list(&Scope::Kind(kind)).await?.entries {
                match from_entry(&entry) {
                    Ok(resource) => state.add(resource)?,
                    Err(error) => state.warnings.push(format!("left out: {error}")),
                }
            }
        }
        Ok(state.complete())
    }

    pub(super) fn of_files(resources: Vec<AnyResource>) -> Result<Self, Failure> {
        let mut state = Self::new();
        for resource in resources.into_iter().filter(|resource| is_wanted(resource.kind)) {
            state.add(resource)?;
        }
        Ok(state.complete())
    }

    fn new() -> Self {
        Self {
            graph: Graph::for_every_node(),
            desired: Desired::default(),
            topology: Topology::default(),
            endpoints: Vec::new(),
            hosts: Vec::new(),
            nodes: Vec::new(),
            slices: Vec::new(),
            networks: Vec::new(),
            staged: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn add(&mut self, mut resource: AnyResource) -> Result<(), Failure> {
        let key = place(&mut resource, None)?;
        if STAGED.contains(&resource.kind) {
            self.staged.push(resource);
            return Ok(());
        }
        let object = match Object::from_resource(&resource) {
            Ok(Some(object)) => object,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.warnings.push(format!("left out: {}: {error}", name_of(&key)));
                return Ok(());
            }
        };
        self.remember(&object);
        self.handle(Input::Put(object));
        Ok(())
    }

    /// What people may name, or want to be told of.
    fn remember(&mut self, object: &Object) {
        match object {
            Object::WorkloadEndpoint(endpoint) => put(&mut self.endpoints, endpoint),
            Object::HostEndpoint(endpoint) => put(&mut self.hosts, endpoint),
            Object::Node(node) => put(&mut self.nodes, node),
            Object::KubernetesEndpointSlice(slice) => put(&mut self.slices, slice),
            Object::GlobalNetworkSet(set) => {
                let name = format!("GlobalNetworkSet {}", set.name());
                self.put_networks(name, &set.spec.nets);
            }
            Object::NetworkSet(set) => {
                let name = format!("NetworkSet {}/{}", set.namespace(), set.name());
                self.put_networks(name, &set.spec.nets);
            }
            _ => {}
        }
    }

    fn put_networks(&mut self, name: String, nets: &[Cidr]) {
        self.networks.retain(|(known, _)| *known != name);
        self.networks.push((name, nets.to_vec()));
    }

    /// What the graph refuses is left out, as an agent does.
    fn handle(&mut self, input: Input) {
        self.topology.handle(&input);
        if let Err(error) = self.graph.handle(input) {
            self.warnings.push(format!("left out: {error}"));
        }
    }

    fn complete(mut self) -> Self {
        self.flush();
        self
    }

    fn flush(&mut self) {
        self.graph.flush();
        self.warnings.extend(self.graph.take_warnings().iter().map(ToString::to_string));
        self.desired = self.graph.desired();
    }

    /// For who is asked about a packet.
    pub(super) const fn cluster(&self) -> Cluster<'_> {
        Cluster { desired: &self.desired, topology: &self.topology }
    }

    /// A node's own addresses, as its agent has told them.
    pub(super) fn addresses_of_node(&self, name: &str) -> Vec<IpAddr> {
        let node = self.nodes.iter().find(|node| node.name() == name);
        let mut all: Vec<IpAddr> = Vec::new();
        for address in node.iter().flat_map(|node| node.spec.own_addresses()) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// What people call an endpoint: its pod, if that has no other.
    pub(super) fn name_of(&self, id: &EndpointId) -> String {
        let here = || self.endpoints.iter().filter(|e| *e.namespace() == *id.namespace);
        let pod = here().find(|e| *e.name() == *id.name).map(|e| e.spec.pod.as_str());
        match pod.filter(|pod| !pod.is_empty()) {
            Some(pod) if here().filter(|e| e.spec.pod == pod).count() == 1 => {
                format!("{}/{pod}", id.namespace)
            }
            _ => id.to_string(),
        }
    }

    /// Takes resources in as if they were applied.
    pub(super) fn apply(&mut self, resources: &[AnyResource]) -> Result<(), Failure> {
        for resource in resources.iter().filter(|resource| is_wanted(resource.kind)) {
            self.add(resource.clone())?;
        }
        self.flush();
        Ok(())
    }

    /// Enforces what is staged. Returns the names of the policies that this is about.
    pub(super) fn enforce_staged(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        for resource in std::mem::take(&mut self.staged) {
            let (kind, metadata) = (resource.kind, &resource.metadata);
            let name = match metadata.namespace.as_str() {
                "" => format!("{kind} {}", metadata.name),
                namespace => format!("{kind} {namespace}/{}", metadata.name),
            };
            match staged::effect(&resource) {
                Ok(staged::Effect::Change(input)) => {
                    self.handle(input);
                    names.push(name);
                }
                Ok(staged::Effect::Unknown) => match of_kubernetes(&resource) {
                    Ok((input, notes)) => {
                        let note = |problem| format!("{name}: {problem}");
                        self.warnings.extend(notes.into_iter().map(note));
                        if let Some(input) = input {
                            self.handle(input);
                            names.push(name);
                        }
                    }
                    Err(error) => self.warnings.push(format!("left out: {name}: {error}")),
                },
                Ok(_) => {}
                Err(error) => self.warnings.push(format!("left out: {name}: {error}")),
            }
        }
        self.flush();
        names
    }
}

/// What a staged policy of Kubernetes would do, and what of it cannot be told; nothing if it is
/// only to be learned from.
fn of_kubernetes(resource: &AnyResource) -> Result<(Option<Input>, Vec<String>), FieldError> {
    let staged: StagedKubernetesNetworkPolicy = resource.typed()?;
    let name = format!("{NETWORK_POLICY_PREFIX}{}", staged.name());
    match staged.spec.staged_action.unwrap_or_default() {
        StagedAction::Set => {}
        StagedAction::Delete => {
            let key = Key::resource(Kind::NetworkPolicy, Some(staged.namespace()), &name);
            return Ok((Some(Input::Remove(key)), Vec::new()));
        }
        _ => return Ok((None, Vec::new())),
    }
    let mut spec = serde_json::to_value(&staged.spec).unwrap_or_default();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("stagedAction");
    }
    let metadata = json!({"name": staged.name(), "namespace": staged.namespace()});
    let policy = serde_json::from_value(json!({"metadata": metadata, "spec": spec}))
        .map_err(|error| FieldError::new("spec", error.to_string()))?;
    let mut converted = conversion::network_policy(&policy);
    converted.resource.metadata.name = name;
    Ok((Some(converted.resource.into()), converted.problems))
}

/// The last one of a name counts.
fn put<S: Spec + Clone>(list: &mut Vec<Resource<S>>, resource: &Resource<S>) {
    let name = (resource.namespace(), resource.name());
    list.retain(|known| (known.namespace(), known.name()) != name);
    list.push(resource.clone());
}

fn is_wanted(kind: Kind) -> bool {
    Object::has_kind(kind) || STAGED.contains(&kind)
}
