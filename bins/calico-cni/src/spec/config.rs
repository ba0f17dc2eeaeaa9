use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::{CniError, Code};
use super::result::CniResult;
use super::version::Version;

/// Where an agent answers CNI calls unless the configuration says otherwise.
const DEFAULT_AGENT_SOCKET: &str = "/var/run/calico/cni.sock";

/// The network configuration on stdin. All keys of upstream are accepted; those that only matter
/// for connections of the plugin itself (etcd, Kubernetes) have no effect when an agent answers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NetConf {
    /// Version of the specification; see [`NetConf::version`].
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// Name of the network.
    pub name: String,
    /// Name of the plugin.
    #[serde(rename = "type")]
    pub plugin: String,
    /// Largest packet in bytes; 0: as the file `/var/lib/calico/mtu` says, else the fabric's.
    pub mtu: u32,
    /// Transmit and receive queues of the veth; 0: the kernel's choice.
    pub num_queues: u32,
    /// Name of this node; must be the agent's if an agent answers.
    pub nodename: String,
    /// File with the name of this node.
    pub nodename_file: Option<PathBuf>,
    /// Whether that file may be missing.
    pub nodename_file_optional: bool,
    /// Older way to say the name of this node.
    pub hostname: String,
    /// Where addresses come from.
    pub ipam: Ipam,
    /// How policy is made.
    pub policy: Policy,
    /// `etcdv3` or `kubernetes`; for a plugin without agent.
    pub datastore_type: String,
    /// For a plugin without agent.
    pub etcd_endpoints: String,
    /// Whether pods forward packets.
    pub container_settings: ContainerSettings,
    /// Extra behaviour of the dataplane driver; `type: grpc` is not supported.
    pub dataplane_options: BTreeMap<String, Value>,
    /// Seconds to wait for policy to be in force; 0: as the agent is set.
    pub policy_setup_timeout_seconds: u64,
    /// Arguments of the runtime: labels of the conventions (`cni.labels`), and Mesos'.
    pub args: BTreeMap<String, Value>,
    /// What the runtime passes for capabilities: `ips`, `mac`, `bandwidth`.
    #[serde(rename = "runtimeConfig")]
    pub runtime_config: BTreeMap<String, Value>,
    /// Features that pods may ask for.
    pub feature_control: FeatureControl,
    /// URLs that must answer before an ADD is served.
    pub readiness_gates: Vec<String>,
    /// Whether a pod whose IPAM plugin gave it routes gets default routes as well.
    pub include_default_routes: bool,
    /// What the plugin before has made, or what our ADD answered.
    #[serde(rename = "prevResult")]
    pub prev_result: Option<Value>,
    /// For GC: every attachment that the runtime still knows.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Ours: what another IPAM plugin answered, from the plugin to the agent.
    pub ipam_result: Option<Value>,
    /// Ours: socket of the agent.
    pub agent_socket: Option<PathBuf>,
    /// Ours: file of an embedded store, for a plugin without agent.
    pub datastore_path: Option<PathBuf>,
    /// Ours: where deletions are noted that cannot be carried out now.
    pub journal_dir: Option<PathBuf>,
}

/// Where addresses come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// `calico-ipam`, or the name of another plugin.
    #[serde(rename = "type")]
    pub plugin: String,
    /// Subnet of `host-local`; `usePodCidr` and `usePodCidrIPv6` are the node's ranges.
    pub subnet: String,
    /// Whether pods get an IPv4 address.
    #[serde(deserialize_with = "flag")]
    pub assign_ipv4: bool,
    /// Whether pods get an IPv6 address.
    #[serde(deserialize_with = "flag")]
    pub assign_ipv6: bool,
    /// The only IPv4 pools to use, by name or CIDR.
    pub ipv4_pools: Vec<String>,
    /// The only IPv6 pools to use, by name or CIDR.
    pub ipv6_pools: Vec<String>,
}

