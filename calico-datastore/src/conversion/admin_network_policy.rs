use std::collections::BTreeMap;

use calico_core::resource::{
    Action, EntityRule, GlobalNetworkPolicy, GlobalNetworkPolicySpec, PolicyType, Port, Protocol,
    Rule,
};
use serde::Deserialize;

use super::cluster_network_policy::{
    ClusterPeer, PortRange, each_way, network_entities, rule_metadata, subject,
};
use super::meta::KubernetesMeta;
use super::network_policy::PortsOf;
use super::{Converted, calico_uid};

/// Before the name of an AdminNetworkPolicy where it stands among Calico's own.
pub const ADMIN_POLICY_PREFIX: &str = "kanp.adminnetworkpolicy.";

/// Before the name of a BaselineAdminNetworkPolicy where it stands among Calico's own.
pub const BASELINE_POLICY_PREFIX: &str = "kbanp.baselineadminnetworkpolicy.";

/// The tier of AdminNetworkPolicies.
const ADMIN_TIER: &str = "adminnetworkpolicy";

/// The tier of the BaselineAdminNetworkPolicy.
const BASELINE_TIER: &str = "baselineadminnetworkpolicy";

/// Order of the BaselineAdminNetworkPolicy, which has none of its own.
const BASELINE_ORDER: f64 = 1000.0;

/// An AdminNetworkPolicy of `policy.networking.k8s.io/v1alpha1`: what clusters had before
/// [`ClusterNetworkPolicy`](super::ClusterNetworkPolicy).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AdminNetworkPolicy {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What it says.
    pub spec: AdminNetworkPolicySpec,
}

/// The BaselineAdminNetworkPolicy of `policy.networking.k8s.io/v1alpha1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BaselineAdminNetworkPolicy {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What it says; it has no priority.
    pub spec: AdminNetworkPolicySpec,
}

/// See [`AdminNetworkPolicy`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AdminNetworkPolicySpec {
    /// Its place among the others, 0-1000.
    pub priority: i32,
    /// The pods.
    pub subject: ClusterPeer,
    /// Rules for what comes in.
    pub ingress: Vec<AdminRule>,
    /// Rules for what goes out.
    pub egress: Vec<AdminRule>,
}

/// A rule of an admin policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AdminRule {
    /// For people.
    pub name: String,
    /// `Allow`, `Deny` or, of an AdminNetworkPolicy, `Pass`.
    pub action: String,
    /// Ports; none is all.
    pub ports: Option<Vec<AdminPort>>,
    /// The other end: any of these.
    #[serde(alias = "to")]
    pub from: Vec<ClusterPeer>,
}

/// A port or several: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct AdminPort {
    /// One port.
    pub port_number: Option<AdminPortNumber>,
    /// By its name in the pod.
    pub named_port: Option<String>,
    /// Several ports.
    pub port_range: Option<AdminPortRange>,
}

/// One port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AdminPortNumber {
    /// TCP if unset.
    pub protocol: Option<Protocol>,
    /// The number.
    pub port: u16,
}

/// Several ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AdminPortRange {
    /// TCP if unset.
    pub protocol: Option<Protocol>,
    /// From and to.
    #[serde(flatten)]
    pub range: PortRange,
}

/// The policy in Calico's terms, under its own name, in the tier that upstream had for it.
///
/// A rule that cannot be carried over never allows more than was meant: one that denies or passes
/// denies everything instead, another is left out (upstream).
///
/// # Errors
///
/// Why nothing of it can be used: it has no subject. To Calico it is as if it were deleted.
pub fn admin_network_policy(
    policy: &AdminNetworkPolicy,
) -> Result<Converted<GlobalNetworkPolicy>, String> {
    let known = [("Allow", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)];
    let order = f64::from(policy.spec.priority);
    convert(&policy.metadata, &policy.spec, ADMIN_TIER, order, &known)
}

/// As [`admin_network_policy`]; its rules never pass.
///
/// # Errors
///
/// Why nothing of it can be used: it has no subject. To Calico it is as if it were deleted.
pub fn baseline_admin_network_policy(
    policy: &BaselineAdminNetworkPolicy,
) -> Result<Converted<GlobalNetworkPolicy>, String> {
    let known = [("Allow", Action::Allow), ("Deny", Action::Deny)];
    convert(&policy.metadata, &policy.spec, BASELINE_TIER, BASELINE_ORDER, &known)
}

fn convert(
    meta: &KubernetesMeta,
    spec: &AdminNetworkPolicySpec,
    tier: &str,
    order: f64,
    known: &[(&str, Action)],
) -> Result<Converted<GlobalNetworkPolicy>, String> {
    let (selector, namespace_selector) = subject(&spec.subject)?;
    let mut problems = Vec::new();
    let ingress = rules(&spec.ingress, PolicyType::Ingress, known, &mut problems);
    let egress = rules(&spec.egress, PolicyType::Egress, known, &mut problems);
    // At the end of these tiers nothing happens, so a direction without rules is none.
    let directions = [(PolicyType::Ingress, &ingress), (PolicyType::Egress, &egress)];
    let types = directions.into_iter().filter(|(_, rules)| !rules.is_empty());
    let types = types.map(|(direction, _)| direction).collect();
    let metadata = meta.view(meta.name.clone(), calico_uid(&meta.uid));
    let spec = GlobalNetworkPolicySpec {
        tier: tier.to_owned(),
        order: Some(order),
        types,
        ingress,
        egress,
        selector,
        namespace_selector,
        ..GlobalNetworkPolicySpec::default()
    };
    Ok(Converted::new(GlobalNetworkPolicy::with_metadata(metadata, spec), problems))
}

