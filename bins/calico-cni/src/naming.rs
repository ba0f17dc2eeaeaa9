//! Names: of the endpoint, of the host's interface, of profiles and of the IPAM handle. Pure.

use std::collections::BTreeMap;

use calico_core::dataplane::EndpointId;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{EndpointName, container_interface_name, pod_interface_name};

use crate::facts::Machine;
use crate::spec::{Call, NetConf};

/// Prefix of the host's interfaces.
const INTERFACE_PREFIX: &str = "cali";
/// The interface that almost every pod has, and the only one whose host side upstream names.
pub(crate) const FIRST_INTERFACE: &str = "eth0";
/// Namespace of containers that no orchestrator runs.
const DEFAULT_NAMESPACE: &str = "default";

/// Who an attachment is, everywhere it leaves a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Namespace of the WorkloadEndpoint.
    pub namespace: String,
    /// Name of the WorkloadEndpoint.
    pub name: EndpointName,
    /// The pod, in Kubernetes.
    pub pod: Option<String>,
    /// The host's interface.
    pub host_interface: String,
    /// The profile that applies without policy.
    pub profile: String,
    /// Labels of the endpoint.
    pub labels: BTreeMap<String, String>,
    /// What the addresses are assigned under.
    pub handle: String,
    /// The virtual machine whose addresses they are, once that is known.
    pub machine: Option<Machine>,
}

impl Identity {
    /// Names the attachment that `call` is about, on node `node`.
    ///
    /// Runtimes that run pods say so in `CNI_ARGS` (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`); for all
    /// others the container itself is the workload.
    #[must_use]
    pub fn new(node: &str, conf: &NetConf, call: &Call) -> Self {
        let pod = call.args.get("K8S_POD_NAME").zip(call.args.get("K8S_POD_NAMESPACE"));
        let (container, ifname) = (call.container.as_str(), call.ifname.as_str());
        let mut labels = conf.labels();
        let mut label = |key: &str, value: &str| {
            labels.insert(format!("projectcalico.org/{key}"), value.to_owned());
        };
        let handle = handle(&conf.name, container, ifname);
        match pod {
            Some((pod, namespace)) => {
                label("namespace", namespace);
                label("orchestrator", "k8s");
                Self {
                    namespace: namespace.to_owned(),
                    name: EndpointName::pod(node, pod, ifname),
                    pod: Some(pod.to_owned()),
                    host_interface: host_interface(namespace, pod, container, ifname, true),
                    profile: format!("kns.{namespace}"),
                    labels,
                    handle,
                    machine: None,
                }
            }
            None => {
                label("namespace", DEFAULT_NAMESPACE);
                label("orchestrator", "cni");
                Self {
                    namespace: DEFAULT_NAMESPACE.to_owned(),
                    name: EndpointName::container(node, container, ifname),
                    pod: None,
                    host_interface: host_interface("", "", container, ifname, false),
                    profile: conf.name.clone(),
                    labels,
                    handle,
                    machine: None,
                }
            }
        }
    }

    /// The endpoint's key in the datastore.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::resource(Kind::WorkloadEndpoint, Some(&self.namespace), &self.name.to_string())
    }

    /// What calls about this attachment, and about others of the same endpoint, exclude one another
    /// by.
    #[must_use]
    pub fn lock_name(&self) -> String {
        self.endpoint().to_string()
    }

    /// The endpoint, as the dataplane calls it.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        EndpointId { namespace: self.namespace.as_str().into(), name: self.name.to_string().into() }
    }
}

/// The IPAM handle of an attachment: as upstream for `eth0`. Further interfaces of a container have
/// handles of their own, so that the DEL of one leaves the addresses of the others.
#[must_use]
pub fn handle(network: &str, container: &str, ifname: &str) -> String {
    let first = container_handle(network, container);
    if ifname == FIRST_INTERFACE { first } else { format!("{first}.{ifname}") }
}

/// The IPAM handle that upstream gives to all interfaces of a container in a network.
#[must_use]
pub fn container_handle(network: &str, container: &str) -> String {
    format!("{network}.{container}")
}

