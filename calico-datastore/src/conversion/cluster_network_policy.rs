mod object;

use std::collections::BTreeMap;

use calico_core::resource::{
    Action, Cidr, EntityRule, GlobalNetworkPolicy, GlobalNetworkPolicySpec, ObjectMeta, PolicyType,
    Port, Protocol, Rule, RuleMetadata,
};

pub use self::object::ClusterNetworkPolicy;
pub(super) use self::object::{ClusterPeer, ClusterProtocol, ClusterRule, PortOrRange, PortRange};
use super::network_policy::PortsOf;
use super::selector::LabelSelector;
use super::{Converted, calico_uid};

/// Before the name of a ClusterNetworkPolicy where it stands among Calico's own.
pub const CLUSTER_POLICY_PREFIX: &str = "kcnp.";

/// Where a rule's name is kept.
const NAME_ANNOTATION: &str = "name";

/// The policy in Calico's terms, under its own name: upstream's kind
/// `KubernetesClusterNetworkPolicy`, which has the shape of a GlobalNetworkPolicy.
///
/// A rule that cannot be carried over never allows more than was meant: one that denies or passes
/// matches everything instead, one that accepts is left out.
///
/// # Errors
///
/// Why nothing of it can be used: it has no known tier, no place in it, or no subject. To Calico
/// it is as if it were deleted.
pub fn cluster_network_policy(
    policy: &ClusterNetworkPolicy,
) -> Result<Converted<GlobalNetworkPolicy>, String> {
    let (meta, spec) = (&policy.metadata, &policy.spec);
    let tier = match spec.tier.as_str() {
        "Admin" => "kube-admin",
        "Baseline" => "kube-baseline",
        other => return Err(format!("spec.tier {other:?} is neither Admin nor Baseline")),
    };
    let priority = spec.priority.filter(|priority| (0..=1000).contains(priority));
    let priority = priority.ok_or("spec.priority is not from 0 to 1000")?;
    let (selector, namespace_selector) = subject(&spec.subject)?;
    let mut problems = Vec::new();
    let ingress = rules(&spec.ingress, PolicyType::Ingress, &mut problems);
    let egress = rules(&spec.egress, PolicyType::Egress, &mut problems);
    let types = match (spec.ingress.is_empty(), spec.egress.is_empty()) {
        (false, true) => vec![PolicyType::Ingress],
        (true, false) => vec![PolicyType::Egress],
        _ => vec![PolicyType::Ingress, PolicyType::Egress],
    };
    let metadata = ObjectMeta {
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        ..meta.view(meta.name.clone(), calico_uid(&meta.uid))
    };
    let spec = GlobalNetworkPolicySpec {
        tier: tier.to_owned(),
        #[expect(clippy::cast_precision_loss, reason = "it is at most 1000")]
        order: Some(priority as f64),
        types,
        ingress,
        egress,
        selector,
        namespace_selector,
        ..GlobalNetworkPolicySpec::default()
    };
    Ok(Converted::new(GlobalNetworkPolicy::with_metadata(metadata, spec), problems))
}

fn rules(rules: &[ClusterRule], direction: PolicyType, problems: &mut Vec<String>) -> Vec<Rule> {
    let mut out = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let place = format!("spec.{}[{index}]", format!("{direction:?}").to_ascii_lowercase());
        let action = match rule.action.as_str() {
            "Accept" => Action::Allow,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            other => {
                problems.push(format!("{place}: action {other:?} is not known; it denies all"));
                out.push(named(rule, Action::Deny));
                continue;
            }
        };
        match convert(rule, action, direction) {
            Ok(rules) => out.extend(rules),
            Err(problem) if action == Action::Allow => {
                problems.push(format!("{place}: {problem}; it is left out"));
            }
            Err(problem) => {
                problems.push(format!("{place}: {problem}; it matches everything"));
                out.push(named(rule, action));
            }
        }
    }
    out
}

fn named(rule: &ClusterRule, action: Action) -> Rule {
    Rule { metadata: rule_metadata(&rule.name), ..Rule::new(action) }
}

fn convert(rule: &ClusterRule, action: Action, direction: PolicyType) -> Result<Vec<Rule>, String> {
    if rule.from.is_empty() {
        return Err("it has no peer".to_owned());
    }
    let peers = rule.from.iter().map(entities).collect::<Result<Vec<_>, _>>()?;
    Ok(each_way(&named(rule, action), direction, protocols(&rule.protocols)?, &peers.concat()))
}

