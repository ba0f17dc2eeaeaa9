use std::collections::BTreeMap;

use calico_core::resource::{
    Action, Cidr, DEFAULT_TIER, EntityRule, NetworkPolicy, NetworkPolicySpec, ObjectMeta,
    PolicyType, Port, Protocol, Rule,
};
use serde::Deserialize;
use serde_json::Value;

use super::meta::KubernetesMeta;
use super::selector::LabelSelector;
use super::{Converted, calico_uid};

/// The place of Kubernetes' own policies in tier `default`.
pub const NETWORK_POLICY_ORDER: f64 = 1000.0;

/// Before the name of a Kubernetes NetworkPolicy where it stands among Calico's own.
pub const NETWORK_POLICY_PREFIX: &str = "knp.default.";

/// A NetworkPolicy of `networking.k8s.io/v1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KubernetesNetworkPolicy {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What it says.
    pub spec: KubernetesNetworkPolicySpec,
}

/// See [`KubernetesNetworkPolicy`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct KubernetesNetworkPolicySpec {
    /// The pods.
    pub pod_selector: LabelSelector,
    /// Directions; empty: ingress, and egress if there are rules for it.
    pub policy_types: Vec<String>,
    /// What may come in.
    pub ingress: Vec<PolicyRule>,
    /// What may go out.
    pub egress: Vec<PolicyRule>,
}

/// What may pass: from or to any of the peers, on any of the ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PolicyRule {
    /// Ports; empty is all.
    pub ports: Vec<PolicyPort>,
    /// Peers; empty is all.
    #[serde(alias = "to")]
    pub from: Vec<Peer>,
}

/// A port or a range of ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct PolicyPort {
    /// `TCP`, `UDP` or `SCTP`; empty is TCP.
    pub protocol: String,
    /// Number or name; none is all.
    pub port: Option<Value>,
    /// The last of a range.
    pub end_port: Option<u16>,
}

/// The other end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Peer {
    /// Pods with these labels.
    pub pod_selector: Option<LabelSelector>,
    /// Pods of namespaces with these labels.
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses.
    pub ip_block: Option<IpBlock>,
}

/// A range of addresses, with holes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct IpBlock {
    /// The range.
    pub cidr: String,
    /// The holes.
    pub except: Vec<String>,
}

/// The policy in Calico's terms, under its own name: upstream's kind `KubernetesNetworkPolicy`,
/// which has the shape of a NetworkPolicy in tier `default`.
///
/// A rule that cannot be carried over is left out: it would allow something, so less is allowed.
#[must_use]
pub fn network_policy(policy: &KubernetesNetworkPolicy) -> Converted<NetworkPolicy> {
    let mut problems = Vec::new();
    let (meta, spec) = (&policy.metadata, &policy.spec);
    let mut rules = |direction: PolicyType, rules: &[PolicyRule]| {
        let mut out = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            match convert(rule, direction) {
                Ok(rules) => out.extend(rules),
                Err(problem) => {
                    let place = format!("{direction:?}").to_ascii_lowercase();
                    problems.push(format!("spec.{place}[{index}]: {problem}; it is left out"));
                }
            }
        }
        out
    };
    let ingress = rules(PolicyType::Ingress, &spec.ingress);
    let egress = rules(PolicyType::Egress, &spec.egress);
    let selector = spec.pod_selector.of_pods().unwrap_or_else(|problem| {
        // Nothing is known to be selected; what must not happen is to select everything.
        problems.push(format!("spec.podSelector: {problem}; the policy selects nothing"));
        "! all()".to_owned()
    });
    let metadata = ObjectMeta {
        namespace: meta.namespace.clone(),
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        ..meta.view(meta.name.clone(), calico_uid(&meta.uid))
    };
    let spec = NetworkPolicySpec {
        tier: DEFAULT_TIER.to_owned(),
        order: Some(NETWORK_POLICY_ORDER),
        types: types(spec),
        ingress,
        egress,
        selector,
        ..NetworkPolicySpec::default()
    };
    Converted::new(NetworkPolicy::with_metadata(metadata, spec), problems)
}

fn types(spec: &KubernetesNetworkPolicySpec) -> Vec<PolicyType> {
    let given: Vec<PolicyType> = [PolicyType::Ingress, PolicyType::Egress]
        .into_iter()
        .filter(|known| {
            let name = format!("{known:?}");
            spec.policy_types.contains(&name)
        })
        .collect();
    match (given.is_empty(), spec.egress.is_empty()) {
        (false, _) => given,
        (true, true) => vec![PolicyType::Ingress],
        (true, false) => vec![PolicyType::Ingress, PolicyType::Egress],
    }
}

