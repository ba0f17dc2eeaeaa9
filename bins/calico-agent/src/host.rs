//! Settings of the host's dataplane, from FelixConfiguration and Node resources. Pure.
//!
//! Precedence as upstream, lowest first: default, `default`, resources with a `nodeSelector` that
//! selects this node (of several the oldest), `node.<name>`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::dataplane::{EndpointToHostAction, HostSettings};
use calico_core::datastore::{Entry, StoreError};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{
    EndpointToHostAction as Configured, FelixConfiguration, FelixConfigurationSpec,
    NatOutgoingExclusions,
};
use calico_core::selector::Selector;
use tracing::warn;

/// The FelixConfigurations of the cluster.
#[derive(Debug, Default)]
pub struct Felix {
    configurations: BTreeMap<String, FelixConfiguration>,
}

impl Felix {
    /// Takes a resource, if it is a FelixConfiguration. Says whether it is.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadObject`]; what was known of the object stays in force.
    pub fn put(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let Key::Resource { kind: Kind::FelixConfiguration, name, .. } = &entry.key else {
            return Ok(false);
        };
        self.configurations.insert(name.clone(), entry.decode()?);
        Ok(true)
    }

    /// Forgets a resource. Says whether it was a FelixConfiguration.
    pub fn gone(&mut self, key: &Key) -> bool {
        let Key::Resource { kind: Kind::FelixConfiguration, name, .. } = key else { return false };
        self.configurations.remove(name).is_some()
    }

    /// Settings of the node `node` with these labels, in a cluster of these nodes.
    #[must_use]
    pub fn settings(
        &self,
        node: &str,
        labels: &BTreeMap<String, String>,
        mut node_addresses: Vec<IpAddr>,
    ) -> HostSettings {
        node_addresses.sort_unstable();
        node_addresses.dedup();
        let mut settings = HostSettings { node_addresses, ..HostSettings::default() };
        for spec in self.in_force(node, labels) {
            apply(spec, &mut settings);
        }
        settings
    }

    fn in_force<'a>(
        &'a self,
        node: &str,
        labels: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a FelixConfigurationSpec> {
        let selected = self
            .configurations
            .values()
            .filter(|found| !found.spec.node_selector.is_empty())
            .filter(|found| found.name() != "default" && !found.name().starts_with("node."))
            .filter(|found| selects(&found.spec.node_selector, labels))
            .min_by_key(|found| (found.metadata.creation_timestamp.clone(), found.name()));
        let own = self.configurations.get(&format!("node.{node}"));
        let all = [self.configurations.get("default"), selected, own];
        all.into_iter().flatten().map(|found| &found.spec)
    }
}

fn apply(spec: &FelixConfigurationSpec, settings: &mut HostSettings) {
    // The first prefix is the one that new interfaces get.
    if let Some(prefix) = spec.interface_prefix.split(',').next().filter(|p| !p.is_empty()) {
        settings.interface_prefix = prefix.into();
    }
    if let Some(action) = spec.default_endpoint_to_host_action {
        settings.endpoint_to_host = match action {
            Configured::Drop => EndpointToHostAction::Drop,
            Configured::Return => EndpointToHostAction::Return,
            Configured::Accept => EndpointToHostAction::Accept,
        };
    }
    if let Some(exclusions) = spec.nat_outgoing_exclusions {
        settings.masquerade_spares_nodes = exclusions == NatOutgoingExclusions::IpPoolsAndHostIps;
    }
}

fn selects(selector: &str, labels: &BTreeMap<String, String>) -> bool {
    match selector.parse::<Selector>() {
        Ok(selector) => selector.matches(labels),
        Err(error) => {
            warn!(selector, %error, "a FelixConfiguration is ignored: bad selector");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use calico_core::datastore::Revision;
    use serde_json::{Value, json};

    use super::*;

    fn entry(name: &str, spec: &Value) -> Entry {
        let value = json!({"metadata": {"name": name}, "spec": spec}).to_string();
        let key = Key::resource(Kind::FelixConfiguration, None, name);
        Entry { key, value: Arc::from(value), revision: Revision(1) }
    }

    fn action(entries: &[Entry]) -> EndpointToHostAction {
        let mut felix = Felix::default();
        for entry in entries {
            assert!(felix.put(entry).unwrap());
        }
        let labels = BTreeMap::from([("rack".to_owned(), "1".to_owned())]);
        felix.settings("n1", &labels, Vec::new()).endpoint_to_host
    }

    #[test]
    fn the_more_specific_resource_wins() {
        let accept = json!({"defaultEndpointToHostAction": "Accept"});
        let give_back = json!({"defaultEndpointToHostAction": "Return"});
        let racks = json!({"nodeSelector": "rack == '1'", "defaultEndpointToHostAction": "Return"});
        let others =
            json!({"nodeSelector": "rack == '2'", "defaultEndpointToHostAction": "Return"});

        assert_eq!(action(&[]), EndpointToHostAction::Drop);
        assert_eq!(action(&[entry("default", &accept)]), EndpointToHostAction::Accept);
        assert_eq!(
            action(&[entry("default", &accept), entry("racks", &racks)]),
            EndpointToHostAction::Return
        );
        assert_eq!(
            action(&[entry("default", &accept), entry("racks", &others)]),
            EndpointToHostAction::Accept
        );
        assert_eq!(
            action(&[entry("node.n1", &accept), entry("default", &give_back)]),
            EndpointToHostAction::Accept
        );
        assert_eq!(action(&[entry("node.n2", &accept)]), EndpointToHostAction::Drop);
    }
}