/// Endpoints that a policy is about, as its selector and its namespace selector.
pub(super) fn subject(subject: &ClusterPeer) -> Result<(String, String), String> {
    let (pods, namespaces) = match subject {
        ClusterPeer { namespaces: Some(namespaces), .. } => {
            (LabelSelector::default().of_pods(), namespaces.of_others())
        }
        ClusterPeer { pods: Some(pods), .. } => {
            (pods.pod_selector.of_pods(), pods.namespace_selector.of_others())
        }
        _ => return Err("spec.subject has neither namespaces nor pods".to_owned()),
    };
    let wrong = |problem| format!("spec.subject: {problem}");
    Ok((pods.map_err(wrong)?, namespaces.map_err(wrong)?))
}

/// Where a rule's name is kept; nowhere without one.
pub(super) fn rule_metadata(name: &str) -> Option<RuleMetadata> {
    let annotations = BTreeMap::from([(NAME_ANNOTATION.to_owned(), name.to_owned())]);
    (!name.is_empty()).then(|| RuleMetadata { annotations, ..RuleMetadata::default() })
}

/// `rule` for each protocol and each of the other ends.
pub(super) fn each_way(
    rule: &Rule,
    direction: PolicyType,
    protocols: Vec<PortsOf>,
    others: &[EntityRule],
) -> Vec<Rule> {
    let mut out = Vec::with_capacity(protocols.len() * others.len());
    for (protocol, ports) in protocols {
        for other in others {
            let mut made = Rule { protocol, ..rule.clone() };
            match direction {
                PolicyType::Ingress => made.source = other.clone(),
                PolicyType::Egress => made.destination = other.clone(),
            }
            made.destination.ports.clone_from(&ports);
            out.push(made);
        }
    }
    out
}

/// The other end.
fn entities(peer: &ClusterPeer) -> Result<Vec<EntityRule>, String> {
    let pods = |selector: String, namespaces: String| {
        vec![EntityRule { selector, namespace_selector: namespaces, ..EntityRule::default() }]
    };
    match peer {
        ClusterPeer { nodes: Some(_), .. } => Err("Calico cannot match nodes".to_owned()),
        ClusterPeer { domain_names, .. } if !domain_names.is_empty() => {
            Err("Calico cannot match domain names".to_owned())
        }
        ClusterPeer { namespaces: Some(namespaces), .. } => {
            Ok(pods(LabelSelector::default().of_pods()?, namespaces.of_others()?))
        }
        ClusterPeer { pods: Some(of), .. } => {
            Ok(pods(of.pod_selector.of_pods()?, of.namespace_selector.of_others()?))
        }
        ClusterPeer { networks, .. } if !networks.is_empty() => network_entities(networks),
        _ => Err("the peer says nothing that is known".to_owned()),
    }
}

/// Ends with these addresses; addresses of both families need a rule for each.
pub(super) fn network_entities(networks: &[String]) -> Result<Vec<EntityRule>, String> {
    let read = |text: &String| {
        text.parse::<Cidr>().map_err(|_no_range| format!("{text:?} is no range of addresses"))
    };
    let nets = networks.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let (v4, v6): (Vec<Cidr>, Vec<Cidr>) = nets.into_iter().partition(|net| net.addr().is_ipv4());
    let family = |nets: Vec<Cidr>| EntityRule { nets, ..EntityRule::default() };
    Ok([v4, v6].into_iter().filter(|nets| !nets.is_empty()).map(family).collect())
}

