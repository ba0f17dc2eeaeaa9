//! What is wanted for one workload in particular: certain addresses, pools, a hardware address,
//! limits of its traffic. Pure.
//!
//! It comes from the annotations of the pod and its namespace where Kubernetes is the datastore (a
//! [`PodSource`] looks them up), and from the runtime by the conventions of the specification:
//! `runtimeConfig` (`ips`, `mac`, `bandwidth`), `args.cni` (`ips`), and `IP` and `MAC` in
//! `CNI_ARGS`. Annotations win.

mod qos;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use calico_core::resource::{QosControls, WorkloadEndpointPort};
use calico_netlink::link::MacAddr;
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::spec::{Call, CniError, Code, NetConf};

/// Prefix of the annotations that upstream's plugin reads.
const PREFIX: &str = "cni.projectcalico.org/";

/// A pod as the orchestrator describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodInfo {
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations of its namespace.
    pub namespace_annotations: BTreeMap<String, String>,
    /// Labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// Profiles of its endpoint; empty: that of its namespace.
    pub profiles: Vec<String>,
    /// Its account.
    pub service_account: String,
    /// Ports that policies name.
    pub ports: Vec<WorkloadEndpointPort>,
    /// The virtual machine that it runs.
    pub machine: Option<Machine>,
}

/// A virtual machine (KubeVirt), whose addresses stay with it from pod to pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Identity of the VirtualMachineInstance.
    pub uid: String,
    /// Identity of the VirtualMachine, if the instance has one.
    pub vm_uid: Option<String>,
    /// Identity of the migration that is to bring the machine here.
    pub migration: Option<String>,
}

/// Knows the pods of the orchestrator.
#[async_trait]
pub trait PodSource: fmt::Debug + Send + Sync {
    /// The pod of this name; `None` where no orchestrator describes pods.
    ///
    /// # Errors
    ///
    /// If the orchestrator cannot be asked, or does not know the pod.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<PodInfo>, CniError>;

    /// Whether a virtual machine is gone or goes, so that nobody needs its addresses any more. Where
    /// nobody knows, it stays.
    ///
    /// # Errors
    ///
    /// If the orchestrator cannot be asked.
    async fn machine_ends(&self, namespace: &str, name: &str) -> Result<bool, CniError> {
        let _ = (namespace, name);
        Ok(false)
    }
}

/// For stores that have no pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPods;

#[async_trait]
impl PodSource for NoPods {
    async fn pod(&self, _namespace: &str, _name: &str) -> Result<Option<PodInfo>, CniError> {
        Ok(None)
    }
}

/// What is wanted for one workload in particular.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodFacts {
    /// These addresses, at most one of each family, from IPAM.
    pub addresses: Vec<IpAddr>,
    /// These addresses, which IPAM knows nothing of.
    pub addresses_no_ipam: Vec<IpAddr>,
    /// Addresses that are translated to the pod's own.
    pub floating: Vec<IpAddr>,
    /// IPv4 pools, by name or CIDR; empty: as the configuration says.
    pub v4_pools: Vec<String>,
    /// IPv6 pools, by name or CIDR; empty: as the configuration says.
    pub v6_pools: Vec<String>,
    /// Labels of its namespace, which pools may select; `None` if nobody knows them.
    pub namespace_labels: Option<BTreeMap<String, String>>,
    /// Whether it gets IPv4 and IPv6; `None`: as the configuration says.
    pub families: Option<(bool, bool)>,
    /// Hardware address inside.
    pub mac: Option<MacAddr>,
    /// Prefixes that it may send from, besides its own addresses.
    pub spoofed: Vec<IpNet>,
    /// Limits of its traffic.
    pub qos: Option<QosControls>,
    /// What was not taken as it was written, to be logged.
    pub notes: Vec<String>,
}