fn rules(
    rules: &[AdminRule],
    direction: PolicyType,
    known: &[(&str, Action)],
    problems: &mut Vec<String>,
) -> Vec<Rule> {
    let mut out = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let place = format!("spec.{}[{index}]", format!("{direction:?}").to_ascii_lowercase());
        let action = known.iter().find(|(word, _)| *word == rule.action).map(|(_, action)| *action);
        let made = match action {
            Some(action) => one(rule, action, direction),
            None => Err(format!("action {:?} is not known", rule.action)),
        };
        match made {
            Ok(rules) => out.extend(rules),
            Err(problem) if matches!(action, Some(Action::Deny | Action::Pass)) => {
                problems.push(format!("{place}: {problem}; it denies everything"));
                out.push(Rule::new(Action::Deny));
            }
            Err(problem) => problems.push(format!("{place}: {problem}; it is left out")),
        }
    }
    out
}

/// A rule for each protocol and peer; none if no peer is named.
fn one(rule: &AdminRule, action: Action, direction: PolicyType) -> Result<Vec<Rule>, String> {
    let peers = rule.from.iter().map(|peer| entities(peer, direction));
    let peers = peers.collect::<Result<Vec<_>, _>>()?;
    let rule_of_all = Rule { metadata: rule_metadata(&rule.name), ..Rule::new(action) };
    let protocols = protocols(rule.ports.as_deref().unwrap_or_default())?;
    Ok(each_way(&rule_of_all, direction, protocols, &peers.concat()))
}

/// The other end. Namespaces alone select endpoints of any orchestrator (upstream).
fn entities(peer: &ClusterPeer, direction: PolicyType) -> Result<Vec<EntityRule>, String> {
    let of = |selector: String, namespace_selector: String| {
        vec![EntityRule { selector, namespace_selector, ..EntityRule::default() }]
    };
    match peer {
        ClusterPeer { pods: Some(pods), .. } => {
            Ok(of(pods.pod_selector.of_pods()?, pods.namespace_selector.of_others()?))
        }
        ClusterPeer { namespaces: Some(namespaces), .. } => {
            Ok(of(String::new(), namespaces.of_others()?))
        }
        ClusterPeer { networks, .. } if !networks.is_empty() && direction == PolicyType::Egress => {
            network_entities(networks)
        }
        _ => Err("a peer says nothing that Calico can match".to_owned()),
    }
}