fn protocols(protocols: &[ClusterProtocol]) -> Result<Vec<PortsOf>, String> {
    if protocols.is_empty() {
        return Ok(vec![(None, Vec::new())]);
    }
    let one = |protocol: &ClusterProtocol| {
        if !protocol.destination_named_port.is_empty() {
            let port = protocol.destination_named_port.parse::<Port>();
            return Ok((None, vec![port.map_err(|error| error.to_string())?]));
        }
        let known = [
            (Protocol::Tcp, &protocol.tcp),
            (Protocol::Udp, &protocol.udp),
            (Protocol::Sctp, &protocol.sctp),
        ];
        let found = known.into_iter().find_map(|(name, found)| Some((name, found.as_ref()?)));
        let (name, found) = found.ok_or("a protocol is none of tcp, udp and sctp")?;
        let ports = match &found.destination_port {
            None => Vec::new(),
            Some(PortOrRange { number: Some(port), .. }) => vec![Port::single(*port)],
            Some(PortOrRange { range: Some(PortRange { start, end }), .. }) if start <= end => {
                vec![Port::Range { first: *start, last: *end }]
            }
            Some(_) => return Err("a port is neither number nor range".to_owned()),
        };
        Ok((Some(name), ports))
    };
    protocols.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn convert(spec: Value) -> Result<Converted<GlobalNetworkPolicy>, String> {
        let policy = json!({"metadata": {"name": "p"}, "spec": spec});
        cluster_network_policy(&serde_json::from_value(policy).unwrap())
    }

    fn with_ingress(rules: Value) -> Converted<GlobalNetworkPolicy> {
        convert(json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}},
            "ingress": rules}))
        .unwrap()
    }

    #[test]
    fn tiers_and_subjects() {
        let policy = convert(json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]}))
        .unwrap()
        .resource;
        assert_eq!((policy.spec.tier(), policy.spec.order), ("kube-admin", Some(5.0)));
        assert_eq!(policy.spec.selector, "projectcalico.org/orchestrator == 'k8s'");
        assert_eq!(policy.spec.namespace_selector, "all()");
        assert_eq!(policy.spec.types, [PolicyType::Ingress]);
        let policy = convert(json!({"tier": "Baseline", "priority": 0, "subject": {"pods": {
            "namespaceSelector": {"matchLabels": {"t": "x"}},
            "podSelector": {"matchLabels": {"a": "b"}}}}}))
        .unwrap()
        .resource;
        assert_eq!((policy.spec.tier(), policy.spec.order), ("kube-baseline", Some(0.0)));
        assert_eq!(policy.spec.selector, "projectcalico.org/orchestrator == 'k8s' && a == 'b'");
        assert_eq!(policy.spec.namespace_selector, "t == 'x'");
        policy.validate().unwrap();
    }

    #[test]
    fn a_malformed_policy_is_as_if_deleted() {
        for bad in [
            json!({}),
            json!({"tier": "Other", "priority": 1, "subject": {"namespaces": {}}}),
            json!({"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}}),
            json!({"tier": "Admin", "subject": {"namespaces": {}}}),
            json!({"tier": "Admin", "priority": 1, "subject": {}}),
        ] {
            assert!(convert(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_keep_action_name_peers_and_ports() {
        let converted = with_ingress(json!([
            {"name": "monitoring", "action": "Accept", "from": [{"namespaces": {"matchLabels": {"m": "1"}}}],
             "protocols": [{"tcp": {"destinationPort": {"number": 80}}},
                {"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}},
                {"destinationNamedPort": "web"}, {"sctp": {}}]},
            {"action": "Pass", "from": [{"pods": {"podSelector": {"matchLabels": {"a": "b"}}}}]},
            {"action": "Deny", "from": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]},
        ]));
        assert_eq!(converted.problems, [] as [String; 0]);
        let found = serde_json::to_value(&converted.resource.spec.ingress).unwrap();
        let monitor = json!({"selector": "projectcalico.org/orchestrator == 'k8s'",
            "namespaceSelector": "m == '1'"});
        let metadata = json!({"annotations": {"name": "monitoring"}});
        let pods = json!({"selector": "projectcalico.org/orchestrator == 'k8s' && a == 'b'",
            "namespaceSelector": "all()"});
        assert_eq!(
            found,
            json!([
                {"action": "Allow", "protocol": "TCP", "source": monitor,
                    "destination": {"ports": [80]}, "metadata": metadata},
                {"action": "Allow", "protocol": "UDP", "source": monitor,
                    "destination": {"ports": ["1:9"]}, "metadata": metadata},
                {"action": "Allow", "source": monitor, "destination": {"ports": ["web"]},
                    "metadata": metadata},
                {"action": "Allow", "protocol": "SCTP", "source": monitor, "destination": {},
                    "metadata": metadata},
                {"action": "Pass", "source": pods, "destination": {}},
                {"action": "Deny", "source": {"nets": ["10.0.0.0/8"]}, "destination": {}},
                {"action": "Deny", "source": {"nets": ["fd00::/8"]}, "destination": {}},
            ])
        );
        converted.resource.validate().unwrap();
    }

    #[test]
    fn what_cannot_be_carried_over_allows_nothing_more() {
        let domains = json!([{"domainNames": ["example.com"]}]);
        let converted = with_ingress(json!([
            {"action": "Accept", "from": domains},
            {"action": "Deny", "name": "d", "from": domains},
            {"action": "Pass", "from": [{"nodes": {}}]},
            {"action": "Accept", "from": []},
            {"action": "Maybe", "from": [{"namespaces": {}}]},
        ]));
        let actions: Vec<Action> =
            converted.resource.spec.ingress.iter().map(|rule| rule.action).collect();
        assert_eq!(actions, [Action::Deny, Action::Pass, Action::Deny]);
        assert!(converted.resource.spec.ingress.iter().all(Rule::matches_everything));
        let name = converted.resource.spec.ingress[0].metadata.as_ref().unwrap();
        assert_eq!(name.annotations["name"], "d");
        assert_eq!(converted.problems.len(), 5, "{:?}", converted.problems);
    }
}
