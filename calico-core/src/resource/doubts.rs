//! What is valid and yet does not do what it seems to say: rules that never match, are never
//! reached or are not looked at, and policies that select nothing.

use ipnet::IpNet;
use serde_json::Value;

use super::{
    AnyResource, EntityRule, FieldError, GlobalNetworkPolicy, Icmp, NetworkPolicy, Path,
    PolicyType, Port, Profile, Rule, StagedGlobalNetworkPolicy, StagedNetworkPolicy,
};
use crate::kind::Kind;
use crate::selector::{Selector, entity_not_selector, entity_selector};

/// The place that all of a policy's fields are below.
const SPEC: Path<'_> = Path::Key(&Path::Root, "spec");

/// What of a policy or profile matters here.
struct Policy<'a> {
    namespace: &'a str,
    /// Each with its place.
    selectors: Vec<(&'a str, &'a str)>,
    /// As written; empty if left out.
    types: &'a [PolicyType],
    ingress: &'a [Rule],
    egress: &'a [Rule],
}

/// Writes `doubts` for a kind of policy, from its selectors.
macro_rules! policies {
    ($($kind:ident: [$($field:ident = $name:literal),*];)*) => { $(
        impl $kind {
            /// What in a valid policy does not do what it seems to say, each with its place and the
            /// reason. Of empty lists, which typed policies do not tell from missing ones,
            /// [`AnyResource::doubts`] knows, too.
            #[must_use]
            pub fn doubts(&self) -> Vec<FieldError> {
                let (mut found, spec) = (Vec::new(), &self.spec);
                let selectors = vec![$((&*spec.$field, $name)),*];
                let (types, namespace) = (&*spec.types, self.namespace());
                let (ingress, egress) = (&*spec.ingress, &*spec.egress);
                Policy { namespace, selectors, types, ingress, egress }.check(&mut found);
                found
            }
        }
    )* };
}

policies! {
    NetworkPolicy: [selector = "selector"];
    StagedNetworkPolicy: [selector = "selector"];
    GlobalNetworkPolicy: [selector = "selector", namespace_selector = "namespaceSelector"];
    StagedGlobalNetworkPolicy: [selector = "selector", namespace_selector = "namespaceSelector"];
}

impl AnyResource {
    /// What in a valid policy or profile does not do what it seems to say, each with its place and
    /// the reason. Empty for what is not valid, and for other kinds.
    #[must_use]
    pub fn doubts(&self) -> Vec<FieldError> {
        let mut found = Vec::new();
        macro_rules! policy {
            ($kind:ty) => {
                if let Ok(policy) = self.typed::<<$kind as Typed>::Spec>() {
                    found = policy.doubts();
                }
            };
        }
        match self.kind {
            Kind::NetworkPolicy => policy!(NetworkPolicy),
            Kind::StagedNetworkPolicy => policy!(StagedNetworkPolicy),
            Kind::GlobalNetworkPolicy => policy!(GlobalNetworkPolicy),
            Kind::StagedGlobalNetworkPolicy => policy!(StagedGlobalNetworkPolicy),
            Kind::Profile => {
                if let Ok(Profile { spec, .. }) = self.typed() {
                    let (ingress, egress) = (&*spec.ingress, &*spec.egress);
                    let (selectors, types) = (Vec::new(), &[][..]);
                    Policy { namespace: "", selectors, types, ingress, egress }.check(&mut found);
                }
            }
            _ => return found,
        }
        self.empty_lists(&mut found);
        found
    }

    /// Lists that are there and empty: whoever writes one may mean that nothing matches.
    fn empty_lists(&self, found: &mut Vec<FieldError>) {
        let Some(spec) = self.fields.get("spec") else { return };
        for direction in ["ingress", "egress"] {
            let rules =
                spec.get(direction).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            for (index, rule) in rules.iter().enumerate() {
                for end in ["source", "destination"] {
                    for (list, what) in [("ports", "port"), ("nets", "address")] {
                        let value = rule.get(end).and_then(|entity| entity.get(list));
                        if value.and_then(Value::as_array).is_some_and(Vec::is_empty) {
                            let message = format!(
                                "an empty list is as good as none: every {what} matches; leave out \
                                 the list or the rule"
                            );
                            let at = format!("spec.{direction}[{index}].{end}.{list}");
                            found.push(FieldError::new(at, message));
                        }
                    }
                }
            }
        }
    }
}

/// The spec of a resource type.
trait Typed {
    type Spec;
}

impl<S: super::Spec> Typed for super::Resource<S> {
    type Spec = S;
}