/// One Calico rule for each protocol and each peer.
fn convert(rule: &PolicyRule, direction: PolicyType) -> Result<Vec<Rule>, String> {
    let peers: Vec<Option<&Peer>> = match rule.from.as_slice() {
        [] => vec![None],
        peers => peers.iter().map(Some).collect(),
    };
    let mut rules = Vec::new();
    for (protocol, ports) in protocols(&rule.ports)? {
        for peer in &peers {
            let other = match peer {
                Some(peer) => entity(peer)?,
                None => EntityRule::default(),
            };
            let mut rule = Rule { protocol, ..Rule::new(Action::Allow) };
            match direction {
                PolicyType::Ingress => rule.source = other,
                PolicyType::Egress => rule.destination = other,
            }
            rule.destination.ports = ports.clone();
            rules.push(rule);
        }
    }
    Ok(rules)
}

/// A protocol, and ports of it; none stands for all.
pub(super) type PortsOf = (Option<Protocol>, Vec<Port>);

/// The ports of each protocol, sorted; none stands for all.
fn protocols(ports: &[PolicyPort]) -> Result<Vec<PortsOf>, String> {
    if ports.is_empty() {
        return Ok(vec![(None, Vec::new())]);
    }
    let mut of: BTreeMap<String, Option<Vec<Port>>> = BTreeMap::new();
    for port in ports {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let known = of.entry(protocol.to_owned()).or_insert_with(|| Some(Vec::new()));
        match (read_port(port)?, known.as_mut()) {
            (Some(port), Some(ports)) => ports.push(port),
            // All ports of the protocol: the others are among them.
            (None, _) => *known = None,
            (Some(_), None) => {}
        }
    }
    let merged = of.into_iter().map(|(protocol, ports)| {
        let protocol =
            protocol.parse().map_err(|_unknown| format!("protocol {protocol:?} is not known"))?;
        Ok((Some(protocol), ports.map(merge_ports).unwrap_or_default()))
    });
    merged.collect()
}

fn read_port(port: &PolicyPort) -> Result<Option<Port>, String> {
    let bad = |value: &Value| format!("port {value} is none");
    let first = match &port.port {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) => name.parse::<Port>().map_err(|error| error.to_string())?,
        Some(value) => {
            let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
            Port::single(number.ok_or_else(|| bad(value))?)
        }
    };
    match (first, port.end_port) {
        (Port::Range { first, .. }, Some(last)) if first <= last => {
            Ok(Some(Port::Range { first, last }))
        }
        (first, None) => Ok(Some(first)),
        (first, Some(last)) => Err(format!("there are no ports from {first} to {last}")),
    }
}

/// Sorted, without repetitions; ranges that touch become one.
fn merge_ports(mut ports: Vec<Port>) -> Vec<Port> {
    ports.sort();
    let mut merged: Vec<Port> = Vec::new();
    for port in ports {
        match (merged.last_mut(), &port) {
            (Some(Port::Range { last: end, .. }), Port::Range { first, last })
                if *first <= end.saturating_add(1) =>
            {
                *end = (*end).max(*last);
            }
            (Some(before), port) if before == port => {}
            _ => merged.push(port),
        }
    }
    merged
}