impl Default for Ipam {
    fn default() -> Self {
        Self {
            plugin: "calico-ipam".to_owned(),
            subnet: String::new(),
            assign_ipv4: true,
            assign_ipv6: false,
            ipv4_pools: Vec::new(),
            ipv6_pools: Vec::new(),
        }
    }
}

/// How policy is made.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// `k8s`, or empty.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Settings inside containers.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct ContainerSettings {
    /// Whether they forward packets.
    pub allow_ip_forwarding: bool,
}

/// Features that pods may ask for by annotation.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct FeatureControl {
    /// Addresses that IPAM knows nothing of (`ipAddrsNoIpam`).
    pub ip_addrs_no_ipam: bool,
    /// Addresses that are translated (`floatingIPs`).
    pub floating_ips: bool,
}

/// One interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface inside.
    pub ifname: String,
}

impl NetConf {
    /// Reads the JSON text and checks it.
    ///
    /// # Errors
    ///
    /// Code 6 for text that is no configuration, 7 for one that makes no sense, 2 for what this
    /// plugin cannot do. The version is checked by [`version`](Self::version).
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let unreadable = |reason: String| {
            CniError::new(Code::Decode, "the network configuration cannot be read").details(reason)
        };
        // A list of values in the right order would be taken for a structure.
        if !text.trim_start().starts_with('{') {
            return Err(unreadable("expected a JSON object on stdin".into()));
        }
        let conf: Self =
            serde_json::from_str(text).map_err(|error| unreadable(where_wrong(text, &error)))?;
        conf.check()?;
        Ok(conf)
    }

    fn check(&self) -> Result<(), CniError> {
        let invalid = |message: String, details: &str| {
            Err(CniError::new(Code::InvalidConfig, message).details(details))
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if self.name.is_empty() {
            return invalid("the network has no name".into(), "add `name` to the configuration");
        }
        if !self.name.chars().all(fits) {
            return invalid(
                format!("the network's name {:?} is invalid", self.name),
                "use letters, digits, underscores, dots and dashes",
            );
        }
        if self.mtu != 0 && !(68..=65_535).contains(&self.mtu) {
            return invalid(format!("mtu {} is out of range", self.mtu), "use 68 to 65535, or 0");
        }
        if !self.ipam.assign_ipv4 && !self.ipam.assign_ipv6 && self.ipam.is_ours() {
            return invalid(
                "no address is to be assigned".into(),
                "set ipam.assign_ipv4 or ipam.assign_ipv6 to \"true\"",
            );
        }
        match self.dataplane_options.get("type").and_then(Value::as_str) {
            None | Some("" | "linux") => Ok(()),
            Some(other) => {
                let message = format!("dataplane_options.type {other:?} is not supported");
                Err(CniError::new(Code::UnsupportedField, message)
                    .details("remove it: this plugin makes the interfaces itself"))
            }
        }
    }

    /// The version of the specification to answer in.
    ///
    /// # Errors
    ///
    /// Code 1 if it is unknown.
    pub fn version(&self) -> Result<Version, CniError> {
        self.cni_version.parse()
    }

    /// The agent's socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.agent_socket.clone().unwrap_or_else(|| DEFAULT_AGENT_SOCKET.into())
    }

    /// How long to wait for policy, if the configuration says.
    #[must_use]
    pub const fn policy_timeout(&self) -> Option<Duration> {
        match self.policy_setup_timeout_seconds {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        }
    }

    /// What the plugin before has made, or what our ADD answered.
    ///
    /// # Errors
    ///
    /// Code 6 if it cannot be read.
    pub fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        self.prev_result.as_ref().filter(|value| !value.is_null()).map(CniResult::read).transpose()
    }

    /// Labels that the runtime passed on: those of the CNI conventions, and Mesos'.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let conventions = self.args.get("cni").and_then(|cni| cni.get("labels"));
        let mesos = self
            .args
            .get("org.apache.mesos")
            .and_then(|mesos| mesos.pointer("/network_info/labels/labels"));
        let text = |pair: &Value, key: &str| pair.get(key)?.as_str().map(str::to_owned);
        [mesos, conventions]
            .into_iter()
            .flatten()
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(|pair| Some((text(pair, "key")?, text(pair, "value")?)))
            .collect()
    }
}