impl Policy<'_> {
    fn check(&self, found: &mut Vec<FieldError>) {
        for (text, name) in &self.selectors {
            if text.parse::<Selector>().is_ok_and(|selector| selects_nothing(&selector)) {
                let message = format!("{text:?} contradicts itself: the policy selects nothing");
                found.push(FieldError::new(SPEC.key(name), message));
            }
        }
        for (rules, direction, name) in [
            (self.ingress, PolicyType::Ingress, "ingress"),
            (self.egress, PolicyType::Egress, "egress"),
        ] {
            let at = SPEC.key(name);
            if !rules.is_empty() && !self.types.is_empty() && !self.types.contains(&direction) {
                let message = format!("not looked at: spec.types does not name {direction}");
                found.push(FieldError::new(at, message));
                continue;
            }
            self.rules(rules, &at, found);
        }
    }

    fn rules(&self, rules: &[Rule], at: &Path<'_>, found: &mut Vec<FieldError>) {
        for (index, rule) in rules.iter().enumerate() {
            let at = at.index(index);
            let mut never = |field: &Path<'_>, reason: String| {
                found.push(FieldError::new(field, format!("{reason}: the rule never matches")));
            };
            if rule.protocol.is_some() && rule.protocol == rule.not_protocol {
                never(&at.key("notProtocol"), "is the rule's protocol".to_owned());
            }
            if excludes(rule.not_icmp.as_ref(), rule.icmp.as_ref()) {
                never(&at.key("notICMP"), "leaves nothing of icmp".to_owned());
            }
            for (entity, end) in [(&rule.source, "source"), (&rule.destination, "destination")] {
                let at = at.key(end);
                self.entity(entity, &at, &mut never);
                let alien = |net: &&super::Cidr| match rule.protocol.map(super::Protocol::number) {
                    Some(1) => matches!(net.0, IpNet::V6(_)),
                    Some(58) => matches!(net.0, IpNet::V4(_)),
                    _ => false,
                };
                if let Some(net) = entity.nets.iter().find(alien) {
                    let protocol = rule.protocol.map(|protocol| protocol.to_string());
                    let protocol = protocol.unwrap_or_default();
                    never(
                        &at.key("nets"),
                        format!("{net} is of the family that {protocol} is not"),
                    );
                }
            }
            if rule.http.is_some() {
                let message = "not enforced: only addresses, protocol and ports are looked at";
                found.push(FieldError::new(at.key("http"), message));
            }
        }
        let last = rules
            .iter()
            .position(|rule| rule.action != super::Action::Log && rule.matches_everything());
        if let Some(last) = last.filter(|last| last + 1 < rules.len()) {
            let message = format!("never reached: the rule before, [{last}], matches everything");
            found.push(FieldError::new(at.index(last + 1), message));
        }
    }

    fn entity(
        &self,
        entity: &EntityRule,
        at: &Path<'_>,
        never: &mut impl FnMut(&Path<'_>, String),
    ) {
        let covered = |net: &super::Cidr| entity.not_nets.iter().any(|not| not.contains(&net.0));
        if !entity.nets.is_empty() && entity.nets.iter().all(covered) {
            never(&at.key("notNets"), "leaves nothing of nets".to_owned());
        }
        let within = |port: &Port| {
            entity.not_ports.iter().any(|not| match (port, not) {
                (Port::Range { first, last }, Port::Range { first: from, last: to }) => {
                    from <= first && last <= to
                }
                (port, not) => port == not,
            })
        };
        if !entity.ports.is_empty() && entity.ports.iter().all(within) {
            never(&at.key("notPorts"), "leaves nothing of ports".to_owned());
        }
        let selected = entity_selector(entity, self.namespace).ok().flatten();
        let excluded = entity_not_selector(entity).ok().flatten();
        if selected.as_ref().is_some_and(selects_nothing) {
            never(&at.key("selector"), "no labels satisfy it".to_owned());
        }
        let own = entity.selector.parse::<Selector>().ok().filter(|_| !entity.selector.is_empty());
        if let Some(excluded) = excluded {
            let everything = excluded == Selector::all() && selected.is_some();
            if everything || own.is_some_and(|own| own == excluded) {
                never(&at.key("notSelector"), "leaves nothing of what is selected".to_owned());
            }
        }
    }
}

/// Whether no labels satisfy it, as far as that is plain to see.
fn selects_nothing(selector: &Selector) -> bool {
    selector.label_restrictions().values().any(|label| label.is_impossible())
}