impl PodFacts {
    /// Puts together what `pod`, `conf` and `call` say.
    ///
    /// # Errors
    ///
    /// Code 7 names the annotation or argument that makes no sense, or needs a feature that the
    /// configuration does not turn on.
    pub fn new(conf: &NetConf, call: &Call, pod: Option<&PodInfo>) -> Result<Self, CniError> {
        let namespace_labels = pod.map(|pod| pod.namespace_labels.clone());
        let nothing = PodInfo::default();
        let pod = pod.unwrap_or(&nothing);
        let of_pod = |name: &str| pod.annotations.get(&format!("{PREFIX}{name}"));
        let of_either = |name: &str| {
            of_pod(name).or_else(|| pod.namespace_annotations.get(&format!("{PREFIX}{name}")))
        };
        let mut facts = Self { namespace_labels, ..Self::of_runtime(conf, call)? };
        if let Some(text) = of_either("ipv4pools") {
            facts.v4_pools = list("annotation ipv4pools", text)?;
        }
        if let Some(text) = of_either("ipv6pools") {
            facts.v6_pools = list("annotation ipv6pools", text)?;
        }
        if let Some(text) = of_either("ipFamilies") {
            facts.families = Some(families(&list("annotation ipFamilies", text)?)?);
        }
        let asked = of_pod("ipAddrs");
        if let Some(text) = asked {
            facts.addresses =
                one_per_family("annotation ipAddrs", list("annotation ipAddrs", text)?)?;
        }
        if let Some(text) = of_pod("ipAddrsNoIpam") {
            let what = "annotation ipAddrsNoIpam";
            if asked.is_some() {
                return Err(invalid(what, "it cannot be used together with ipAddrs"));
            }
            if !conf.feature_control.ip_addrs_no_ipam || !conf.ipam.is_ours() {
                let reason = "set feature_control.ip_addrs_no_ipam, with calico-ipam, to allow it";
                return Err(invalid(what, reason));
            }
            facts.addresses_no_ipam = one_per_family(what, list(what, text)?)?;
            facts.addresses.clear();
        }
        if let Some(text) = of_pod("floatingIPs") {
            let what = "annotation floatingIPs";
            if !conf.feature_control.floating_ips {
                return Err(invalid(what, "set feature_control.floating_ips to allow it"));
            }
            facts.floating = list(what, text)?;
        }
        if let Some(text) = of_pod("hwAddr") {
            facts.mac = Some(hardware("annotation hwAddr", text)?);
        }
        if let Some(text) = of_pod("allowedSourcePrefixes") {
            facts.spoofed = list("annotation allowedSourcePrefixes", text)?;
        }
        if let Some(qos) = QosControls::of_annotations(&pod.annotations, &mut facts.notes) {
            facts.qos = Some(qos);
        }
        Ok(facts)
    }

    /// The conventions of the specification (CONVENTIONS.md).
    fn of_runtime(conf: &NetConf, call: &Call) -> Result<Self, CniError> {
        let mut facts = Self::default();
        let runtime = |key: &str| conf.runtime_config.get(key).filter(|value| !value.is_null());
        let args = conf.args.get("cni").and_then(|cni| cni.get("ips"));
        let ips = runtime("ips").map(|value| ("runtimeConfig.ips", value));
        if let Some((what, value)) = ips.or_else(|| args.map(|value| ("args.cni.ips", value))) {
            facts.addresses = one_per_family(what, strings(what, value)?)?;
        } else if let Some(text) = call.args.get("IP") {
            let texts = text.split(',').map(str::to_owned).collect();
            facts.addresses = one_per_family("CNI_ARGS IP", texts)?;
        }
        if let Some(value) = runtime("mac") {
            let text =
                value.as_str().ok_or_else(|| invalid("runtimeConfig.mac", "it is no text"))?;
            facts.mac = Some(hardware("runtimeConfig.mac", text)?);
        } else if let Some(text) = call.args.get("MAC") {
            facts.mac = Some(hardware("CNI_ARGS MAC", text)?);
        }
        if let Some(value) = runtime("bandwidth") {
            facts.qos = qos::of_runtime(value)
                .map_err(|reason| invalid("runtimeConfig.bandwidth", &reason))?;
        }
        Ok(facts)
    }
}

fn invalid(what: &str, reason: &str) -> CniError {
    CniError::new(Code::InvalidConfig, format!("{what} is invalid")).details(reason)
}

/// A list in JSON.
fn list<T: DeserializeOwned>(what: &str, text: &str) -> Result<Vec<T>, CniError> {
    serde_json::from_str(text)
        .map_err(|error| invalid(what, &format!("{text:?}: expected a JSON list ({error})")))
}

fn strings(what: &str, value: &Value) -> Result<Vec<String>, CniError> {
    serde_json::from_value(value.clone())
        .map_err(|error| invalid(what, &format!("expected a list of addresses ({error})")))
}

/// Addresses, with or without the length of a prefix, which has no meaning here.
fn one_per_family(what: &str, texts: Vec<String>) -> Result<Vec<IpAddr>, CniError> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in texts {
        let bare = text.parse::<IpAddr>().ok();
        let address = bare.or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()));
        let address = address.ok_or_else(|| invalid(what, &format!("{text:?} is no address")))?;
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(invalid(what, "at most one address of each family is possible"));
        }
        addresses.push(address);
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(addresses)
}

fn families(names: &[String]) -> Result<(bool, bool), CniError> {
    let what = "annotation ipFamilies";
    if let Some(other) = names.iter().find(|name| !["IPv4", "IPv6"].contains(&name.as_str())) {
        return Err(invalid(what, &format!("{other:?}: use IPv4 and IPv6")));
    }
    let has = |family: &str| names.iter().any(|name| name == family);
    if names.is_empty() {
        return Err(invalid(what, "it names no family"));
    }
    Ok((has("IPv4"), has("IPv6")))
}