/// As upstream for `eth0`. Further interfaces, which upstream does not have, get their own name;
/// so do containers whose id does not differ from others' in its first 11 characters: `ctr` calls
/// all of them `default-...`.
pub(crate) fn host_interface(
    namespace: &str,
    pod: &str,
    container: &str,
    ifname: &str,
    k8s: bool,
) -> String {
    match (k8s, ifname == FIRST_INTERFACE) {
        (true, true) => pod_interface_name(INTERFACE_PREFIX, namespace, pod),
        (false, true) if is_told_apart(container) => container_interface_name(container),
        (true, false) => {
            pod_interface_name(INTERFACE_PREFIX, namespace, &format!("{pod}.{ifname}"))
        }
        (false, _) => pod_interface_name(INTERFACE_PREFIX, container, ifname),
    }
}

/// Whether the first 11 characters tell an id from others: it has no more, or begins like those
/// that runtimes draw, hexadecimal or a UUID.
fn is_told_apart(container: &str) -> bool {
    container.len() <= 11
        || container.bytes().take(11).enumerate().all(|(at, byte)| {
            byte.is_ascii_digit() || matches!(byte, b'a'..=b'f') || byte == b'-' && at == 8
        })
}

/// A hardware address for the container's side: locally administered, and always the same for
/// one attachment. Chosen here, not by the kernel, so that the endpoint can be written before the
/// interface exists.
#[must_use]
pub fn mac(handle: &str, ifname: &str) -> [u8; 6] {
    // FNV-1a, 64 bits.
    let hash = handle
        .bytes()
        .chain([0])
        .chain(ifname.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
    // Bit 0 off: one station, not a group. Bit 1 on: not assigned by a vendor (IEEE 802).
    [(a & 0xfc) | 0x02, b, c, d, e, f]
}

/// A hardware address as text.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Verb;

    fn identify(args: &str, ifname: &str) -> Identity {
        let conf = NetConf::parse(r#"{"name": "net"}"#).unwrap();
        let call = Call::new(Verb::Del, |name| {
            Some(match name {
                "CNI_CONTAINERID" => "0123456789abcdef".to_owned(),
                "CNI_IFNAME" => ifname.to_owned(),
                "CNI_ARGS" => args.to_owned(),
                _ => return None,
            })
        });
        Identity::new("node-1", &conf, &call.unwrap())
    }

    #[test]
    fn pods_are_named_as_upstream_names_them() {
        let id = identify("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0", "eth0");
        assert_eq!(id.name.to_string(), "node--1-k8s-web--0-eth0");
        assert_eq!(id.host_interface, "cali0d7763386da");
        assert_eq!(
            (id.profile.as_str(), id.handle.as_str()),
            ("kns.default", "net.0123456789abcdef")
        );
        assert_eq!(id.labels["projectcalico.org/orchestrator"], "k8s");
        let other = identify("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0", "net1");
        assert_ne!(other.host_interface, id.host_interface);
        assert_eq!(other.handle, "net.0123456789abcdef.net1");
    }

    #[test]
    fn containers_are_named_by_their_id() {
        let id = identify("", "eth0");
        assert_eq!(id.name.to_string(), "node--1-cni-0123456789abcdef-eth0");
        assert_eq!(id.host_interface, "cali0123456789a");
        assert_eq!((id.namespace.as_str(), id.profile.as_str()), ("default", "net"));
    }

    #[test]
    fn containers_with_alike_ids_have_interfaces_of_their_own() {
        let name = |id: &str| host_interface("", "", id, "eth0", false);
        assert_eq!(name("0123456789abcdef"), "cali0123456789a");
        assert_eq!(name("0f3c"), "cali0f3c");
        assert_eq!(name("5a1c7f0e-8a55-4bfa"), "cali5a1c7f0e-8a");
        assert_ne!(name("default-many1"), name("default-many2"));
        assert_ne!(name("0123-56789abcdef"), name("0123-56789abcde0"));
        assert!(name("default-many1").starts_with("cali") && name("default-many1").len() == 15);
    }

    #[test]
    fn hardware_addresses_are_local_and_differ() {
        let (one, two) = (mac("net.a", "eth0"), mac("net.b", "eth0"));
        assert_ne!(one, two);
        assert_eq!(one[0] & 0x03, 0x02);
        assert_eq!(mac_text([0x02, 0, 0, 0, 0, 0x0f]), "02:00:00:00:00:0f");
    }
}