fn excludes(not: Option<&Icmp>, icmp: Option<&Icmp>) -> bool {
    let (Some(not), Some(icmp)) = (not, icmp) else { return false };
    not.icmp_type.is_some()
        && not.icmp_type == icmp.icmp_type
        && (not.code.is_none() || not.code == icmp.code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::API_VERSION;
    use crate::resource::Mode;

    /// The doubts about a policy with this spec.
    fn doubts(kind: &str, spec: &str) -> Vec<String> {
        let spec: Value = serde_saphyr::from_str(spec).unwrap();
        let namespace = if kind.contains("Global") { "" } else { "a" };
        let value = json!({"apiVersion": API_VERSION, "kind": kind,
            "metadata": {"name": "p", "namespace": namespace}, "spec": spec});
        let resource = AnyResource::from_value(value, Mode::Strict).unwrap();
        resource.doubts().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_that_never_match_are_named_with_the_reason() {
        for (rule, expected) in [
            ("protocol: TCP, notProtocol: TCP", "notProtocol: is the rule's protocol"),
            (
                "protocol: ICMP, icmp: {type: 8, code: 0}, notICMP: {type: 8}",
                "notICMP: leaves nothing of icmp",
            ),
            (
                "source: {nets: [10.0.0.0/8, 10.1.0.0/16], notNets: [10.0.0.0/7]}",
                "source.notNets: leaves nothing of nets",
            ),
            (
                "protocol: TCP, destination: {ports: [80, '81:90', http], notPorts: ['1:100', http]}",
                "destination.notPorts: leaves nothing of ports",
            ),
            (
                "source: {selector: \"a == 'x' && a == 'y'\"}",
                "source.selector: no labels satisfy it",
            ),
            ("source: {selector: has(a) && !has(a)}", "source.selector: no labels satisfy it"),
            ("source: {selector: \"a in {}\"}", "source.selector: no labels satisfy it"),
            (
                "source: {selector: \"a   ==   'x'\", notSelector: \"a == 'x'\"}",
                "source.notSelector: leaves nothing of what is selected",
            ),
            (
                "destination: {selector: has(a), notSelector: all()}",
                "destination.notSelector: leaves nothing of what is selected",
            ),
            (
                "protocol: ICMPv6, destination: {nets: [10.0.0.0/8]}",
                "destination.nets: 10.0.0.0/8 is of the family that ICMPv6 is not",
            ),
        ] {
            let found =
                doubts("NetworkPolicy", &format!("{{ingress: [{{action: Allow, {rule}}}]}}"));
            let wanted = format!("spec.ingress[0].{expected}: the rule never matches");
            assert_eq!(found, [wanted], "{rule}");
        }
    }

    #[test]
    fn rules_that_match_something_raise_no_doubt() {
        for rule in [
            "protocol: TCP, notProtocol: UDP",
            "protocol: ICMP, icmp: {type: 8}, notICMP: {type: 8, code: 1}",
            "source: {nets: [10.0.0.0/8, 11.0.0.0/8], notNets: [10.0.0.0/8]}",
            "source: {notNets: [10.0.0.0/8]}",
            "protocol: TCP, destination: {ports: ['80:90'], notPorts: ['81:90']}",
            "protocol: TCP, destination: {notPorts: [80]}",
            "source: {selector: \"a == 'x' || a == 'y'\"}",
            "source: {selector: \"a == 'x'\", notSelector: \"b == 'x'\"}",
            "source: {notSelector: has(a)}",
            "source: {namespaceSelector: global()}",
        ] {
            let spec = format!("{{ingress: [{{action: Allow, {rule}}}, {{action: Deny}}]}}");
            assert_eq!(doubts("NetworkPolicy", &spec), [""; 0], "{rule}");
        }
    }

    #[test]
    fn what_is_not_looked_at_is_named() {
        let found = doubts(
            "GlobalNetworkPolicy",
            "{selector: \"a == 'x' && a == 'y'\", types: [Egress], ingress: [{action: Allow}],
              egress: [{action: Log}, {action: Deny}, {action: Allow}]}",
        );
        assert_eq!(
            found,
            [
                "spec.selector: \"a == 'x' && a == 'y'\" contradicts itself: the policy selects nothing",
                "spec.ingress: not looked at: spec.types does not name Ingress",
                "spec.egress[2]: never reached: the rule before, [1], matches everything",
            ]
        );
        let found = doubts(
            "StagedNetworkPolicy",
            "{ingress: [{action: Allow, protocol: TCP, destination: {ports: []}}]}",
        );
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("spec.ingress[0].destination.ports: an empty list"),
            "{found:?}"
        );
    }
}
