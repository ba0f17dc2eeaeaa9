//! A cluster as Kubernetes sees it: namespaces x, y and z with pods a, b and c each, and policies.

use std::collections::BTreeMap;

use calico_datastore::conversion::{
    self, KubernetesNetworkPolicy, NETWORK_POLICY_PREFIX, Namespace, Pod,
};
use calico_policy::Object;
use serde_json::{Value, json};

use crate::lab::{Port, addresses};
use crate::rig::NODE;

/// Namespaces; each has a label `ns` with its name, besides the one that Kubernetes gives.
pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// Pods of each namespace; each has a label `pod` with its name.
pub const PODS: [&str; 3] = ["a", "b", "c"];
/// Ports that every pod has, of every protocol of [`PROTOCOLS`]; named `serve-80-tcp` and so on.
pub const PORTS: [u16; 2] = [80, 81];
/// Protocols that Kubernetes knows, by name and number.
pub const PROTOCOLS: [(&str, u8); 3] = [("TCP", 6), ("UDP", 17), ("SCTP", 132)];

/// A label's name and value, and more.
pub type Labels = BTreeMap<String, String>;

/// What the API server has.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Labels of pods, by namespace and name.
    pub pods: BTreeMap<(String, String), Labels>,
    /// The `spec` of each policy, by namespace and name.
    pub policies: BTreeMap<(String, String), Value>,
}

impl Default for Cluster {
    fn default() -> Self {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let namespaces = NAMESPACES.map(|name| {
            let labels = [label("ns", name), label("kubernetes.io/metadata.name", name)];
            (name.to_owned(), Labels::from(labels))
        });
        let pods = NAMESPACES.iter().flat_map(|namespace| {
            PODS.map(|name| {
                let labels = Labels::from([label("pod", name)]);
                (((*namespace).to_owned(), name.to_owned()), labels)
            })
        });
        Self { namespaces: namespaces.into(), pods: pods.collect(), policies: BTreeMap::new() }
    }
}

/// The lab's number of a pod, from 1.
///
/// # Panics
///
/// If there is no such pod.
#[must_use]
pub fn number(namespace: &str, pod: &str) -> u8 {
    let place = |list: &[&str], name: &str| {
        let at = list.iter().position(|known| *known == name);
        u8::try_from(at.unwrap_or_else(|| panic!("{name} is none of {list:?}"))).unwrap()
    };
    place(&NAMESPACES, namespace) * u8::try_from(PODS.len()).unwrap() + place(&PODS, pod) + 1
}

impl Cluster {
    /// What the Kubernetes datastore makes of it.
    ///
    /// # Panics
    ///
    /// If something cannot be converted, or only in part.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let namespaces = self.namespaces.iter().map(|(name, labels)| {
            let object = json!({"metadata": {"name": name, "labels": labels}});
            let namespace: Namespace = serde_json::from_value(object).unwrap();
            conversion::namespace_profile(&namespace).into()
        });
        let pods = self.pods.iter().map(|((namespace, name), labels)| {
            let number = number(namespace, name);
            let ports = PROTOCOLS.iter().flat_map(|(protocol, _)| {
                PORTS.map(|port| {
                    let name = format!("serve-{port}-{}", protocol.to_lowercase());
                    json!({"name": name, "containerPort": port, "protocol": protocol})
                })
            });
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"namespace": namespace, "name": name, "labels": labels},
                "spec": {"nodeName": NODE, "containers": [{"ports": ports.collect::<Vec<_>>()}]},
                "status": {
                    "phase": "Running",
                    "podIPs": addresses(number).map(|address| json!({"ip": address})),
                },
            }))
            .unwrap();
            let converted = conversion::workload_endpoint(&pod, "cali").expect("a workload");
            assert_eq!(converted.problems, Vec::<String>::new(), "pod {namespace}/{name}");
            let mut endpoint = converted.resource;
            // Which is a hash of the pod's name; the lab's interfaces have numbers.
            endpoint.spec.interface_name = Port::Pod(number).interface();
            endpoint.into()
        });
        let policies = self.policies.iter().map(|((namespace, name), spec)| {
            let uid = format!("00000000-0000-4000-8000-{:012x}", name.len());
            let policy: KubernetesNetworkPolicy = serde_json::from_value(json!({
                "metadata": {"namespace": namespace, "name": name, "uid": uid},
                "spec": spec,
            }))
            .unwrap_or_else(|error| panic!("policy {namespace}/{name}: {error}"));
            let converted = conversion::network_policy(&policy);
            assert_eq!(converted.problems, Vec::<String>::new(), "policy {namespace}/{name}");
            let mut policy = converted.resource;
            policy.metadata.name = format!("{NETWORK_POLICY_PREFIX}{name}");
            policy.into()
        });
        namespaces.chain(pods).chain(policies).collect()
    }
}
