//! Names of workload endpoints and of their interfaces on the host.

#[cfg(feature = "digests")]
use sha1::{Digest, Sha1};

use super::WorkloadEndpointSpec;

/// The parts of a workload endpoint's name.
///
/// ```
/// use calico_core::resource::EndpointName;
///
/// let name = EndpointName::pod("node-1", "web-0", "eth0");
/// assert_eq!(name.to_string(), "node--1-k8s-web--0-eth0");
/// assert_eq!("node--1-k8s-web--0-eth0".parse(), Ok(name));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointName {
    /// The node.
    pub node: String,
    /// `k8s`, `cni`, `libnetwork`, `openstack`, ...
    pub orchestrator: String,
    /// The pod, the container ID (`cni`), `libnetwork`, or the workload.
    pub workload: String,
    /// The interface inside.
    pub endpoint: String,
}

/// A name that does not have four parts between single dashes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a workload endpoint: expected <node>-<orchestrator>-<workload>-<endpoint>, \
     with each dash inside a part doubled"
)]
pub struct BadEndpointName(pub String);

impl EndpointName {
    /// The endpoint of a Kubernetes pod.
    pub fn pod(
        node: impl Into<String>,
        pod: impl Into<String>,
        endpoint: impl Into<String>,
    ) -> Self {
        Self {
            node: node.into(),
            orchestrator: "k8s".to_owned(),
            workload: pod.into(),
            endpoint: endpoint.into(),
        }
    }

    /// The endpoint of a container without an orchestrator.
    pub fn container(
        node: impl Into<String>,
        container_id: impl Into<String>,
        endpoint: impl Into<String>,
    ) -> Self {
        Self {
            node: node.into(),
            orchestrator: "cni".to_owned(),
            workload: container_id.into(),
            endpoint: endpoint.into(),
        }
    }

    /// What all endpoints of this workload begin with.
    #[must_use]
    pub fn workload_prefix(&self) -> String {
        let part = |text: &str| text.replace('-', "--");
        format!("{}-{}-{}-", part(&self.node), part(&self.orchestrator), part(&self.workload))
    }

    /// The name that the fields of a spec demand.
    #[must_use]
    pub fn of(spec: &WorkloadEndpointSpec) -> Self {
        let workload = match spec.orchestrator.as_str() {
            "k8s" => &spec.pod,
            "cni" => &spec.container_id,
            "libnetwork" => "libnetwork",
            _ => &spec.workload,
        };
        Self {
            node: spec.node.clone(),
            orchestrator: spec.orchestrator.clone(),
            workload: workload.to_owned(),
            endpoint: spec.endpoint.clone(),
        }
    }
}

impl std::fmt::Display for EndpointName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.workload_prefix(), self.endpoint.replace('-', "--"))
    }
}

impl std::str::FromStr for EndpointName {
    type Err = BadEndpointName;

    fn from_str(text: &str) -> Result<Self, BadEndpointName> {
        let mut parts = vec![String::new()];
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            if c == '-' && rest.next_if_eq(&'-').is_none() {
                parts.push(String::new());
            } else if let Some(part) = parts.last_mut() {
                part.push(c);
            }
        }
        match <[String; 4]>::try_from(parts) {
            Ok(parts) if parts.iter().all(|part| !part.is_empty()) => {
                let [node, orchestrator, workload, endpoint] = parts;
                Ok(Self { node, orchestrator, workload, endpoint })
            }
            _ => Err(BadEndpointName(text.to_owned())),
        }
    }
}

/// The host's interface of a pod: the prefix and 11 digits of the SHA-1 of
/// `<namespace>.<pod>`.
#[cfg(feature = "digests")]
#[must_use]
pub fn pod_interface_name(prefix: &str, namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", &hex[..11])
}

/// The handle of a `KubeVirt` machine's addresses, which stays the same wherever it runs:
/// `<network>.vmi.<namespace>.<machine>`, as upstream's `CreateVMHandleID`. `network` is
/// `k8s-pod-network` if empty. Beyond 128 characters, what follows `.vmi.` becomes `_` and a digest.
#[cfg(feature = "digests")]
#[must_use]
pub fn machine_handle(network: &str, namespace: &str, machine: &str) -> String {
    const MOST: usize = 128;
    let network = if network.is_empty() { "k8s-pod-network" } else { network };
    let (prefix, suffix) = (format!("{network}.vmi."), format!("{namespace}.{machine}"));
    let len = prefix.len() + suffix.len();
    if len < MOST || (len == MOST && !suffix.starts_with('_')) {
        return prefix + &suffix;
    }
    let digest = crate::selector::base64url(&sha2::Sha256::digest(suffix));
    let short: String = digest.chars().take(MOST.saturating_sub(prefix.len() + 1)).collect();
    format!("{prefix}_{short}")
}