/// Ports by protocol. A port by its name stands alone, whatever its protocol: upstream, which
/// does not know them here, takes it for all ports, which may be more than was meant.
fn protocols(ports: &[AdminPort]) -> Result<Vec<PortsOf>, String> {
    let all = vec![(None, Vec::new())];
    let (mut by_protocol, mut named) = (BTreeMap::<String, PortsOf>::new(), Vec::new());
    for port in ports {
        let (protocol, port) = match port {
            AdminPort { port_number: Some(number), .. } => {
                (number.protocol, Port::single(number.port))
            }
            AdminPort { port_range: Some(of), .. } if of.range.start <= of.range.end => {
                (of.protocol, Port::Range { first: of.range.start, last: of.range.end })
            }
            AdminPort { port_range: Some(_), .. } => {
                return Err("a range of ports ends before it starts".to_owned());
            }
            AdminPort { named_port: Some(name), .. } => {
                let port = name.parse::<Port>().map_err(|error| error.to_string())?;
                named.push((None, vec![port]));
                continue;
            }
            AdminPort { .. } => return Ok(all),
        };
        let protocol = protocol.unwrap_or(Protocol::Tcp);
        let group = by_protocol.entry(protocol.to_string());
        group.or_insert_with(|| (Some(protocol), Vec::new())).1.push(port);
    }
    let found: Vec<PortsOf> = by_protocol.into_values().chain(named).collect();
    Ok(if found.is_empty() { all } else { found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn admin(spec: Value) -> Converted<GlobalNetworkPolicy> {
        let policy = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec});
        admin_network_policy(&serde_json::from_value(policy).unwrap()).unwrap()
    }

    fn baseline(spec: Value) -> Converted<GlobalNetworkPolicy> {
        let policy = json!({"metadata": {"name": "default"}, "spec": spec});
        baseline_admin_network_policy(&serde_json::from_value(policy).unwrap()).unwrap()
    }

    #[test]
    fn tiers_subjects_and_directions() {
        let spec = json!({"priority": 7, "subject": {"namespaces": {}},
            "egress": [{"action": "Pass", "to": [{"namespaces": {}}]}]});
        let policy = admin(spec.clone()).resource;
        assert_eq!((policy.spec.tier(), policy.spec.order), ("adminnetworkpolicy", Some(7.0)));
        assert_eq!(policy.spec.selector, "projectcalico.org/orchestrator == 'k8s'");
        assert_eq!(policy.spec.namespace_selector, "all()");
        assert_eq!(policy.spec.types, [PolicyType::Egress]);
        assert!(policy.metadata.labels.is_empty());
        let spec = json!({"subject": {"pods": {"namespaceSelector": {"matchLabels": {"t": "x"}},
                "podSelector": {"matchLabels": {"a": "b"}}}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
            "egress": [{"action": "Allow", "to": [{"networks": ["10.0.0.0/8"]}]}]});
        let policy = baseline(spec).resource;
        let (tier, order) = (policy.spec.tier(), policy.spec.order);
        assert_eq!((tier, order), ("baselineadminnetworkpolicy", Some(1000.0)));
        assert_eq!(policy.spec.selector, "projectcalico.org/orchestrator == 'k8s' && a == 'b'");
        assert_eq!(policy.spec.namespace_selector, "t == 'x'");
        assert_eq!(policy.spec.types, [PolicyType::Ingress, PolicyType::Egress]);
        let none: AdminNetworkPolicy =
            serde_json::from_str(r#"{"spec": {"subject": {}}}"#).unwrap();
        assert!(admin_network_policy(&none).unwrap_err().contains("spec.subject"));
    }

    #[test]
    fn ports_are_grouped_by_protocol() {
        let converted = admin(json!({"priority": 1, "subject": {"namespaces": {}}, "ingress": [
            {"name": "web", "action": "Allow",
                "from": [{"namespaces": {"matchLabels": {"m": "1"}}},
                    {"pods": {"podSelector": {"matchLabels": {"a": "b"}}}}],
                "ports": [{"portNumber": {"protocol": "UDP", "port": 53}},
                    {"portNumber": {"port": 80}},
                    {"portRange": {"protocol": "TCP", "start": 8000, "end": 8010}},
                    {"namedPort": "metrics"}]},
            {"action": "Deny", "from": [{"namespaces": {}}],
                "ports": [{"portNumber": {"port": 80}}, {}]},
            {"action": "Deny", "from": []},
        ]}));
        assert_eq!(converted.problems, [""; 0]);
        let found = serde_json::to_value(&converted.resource.spec.ingress).unwrap();
        let metadata = json!({"annotations": {"name": "web"}});
        let namespaces = json!({"namespaceSelector": "m == '1'"});
        let pods = json!({"selector": "projectcalico.org/orchestrator == 'k8s' && a == 'b'",
            "namespaceSelector": "all()"});
        let rule = |protocol: Option<&str>, source: &Value, ports: Value| {
            let mut rule = json!({"action": "Allow", "source": source,
                "destination": {"ports": ports}, "metadata": metadata});
            if let Some(protocol) = protocol {
                rule["protocol"] = protocol.into();
            }
            rule
        };
        assert_eq!(
            found,
            json!([
                rule(Some("TCP"), &namespaces, json!([80, "8000:8010"])),
                rule(Some("TCP"), &pods, json!([80, "8000:8010"])),
                rule(Some("UDP"), &namespaces, json!([53])),
                rule(Some("UDP"), &pods, json!([53])),
                rule(None, &namespaces, json!(["metrics"])),
                rule(None, &pods, json!(["metrics"])),
                {"action": "Deny", "source": {"namespaceSelector": "all()"}, "destination": {}},
            ])
        );
        converted.resource.validate().unwrap_or_else(|errors| panic!("{errors:?}"));
    }

    #[test]
    fn what_cannot_be_carried_over_allows_nothing_more() {
        let nodes = json!([{"nodes": {}}]);
        let converted = admin(json!({"subject": {"namespaces": {}}, "egress": [
            {"action": "Allow", "to": nodes},
            {"action": "Deny", "to": nodes, "name": "d"},
            {"action": "Pass", "to": [{"networks": ["10.0.0.0/33"]}]},
            {"action": "Maybe", "to": [{"namespaces": {}}]},
            {"action": "Deny", "to": [{"namespaces": {}}],
                "ports": [{"portRange": {"start": 9, "end": 1}}]},
        ], "ingress": [{"action": "Allow", "from": [{"networks": ["10.0.0.0/8"]}]}]}));
        let actions: Vec<Action> =
            converted.resource.spec.egress.iter().map(|rule| rule.action).collect();
        assert_eq!(actions, [Action::Deny; 3]);
        assert!(converted.resource.spec.egress.iter().all(Rule::matches_everything));
        assert!(converted.resource.spec.ingress.is_empty());
        assert_eq!(converted.problems.len(), 6, "{:?}", converted.problems);

        let converted = baseline(json!({"subject": {"namespaces": {}},
            "ingress": [{"action": "Pass", "from": [{"namespaces": {}}]}]}));
        assert_eq!(converted.resource.spec.ingress, []);
        assert_eq!(
            converted.problems,
            ["spec.ingress[0]: action \"Pass\" is not known; it is left out"]
        );
    }
}