fn entity(peer: &Peer) -> Result<EntityRule, String> {
    let mut entity = EntityRule::default();
    if let Some(block) = &peer.ip_block {
        let read = |text: &String| {
            text.parse::<Cidr>().map_err(|_no_range| format!("{text:?} is no range of addresses"))
        };
        entity.nets = vec![read(&block.cidr)?];
        entity.not_nets = block.except.iter().map(read).collect::<Result<_, _>>()?;
        return Ok(entity);
    }
    if let Some(selector) = &peer.pod_selector {
        entity.selector = selector.of_pods()?;
    }
    if let Some(selector) = &peer.namespace_selector {
        entity.namespace_selector = selector.of_others()?;
    }
    if entity == EntityRule::default() {
        return Err("the peer is empty".to_owned());
    }
    Ok(entity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn convert(spec: Value) -> Converted<NetworkPolicy> {
        let policy = json!({"metadata": {"name": "p", "namespace": "prod",
            "uid": "30316465-6365-4463-ad63-3564622d3638"}, "spec": spec});
        network_policy(&serde_json::from_value(policy).unwrap())
    }

    /// Rules as JSON: what a table can say.
    #[track_caller]
    fn check(spec: Value, ingress: Value, egress: Value, types: &[PolicyType]) {
        let Converted { resource, problems } = convert(spec);
        assert_eq!(problems, [] as [String; 0]);
        resource.validate().unwrap();
        let found = serde_json::to_value(&resource.spec).unwrap();
        let rules = |name: &str| found.get(name).cloned().unwrap_or_else(|| json!([]));
        assert_eq!((rules("ingress"), rules("egress")), (ingress, egress));
        assert_eq!(resource.spec.types, types);
    }

    use PolicyType::{Egress, Ingress};

    #[test]
    fn name_place_and_pods() {
        let policy =
            convert(json!({"podSelector": {"matchLabels": {"b": "2", "a": "1"}}})).resource;
        assert_eq!((policy.namespace(), policy.name()), ("prod", "p"));
        assert_eq!(policy.metadata.uid, "0c8c26a6-c6a6-44c6-adc6-ac2646b46c1c");
        assert_eq!((policy.spec.tier(), policy.spec.order), ("default", Some(1000.0)));
        let selector = "projectcalico.org/orchestrator == 'k8s' && a == '1' && b == '2'";
        assert_eq!(policy.spec.selector, selector);
    }

    #[test]
    fn no_rule_and_an_empty_rule_are_different() {
        check(json!({"podSelector": {}}), json!([]), json!([]), &[Ingress]);
        check(
            json!({"ingress": [{}]}),
            json!([{"action": "Allow", "source": {}, "destination": {}}]),
            json!([]),
            &[Ingress],
        );
        check(json!({"policyTypes": ["Egress"]}), json!([]), json!([]), &[Egress]);
        check(
            json!({"egress": [{}]}),
            json!([]),
            json!([{"action": "Allow", "source": {}, "destination": {}}]),
            &[Ingress, Egress],
        );
    }

    #[test]
    fn one_rule_for_each_protocol_and_peer() {
        let peers = json!([
            {"podSelector": {"matchLabels": {"app": "db"}}},
            {"namespaceSelector": {}},
            {"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {}},
        ]);
        let db = json!({"selector": "projectcalico.org/orchestrator == 'k8s' && app == 'db'"});
        let all = json!({"namespaceSelector": "all()"});
        let team = json!({"selector": "projectcalico.org/orchestrator == 'k8s'",
            "namespaceSelector": "team == 'x'"});
        let rule = |protocol: &str, source: &Value, ports: Value| {
            json!({"action": "Allow", "protocol": protocol, "source": source,
                "destination": {"ports": ports}})
        };
        let ports = json!([
            {"port": 443}, {"protocol": "UDP", "port": "dns"}, {"protocol": "TCP", "port": 80},
            {"port": 8000, "endPort": 8080}, {"port": 8081}, {"port": 80},
        ]);
        let tcp = || json!([80, 443, "8000:8081"]);
        let udp = || json!(["dns"]);
        check(
            json!({"ingress": [{"from": peers, "ports": ports}]}),
            json!([
                rule("TCP", &db, tcp()),
                rule("TCP", &all, tcp()),
                rule("TCP", &team, tcp()),
                rule("UDP", &db, udp()),
                rule("UDP", &all, udp()),
                rule("UDP", &team, udp()),
            ]),
            json!([]),
            &[Ingress],
        );
    }

    #[test]
    fn a_protocol_without_port_means_all_of_its_ports() {
        check(
            json!({"egress": [{"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "UDP"}]}],
                "policyTypes": ["Egress"]}),
            json!([]),
            json!([{"action": "Allow", "protocol": "UDP", "source": {}, "destination": {}}]),
            &[Egress],
        );
    }

    #[test]
    fn address_blocks_have_holes() {
        let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}});
        check(
            json!({"egress": [{"to": [block]}], "policyTypes": ["Ingress", "Egress"]}),
            json!([]),
            json!([{"action": "Allow", "source": {},
                "destination": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"]}}]),
            &[Ingress, Egress],
        );
    }

    #[test]
    fn a_rule_that_cannot_be_carried_over_goes_and_the_rest_stays() {
        let converted = convert(json!({"ingress": [
            {"from": [{"ipBlock": {"cidr": "10.0.0/8"}}]},
            {"from": [{}]},
            {"ports": [{"port": 90, "endPort": 80}]},
            {"ports": [{"protocol": "ICMQ"}]},
            {"ports": [{"port": 80}]}]}));
        assert_eq!(converted.resource.spec.ingress.len(), 1);
        assert_eq!(converted.problems.len(), 4, "{:?}", converted.problems);
        assert!(converted.problems[0].starts_with("spec.ingress[0]: "), "{:?}", converted.problems);
    }

    #[test]
    fn a_selector_nobody_understands_selects_nothing() {
        let odd = json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]});
        let converted = convert(json!({"podSelector": odd, "ingress": [{}]}));
        assert_eq!(converted.resource.spec.selector, "! all()");
        assert_eq!(converted.problems.len(), 1);
    }
}