fn hardware(what: &str, text: &str) -> Result<MacAddr, CniError> {
    let mac: MacAddr = text.parse().map_err(|error| invalid(what, &format!("{error}")))?;
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(invalid(what, &format!("{mac} is no address of one station")));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::Verb;

    fn conf(more: &Value) -> NetConf {
        let mut conf = json!({ "name": "net", "cniVersion": "1.0.0" });
        let more = more.as_object().unwrap().clone();
        conf.as_object_mut().unwrap().extend(more);
        NetConf::parse(&conf.to_string()).unwrap()
    }

    fn call(args: &str) -> Call {
        Call::new(Verb::Gc, |name| (name == "CNI_ARGS").then(|| args.to_owned())).unwrap()
    }

    fn annotated(pairs: &[(&str, &str)]) -> PodInfo {
        let pairs = pairs.iter();
        let annotations = pairs.map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect();
        PodInfo { annotations, ..PodInfo::default() }
    }

    #[test]
    fn the_runtime_may_ask_by_the_conventions() {
        let wanted: Vec<IpAddr> = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        for (more, args) in [
            (json!({ "runtimeConfig": { "ips": ["fd00::7/64", "10.0.0.7/24"] } }), ""),
            (json!({ "args": { "cni": { "ips": ["10.0.0.7", "fd00::7"] } } }), ""),
            (json!({}), "IP=10.0.0.7,fd00::7"),
        ] {
            let facts = PodFacts::new(&conf(&more), &call(args), None).unwrap();
            assert_eq!(facts.addresses, wanted, "{more} {args}");
        }
        let more = json!({ "runtimeConfig": { "mac": "02:00:5e:10:00:01" } });
        let facts = PodFacts::new(&conf(&more), &call("MAC=02:00:5e:10:00:02"), None).unwrap();
        assert_eq!(facts.mac.unwrap().to_string(), "02:00:5e:10:00:01");
    }

    #[test]
    fn the_pod_overrides_its_namespace_and_the_runtime() {
        let mut pod = annotated(&[("ipv4pools", r#"["a"]"#), ("ipAddrs", r#"["10.0.0.9"]"#)]);
        let key = |name: &str| format!("{PREFIX}{name}");
        pod.namespace_annotations = [
            (key("ipv4pools"), r#"["b"]"#.to_owned()),
            (key("ipv6pools"), r#"["fd00::/64"]"#.to_owned()),
            (key("ipFamilies"), r#"["IPv6"]"#.to_owned()),
            // Only pools and families may come from the namespace.
            (key("hwAddr"), "02:00:00:00:00:01".to_owned()),
        ]
        .into();
        let facts = PodFacts::new(&conf(&json!({})), &call("IP=10.0.0.7"), Some(&pod)).unwrap();
        assert_eq!((facts.v4_pools, facts.v6_pools), (vec!["a".into()], vec!["fd00::/64".into()]));
        assert_eq!((facts.families, facts.mac), (Some((false, true)), None));
        assert_eq!(facts.addresses, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let on = json!({ "feature_control": { "ip_addrs_no_ipam": true, "floating_ips": true } });
        let off = json!({});
        for (more, pairs, words) in [
            (&off, &[("ipAddrs", "10.0.0.1")][..], "ipAddrs is invalid"),
            (&off, &[("ipAddrs", r#"["10.0.0.1","10.0.0.2"]"#)], "one address of each family"),
            (&off, &[("ipAddrs", r#"["10.0.0"]"#)], "\"10.0.0\" is no address"),
            (&off, &[("ipv4pools", r#"{"a":1}"#)], "expected a JSON list"),
            (&off, &[("ipFamilies", r#"["IPv5"]"#)], "IPv5"),
            (&off, &[("ipFamilies", "[]")], "no family"),
            (&off, &[("hwAddr", "02:00")], "hwAddr"),
            (&off, &[("hwAddr", "01:00:5e:00:00:01")], "one station"),
            (&off, &[("allowedSourcePrefixes", r#"["x"]"#)], "allowedSourcePrefixes"),
            (&off, &[("ipAddrsNoIpam", r#"["10.0.0.1"]"#)], "feature_control.ip_addrs_no_ipam"),
            (&off, &[("floatingIPs", r#"["10.0.0.1"]"#)], "feature_control.floating_ips"),
            (&on, &[("ipAddrsNoIpam", "[]"), ("ipAddrs", "[]")], "together with ipAddrs"),
        ] {
            let error = PodFacts::new(&conf(more), &call(""), Some(&annotated(pairs))).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.to_string().contains(words), "{error}");
        }
        for (more, args) in [
            (json!({ "runtimeConfig": { "ips": "10.0.0.1" } }), ""),
            (json!({ "runtimeConfig": { "mac": 7 } }), ""),
            (json!({ "runtimeConfig": { "bandwidth": { "ingressRate": -1 } } }), ""),
            (json!({}), "IP=nowhere"),
            (json!({}), "MAC=ff:ff:ff:ff:ff:ff"),
        ] {
            let error = PodFacts::new(&conf(&more), &call(args), None).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig, "{more} {args}");
        }
    }
}
