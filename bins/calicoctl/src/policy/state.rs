//! All resources that have a say in policy, from the store or from files.

use calico_core::Datastore;
use calico_core::dataplane::EndpointId;
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, WorkloadEndpoint};
use calico_policy::desired::Desired;
use calico_policy::{Graph, Input, Object, staged};

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
    pub(super) endpoints: Vec<WorkloadEndpoint>,
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
            endpoints: Vec::new(),
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
        if let Object::WorkloadEndpoint(endpoint) = &object {
            self.endpoints.push((**endpoint).clone());
        }
        self.handle(Input::Put(object));
        Ok(())
    }

    /// What the graph refuses is left out, as an agent does.
    fn handle(&mut self, input: Input) {
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
                Ok(staged::Effect::Unknown) => self.warnings.push(format!(
                    "{name}: not looked at: rules of Kubernetes are not converted here"
                )),
                Ok(_) => {}
                Err(error) => self.warnings.push(format!("left out: {name}: {error}")),
            }
        }
        self.flush();
        names
    }
}

fn is_wanted(kind: Kind) -> bool {
    Object::has_kind(kind) || STAGED.contains(&kind)
}
