//! What Felix' graph says, and the canonical form of what it adds up to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::canonical::{self, RuleText, Sets, State};

/// What Felix' messages add up to.
#[derive(Debug, Clone, Default)]
pub struct Felix {
    sets: BTreeMap<String, BTreeSet<String>>,
    owners: BTreeMap<String, Rules>,
    workloads: BTreeMap<String, Workload>,
    hosts: BTreeMap<String, Host>,
}

/// Fields of `Policy` and `Profile` in felix/proto.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rules {
    inbound_rules: Vec<Rule>,
    outbound_rules: Vec<Rule>,
    /// Policies with one are wanted whomever they select.
    perf_hints: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    action: String,
    ip_version: Option<String>,
    protocol: Option<Protocol>,
    not_protocol: Option<Protocol>,
    icmp_type: Option<i32>,
    icmp_type_code: Option<Icmp>,
    not_icmp_type: Option<i32>,
    not_icmp_type_code: Option<Icmp>,
    src_net: Vec<String>,
    src_ports: Vec<Ports>,
    src_named_port_ip_set_ids: Vec<String>,
    src_ip_set_ids: Vec<String>,
    dst_net: Vec<String>,
    dst_ports: Vec<Ports>,
    dst_named_port_ip_set_ids: Vec<String>,
    dst_ip_set_ids: Vec<String>,
    dst_ip_port_set_ids: Vec<String>,
    not_src_net: Vec<String>,
    not_src_ports: Vec<Ports>,
    not_src_ip_set_ids: Vec<String>,
    not_src_named_port_ip_set_ids: Vec<String>,
    not_dst_net: Vec<String>,
    not_dst_ports: Vec<Ports>,
    not_dst_ip_set_ids: Vec<String>,
    not_dst_named_port_ip_set_ids: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Protocol {
    number: Option<u8>,
    name: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Icmp {
    r#type: i32,
    code: i32,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Ports {
    first: u16,
    last: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Workload {
    name: String,
    profile_ids: Vec<String>,
    ipv4_nets: Vec<IpNet>,
    ipv6_nets: Vec<IpNet>,
    allow_spoofed_source_prefixes: Vec<IpNet>,
    tiers: Vec<Tier>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Host {
    name: String,
    profile_ids: Vec<String>,
    expected_ipv4_addrs: Vec<IpAddr>,
    expected_ipv6_addrs: Vec<IpAddr>,
    tiers: Vec<Tier>,
    untracked_tiers: Vec<Tier>,
    pre_dnat_tiers: Vec<Tier>,
    forward_tiers: Vec<Tier>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Tier {
    name: String,
    ingress_policies: Vec<String>,
    egress_policies: Vec<String>,
    default_action: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Members {
    id: String,
    members: Vec<String>,
    added_members: Vec<String>,
    removed_members: Vec<String>,
}

impl Felix {
    /// Takes in a message by its type in felix/proto.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or does not fit what there is.
    pub fn apply(&mut self, message: &str, body: &Value) -> Result<(), String> {
        let id = &body["id"];
        let missing = |what: &str| format!("{message} of {what}, which is not there: {body}");
        match message {
            "IPSetUpdate" => {
                let set: Members = read(body)?;
                self.sets.insert(set.id, set.members.into_iter().collect());
            }
            "IPSetDeltaUpdate" => {
                let delta: Members = read(body)?;
                let set = self.sets.get_mut(&delta.id).ok_or_else(|| missing("a set"))?;
                for member in &delta.removed_members {
                    if !set.remove(member) {
                        return Err(missing(member));
                    }
                }
                set.extend(delta.added_members);
            }
            "IPSetRemove" => {
                let set: Members = read(body)?;
                self.sets.remove(&set.id).ok_or_else(|| missing("a set"))?;
            }
            "ActivePolicyUpdate" => {
                self.owners.insert(format!("policy {}", text(&id["name"])), read(&body["policy"])?);
            }
            "ActivePolicyRemove" => {
                self.owners.remove(&format!("policy {}", text(&id["name"])));
            }
            "ActiveProfileUpdate" => {
                let name = format!("profile {}", text(&id["name"]));
                self.owners.insert(name, read(&body["profile"])?);
            }
            "ActiveProfileRemove" => {
                self.owners.remove(&format!("profile {}", text(&id["name"])));
            }
            "WorkloadEndpointUpdate" => {
                self.workloads.insert(workload(id), read(&body["endpoint"])?);
            }
            "WorkloadEndpointRemove" => {
                self.workloads.remove(&workload(id)).ok_or_else(|| missing("an endpoint"))?;
            }
            "HostEndpointUpdate" => {
                self.hosts.insert(text(&id["endpointId"]).to_owned(), read(&body["endpoint"])?);
            }
            "HostEndpointRemove" => {
                let host = self.hosts.remove(text(&id["endpointId"]));
                host.ok_or_else(|| missing("a host endpoint"))?;
            }
            // Nothing of policy.
            _ => {}
        }
        Ok(())
    }

    /// The canonical form. Names of workloads are namespace, pod and interface.
    ///
    /// # Errors
    ///
    /// If something in the messages cannot be read.
    pub fn state(&self) -> Result<State, String> {
        let mut state = State::default();
        let mut sets = Sets::default();
        let used = self.used();
        for (key, owner) in &self.owners {
            let wanted = is_real(key) && !owner.perf_hints.is_empty() || used.contains(key);
            if key.starts_with("policy ") && !wanted {
                continue;
            }
            let mut of = |rules: &[Rule]| -> Result<Vec<RuleText>, String> {
                rules.iter().map(|rule| self.rule(rule, &mut sets)).collect()
            };
            let (ingress, egress) = (of(&owner.inbound_rules)?, of(&owner.outbound_rules)?);
            state.0.insert(key.clone(), canonical::rules(&ingress, &egress));
        }
        for (id, endpoint) in &self.workloads {
            let addresses = endpoint.ipv4_nets.iter().chain(&endpoint.ipv6_nets);
            let text = format!(
                "{} addresses={} sources={} profiles={}{}",
                endpoint.name,
                canonical::nets(addresses.copied()),
                canonical::nets(endpoint.allow_spoofed_source_prefixes.iter().copied()),
                canonical::names(endpoint.profile_ids.iter()),
                tiers("tier", &endpoint.tiers),
            );
            state.0.insert(format!("workload {id}"), text);
        }
        for (id, endpoint) in &self.hosts {
            let expected = endpoint.expected_ipv4_addrs.iter().chain(&endpoint.expected_ipv6_addrs);
            let interface = match &*endpoint.name {
                "" => canonical::nets(expected.map(|address| (*address).into())),
                name => name.to_owned(),
            };
            let text = format!(
                "{interface} profiles={}{}{}{}{}",
                canonical::names(endpoint.profile_ids.iter()),
                tiers("tier", &endpoint.tiers),
                tiers("forward", &endpoint.forward_tiers),
                match &*endpoint.name {
                    // Which Felix' dataplane passes over with a warning.
                    "*" => String::new(),
                    _ => tiers("untracked", &endpoint.untracked_tiers),
                },
                tiers("preDNAT", &endpoint.pre_dnat_tiers),
            );
            state.0.insert(format!("host {id}"), text);
        }
        sets.join(&mut state);
        Ok(state)
    }

    /// The policies that an endpoint has. Felix also tells of others: staged ones, whose rules are
    /// counted and not enforced, and those that select only endpoints which they cannot apply to
    /// (`preDNAT` and `doNotTrack` policies and workloads).
    fn used(&self) -> BTreeSet<String> {
        let workloads = self.workloads.values().flat_map(|endpoint| &endpoint.tiers);
        let hosts = self.hosts.values().flat_map(|endpoint| {
            let Host { tiers, untracked_tiers, pre_dnat_tiers, forward_tiers, .. } = endpoint;
            [tiers, untracked_tiers, pre_dnat_tiers, forward_tiers].into_iter().flatten()
        });
        let names = workloads.chain(hosts).flat_map(|tier| {
            tier.ingress_policies.iter().chain(&tier.egress_policies).filter(|name| is_real(name))
        });
        names.map(|name| format!("policy {name}")).collect()
    }

    fn rule(&self, rule: &Rule, sets: &mut Sets) -> Result<RuleText, String> {
        let mut text = RuleText::new(match &*rule.action {
            "" => "allow",
            "next-tier" => "pass",
            action => action,
        });
        let family = |version: &String| match &**version {
            "IPV4" => Some(4),
            "IPV6" => Some(6),
            _ => None,
        };
        text.one("ip", rule.ip_version.as_ref().and_then(family));
        text.one("proto", rule.protocol.as_ref().map(protocol).transpose()?);
        text.one("!proto", rule.not_protocol.as_ref().map(protocol).transpose()?);
        let icmp = |kind: Option<i32>, both: Option<Icmp>| {
            let both = both.map(|both| format!("{}/{}", both.r#type, both.code));
            kind.map(|kind| kind.to_string()).or(both)
        };
        text.one("icmp", icmp(rule.icmp_type, rule.icmp_type_code));
        text.one("!icmp", icmp(rule.not_icmp_type, rule.not_icmp_type_code));
        for (name, ports) in [
            ("src.port", &rule.src_ports),
            ("dst.port", &rule.dst_ports),
            ("src.!port", &rule.not_src_ports),
            ("dst.!port", &rule.not_dst_ports),
        ] {
            text.list(name, ports.iter().map(|ports| canonical::ports(ports.first, ports.last)));
        }
        for (name, nets) in [
            ("src.net", &rule.src_net),
            ("dst.net", &rule.dst_net),
            ("src.!net", &rule.not_src_net),
            ("dst.!net", &rule.not_dst_net),
        ] {
            text.list(name, nets.iter().cloned());
        }
        let ports = [&rule.dst_named_port_ip_set_ids[..], &rule.dst_ip_port_set_ids].concat();
        for (name, ids) in [
            ("src.set", &rule.src_ip_set_ids),
            ("dst.set", &rule.dst_ip_set_ids),
            ("src.!set", &rule.not_src_ip_set_ids),
            ("dst.!set", &rule.not_dst_ip_set_ids),
            ("src.portset", &rule.src_named_port_ip_set_ids),
            ("dst.portset", &ports),
            ("src.!portset", &rule.not_src_named_port_ip_set_ids),
            ("dst.!portset", &rule.not_dst_named_port_ip_set_ids),
        ] {
            let mut named = Vec::new();
            for id in ids {
                let set = self.sets.get(id).ok_or_else(|| format!("set {id} is missing"))?;
                let members: Result<Vec<_>, _> = set.iter().map(|text| member(text)).collect();
                named.push(sets.name(id, members?.into_iter()));
            }
            text.list(name, named.into_iter());
        }
        Ok(text)
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value.clone() };
    serde_json::from_value(value.clone()).map_err(|error| format!("{value}: {error}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn workload(id: &Value) -> String {
    format!("{} {}", text(&id["workloadId"]), text(&id["endpointId"]))
}

/// Whether a policy is no staged one.
fn is_real(name: &str) -> bool {
    !name.contains("staged:")
}

fn tiers(sort: &str, tiers: &[Tier]) -> String {
    let enforced = |policies: &[String]| -> Vec<String> {
        policies.iter().filter(|name| is_real(name)).cloned().collect()
    };
    let of = |tier: &Tier| {
        let (ingress, egress) = (enforced(&tier.ingress_policies), enforced(&tier.egress_policies));
        canonical::tier(sort, &tier.name, &tier.default_action, &ingress, &egress)
    };
    tiers.iter().map(of).collect()
}

fn protocol(protocol: &Protocol) -> Result<u8, String> {
    let name = protocol.name.as_deref().unwrap_or_default().to_lowercase();
    let number = match &*name {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" => 58,
        "sctp" => 132,
        "udplite" => 136,
        "" => return Ok(protocol.number.unwrap_or_default()),
        other => return Err(format!("protocol {other} is not known here")),
    };
    Ok(number)
}

/// `10.0.0.0/8`, or `10.0.0.1,tcp:80` with the protocol's number.
fn member(text: &str) -> Result<String, String> {
    let bad = |what: &dyn std::fmt::Display| format!("member {text}: {what}");
    match text.split_once(',') {
        None => {
            let net: IpNet = text.parse().map_err(|error| bad(&error))?;
            Ok(net.to_string())
        }
        Some((address, port)) => {
            let address: IpAddr = address.parse().map_err(|error| bad(&error))?;
            let (name, port) = port.split_once(':').ok_or_else(|| bad(&"has no port"))?;
            let name = Protocol { name: Some(name.to_owned()), number: None };
            Ok(format!("{address},{}:{port}", protocol(&name)?))
        }
    }
}