impl Ipam {
    /// Whether addresses come from Calico's own IPAM.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        ["", "calico-ipam"].contains(&self.plugin.as_str())
    }
}

/// Names the key that an error is about, which the error itself does not.
fn where_wrong(text: &str, error: &serde_json::Error) -> String {
    let fields: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    let wrong = fields.into_iter().find_map(|(key, value)| {
        let alone = serde_json::json!({ key.as_str(): value });
        let reason = serde_json::from_value::<NetConf>(alone).err()?;
        Some(format!("{key}: {reason}"))
    });
    wrong.unwrap_or_else(|| error.to_string())
}

/// Upstream writes `"true"` and `"false"` as text; plain booleans are taken too.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(flag) => Ok(flag),
        Value::String(word) if word == "true" => Ok(true),
        Value::String(word) if word == "false" => Ok(false),
        other => {
            Err(serde::de::Error::custom(format!("expected \"true\" or \"false\", found {other}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_from_the_field_is_accepted() {
        // From a talk of 2018; the addresses are those of its cluster.
        let conf = NetConf::parse(
            r#"{"type": "calico", "name": "k8s-pod-network", "cniVersion": "0.3.0",
                "etcd_endpoints": "http://10.96.232.136:6666", "log_level": "info", "mtu": 1500,
                "ipam": {"type": "calico-ipam"},
                "policy": {"type": "k8s", "k8s_api_root": "https://10.96.0.1:443",
                           "k8s_auth_token": "<auth token>"},
                "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}}"#,
        )
        .unwrap();
        assert_eq!(conf.version().unwrap(), Version::V0_3_0);
        assert_eq!((conf.mtu, conf.policy.kind.as_str()), (1500, "k8s"));
        assert!(conf.ipam.is_ours() && conf.ipam.assign_ipv4 && !conf.ipam.assign_ipv6);
        assert_eq!(conf.agent_socket(), PathBuf::from(DEFAULT_AGENT_SOCKET));
    }

    #[test]
    fn bad_configurations_get_their_code() {
        for (text, code) in [
            ("", Code::Decode),
            ("[]", Code::Decode),
            (r#"{"name": "n", "mtu": "big"}"#, Code::Decode),
            (r#"{"name": "n", "ipam": {"assign_ipv4": "maybe"}}"#, Code::Decode),
            (r#"{"cniVersion": "1.0.0"}"#, Code::InvalidConfig),
            (r#"{"name": "a/b"}"#, Code::InvalidConfig),
            (r#"{"name": "n", "mtu": 12}"#, Code::InvalidConfig),
            (r#"{"name": "n", "ipam": {"assign_ipv4": "false"}}"#, Code::InvalidConfig),
            (r#"{"name": "n", "dataplane_options": {"type": "grpc"}}"#, Code::UnsupportedField),
        ] {
            assert_eq!(NetConf::parse(text).unwrap_err().code, code, "{text}");
        }
        let future = NetConf::parse(r#"{"name": "n", "cniVersion": "9.9.9"}"#).unwrap();
        assert_eq!(future.version().unwrap_err().code, Code::IncompatibleVersion);
    }

    #[test]
    fn labels_come_from_both_conventions() {
        let conf = NetConf::parse(
            r#"{"name": "n", "args": {
                "cni": {"labels": [{"key": "app", "value": "web"}]},
                "org.apache.mesos": {"network_info": {"labels": {"labels": [
                    {"key": "tier", "value": "front"}, {"broken": 1}]}}}}}"#,
        )
        .unwrap();
        let labels: Vec<_> = conf.labels().into_iter().collect();
        assert_eq!(labels, [("app".into(), "web".into()), ("tier".into(), "front".into())]);
    }
}