/// The handle of a service's addresses from pools for load balancers, as upstream's controller names
/// it: `lb-` and the letters and digits of a digest.
#[cfg(feature = "digests")]
#[must_use]
pub fn service_handle(service: &str, namespace: &str, uid: &str) -> String {
    let text = format!("{service}-{namespace}-{uid}").to_lowercase();
    let mut digest = crate::selector::base64url(&sha2::Sha256::digest(text));
    digest.retain(|c| c.is_ascii_alphanumeric());
    format!("lb-{digest}")
}

/// The host's interface of a container without an orchestrator: `cali` and the first 11
/// characters of the container's ID.
#[must_use]
pub fn container_interface_name(container_id: &str) -> String {
    format!("cali{}", container_id.chars().take(11).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: &str, orchestrator: &str, workload: &str, endpoint: &str, name: &str) {
        let parts = EndpointName {
            node: node.to_owned(),
            orchestrator: orchestrator.to_owned(),
            workload: workload.to_owned(),
            endpoint: endpoint.to_owned(),
        };
        assert_eq!(parts.to_string(), name);
        assert_eq!(name.parse(), Ok(parts));
    }

    #[test]
    fn names_are_built_and_taken_apart() {
        check("n", "k8s", "p", "eth0", "n-k8s-p-eth0");
        check("n-1", "k8s", "a--b", "eth0", "n--1-k8s-a----b-eth0");
        check("n", "cni", "0f3c", "eth-0", "n-cni-0f3c-eth--0");
        for bad in ["", "n", "n-k8s-p", "n-k8s-p-", "n-k8s-p-e-x", "n--k8s-p-e"] {
            assert_eq!(bad.parse::<EndpointName>(), Err(BadEndpointName(bad.to_owned())));
        }
    }

    #[test]
    fn a_spec_knows_its_name() {
        let mut spec = WorkloadEndpointSpec {
            node: "n".to_owned(),
            orchestrator: "libnetwork".to_owned(),
            endpoint: "e".to_owned(),
            pod: "p".to_owned(),
            ..WorkloadEndpointSpec::default()
        };
        assert_eq!(EndpointName::of(&spec).to_string(), "n-libnetwork-libnetwork-e");
        spec.orchestrator = "k8s".to_owned();
        assert_eq!(EndpointName::of(&spec).to_string(), "n-k8s-p-e");
    }

    #[cfg(feature = "digests")]
    #[test]
    fn handles_of_services_are_digests() {
        // printf web-prod-u-1 | openssl dgst -sha256 -binary | basenc --base64url | tr -d '=_-'
        assert_eq!(
            service_handle("Web", "prod", "U-1"),
            "lb-hzrDRgV0y0uVqgmSdRmLSGJiVuwZpYSnJL64UQnYWJc"
        );
        assert_eq!(service_handle("web", "prod", "u-1"), service_handle("Web", "prod", "U-1"));
    }

    #[cfg(feature = "digests")]
    #[test]
    fn handles_of_machines_have_a_limit() {
        assert_eq!(machine_handle("", "default", "vm1"), "k8s-pod-network.vmi.default.vm1");
        let fits = "v".repeat(128 - "net.vmi.ns.".len());
        assert_eq!(machine_handle("net", "ns", &fits), format!("net.vmi.ns.{fits}"));
        let long = machine_handle("net", "ns", &format!("{fits}w"));
        // printf ns.vvv...w | openssl dgst -sha256 -binary | basenc --base64url
        assert_eq!(long, "net.vmi._10rg-c5nKsYz0boAUA9FrNCyTnkUOJtmyzIr89c_dpg");
    }

    #[cfg(feature = "digests")]
    #[test]
    fn interface_names_are_short_digests() {
        // printf default.web-0 | sha1sum | cut -c1-11
        let name = pod_interface_name("cali", "default", "web-0");
        assert_eq!(name, "cali0d7763386da");
        assert_eq!(name.len(), 15, "as long as the kernel allows");
        assert_eq!(container_interface_name("0123456789abcdef"), "cali0123456789a");
        assert_eq!(container_interface_name("01"), "cali01");
    }
}
