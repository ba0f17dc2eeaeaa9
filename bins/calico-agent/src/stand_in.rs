//! What stands in for a policy that has mistakes, where no good version of it is known.

use calico_core::datastore::Entry;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{GlobalNetworkPolicySpec, NetworkPolicySpec, Resource, Spec};
use calico_policy::Object;
use serde_json::{Map, Value, json};

/// What says whom a policy is for.
const SELECTORS: [&str; 3] = ["selector", "namespaceSelector", "serviceAccountSelector"];

/// Policies to stand in for a stored one that has mistakes and of which no good version is known, as
/// after a restart: whatever would reach it is denied. Policies before it have decided by then, so
/// nothing is denied that it had no say in.
///
/// The first of them that a graph takes is the closest: it selects what the policy selects, has its
/// place and its directions. If more than its rules cannot be read, it comes first in its tier and
/// concerns both directions. If it cannot be read whom a NetworkPolicy is for, it is for its
/// namespace. There is nothing for a GlobalNetworkPolicy of which that cannot be read, as it would
/// close the whole cluster, and for other kinds.
pub(crate) fn stand_ins(entry: &Entry) -> Vec<Object> {
    match entry.key.kind() {
        Some(Kind::NetworkPolicy) => of::<NetworkPolicySpec>(entry),
        Some(Kind::GlobalNetworkPolicy) => of::<GlobalNetworkPolicySpec>(entry),
        _ => Vec::new(),
    }
}

fn of<S: Spec>(entry: &Entry) -> Vec<Object>
where
    Resource<S>: Into<Object>,
{
    let Key::Resource { namespace, name, .. } = &entry.key else { return Vec::new() };
    let document = serde_json::from_str::<Map<String, Value>>(&entry.value).unwrap_or_default();
    let spec = document.get("spec").and_then(Value::as_object);
    let mut candidates = Vec::new();
    if let Some(spec) = spec {
        candidates.extend([denying(spec), first(spec, &SELECTORS)]);
    }
    if namespace.is_some() {
        let nothing = Map::new();
        candidates.push(first(spec.unwrap_or(&nothing), &[]));
    }
    let whole = |spec: Map<String, Value>| {
        let text = json!({ "spec": spec }).to_string();
        let mut policy = Resource::<S>::from_json(&text).ok()?;
        policy.metadata.name.clone_from(name);
        policy.metadata.namespace = namespace.clone().unwrap_or_default();
        Some(policy.into())
    };
    // Without one of these, nothing says whom a policy for the cluster is for.
    let says = |spec: &Map<String, Value>| SELECTORS.iter().any(|it| spec.contains_key(*it));
    let known = namespace.is_some() || spec.is_some_and(says);
    candidates.into_iter().filter(|_| known).filter_map(whole).collect()
}

/// All but its rules.
fn denying(spec: &Map<String, Value>) -> Map<String, Value> {
    let mut spec = spec.clone();
    let rules = |direction: &str| match spec.get(direction) {
        None | Some(Value::Null) => false,
        Some(Value::Array(rules)) => !rules.is_empty(),
        Some(_) => true,
    };
    let (ingress, egress) = (rules("ingress"), rules("egress"));
    if spec.get("types").is_none_or(|types| types.is_null() || *types == json!([])) {
        // As it would follow from the rules.
        let types = match (ingress, egress) {
            (_, false) => json!(["Ingress"]),
            (false, true) => json!(["Egress"]),
            (true, true) => json!(["Ingress", "Egress"]),
        };
        spec.insert("types".to_owned(), types);
    }
    deny(&mut spec);
    spec
}

/// Before all others of its tier, in both directions, with these of its selectors.
fn first(spec: &Map<String, Value>, selectors: &[&str]) -> Map<String, Value> {
    let kept = ["tier", "doNotTrack", "preDNAT", "applyOnForward"];
    let mut out = Map::new();
    for field in kept.iter().chain(selectors) {
        if let Some(value) = spec.get(*field) {
            let readable = if field.ends_with("elector") || *field == "tier" {
                value.is_string() || selectors.contains(field)
            } else {
                value.is_boolean()
            };
            if readable {
                out.insert((*field).to_owned(), value.clone());
            }
        }
    }
    out.insert("order".to_owned(), json!(f64::MIN));
    // Policy before translation has ingress rules alone.
    let types = match out.get("preDNAT") {
        Some(Value::Bool(true)) => json!(["Ingress"]),
        _ => json!(["Ingress", "Egress"]),
    };
    out.insert("types".to_owned(), types);
    deny(&mut out);
    out
}

fn deny(spec: &mut Map<String, Value>) {
    let concerns = |direction: &str| {
        spec.get("types")
            .and_then(Value::as_array)
            .is_some_and(|types| types.iter().any(|of| of.as_str() == Some(direction)))
    };
    for (field, used) in [("ingress", concerns("Ingress")), ("egress", concerns("Egress"))] {
        let rules = if used { json!([{ "action": "Deny" }]) } else { json!([]) };
        spec.insert(field.to_owned(), rules);
    }
}

#[cfg(test)]
mod tests {
    use calico_core::datastore::Revision;

    use super::*;

    fn entry(namespace: Option<&str>, spec: &str) -> Entry {
        let kind =
            if namespace.is_some() { Kind::NetworkPolicy } else { Kind::GlobalNetworkPolicy };
        let value = format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#).into();
        Entry { key: Key::resource(kind, namespace, "p"), value, revision: Revision(1) }
    }

    /// Selector, order, and what is denied, of each.
    fn shown(namespace: Option<&str>, spec: &str) -> Vec<String> {
        let found = stand_ins(&entry(namespace, spec));
        let show = |object: &Object| {
            macro_rules! show {
                ($policy:expr) => {{
                    let spec = &$policy.spec;
                    let order = spec.order.map_or("last".to_owned(), |order| match order {
                        f64::MIN => "first".to_owned(),
                        order => order.to_string(),
                    });
                    let types = format!("{:?}", spec.types());
                    assert_eq!(spec.ingress.len() + spec.egress.len(), spec.types().len());
                    format!("{} {order} {} {types}", spec.tier(), spec.selector)
                }};
            }
            match object {
                Object::NetworkPolicy(policy) => show!(policy),
                Object::GlobalNetworkPolicy(policy) => show!(policy),
                other => panic!("{other:?}"),
            }
        };
        found.iter().map(show).collect()
    }

    #[test]
    fn only_the_rules_are_replaced_if_they_are_what_is_wrong() {
        let spec = r#"{"tier":"t","order":5,"selector":"app == 'a'","ingress":[{"action":5}]}"#;
        for namespace in [None, Some("prod")] {
            assert_eq!(shown(namespace, spec)[0], "t 5 app == 'a' [Ingress]");
        }
        let egress = r#"{"selector":"all()","egress":{"not":"a list"}}"#;
        assert_eq!(shown(None, egress)[0], "default last all() [Egress]");
        let both = r#"{"selector":"all()","ingress":[{}],"egress":[{"action":"Alow"}]}"#;
        assert_eq!(shown(None, both)[0], "default last all() [Ingress, Egress]");
        let named = r#"{"selector":"all()","types":["Ingress"],"egress":[{"action":"Alow"}]}"#;
        assert_eq!(shown(None, named)[0], "default last all() [Ingress]");
    }

    #[test]
    fn a_place_that_cannot_be_read_is_the_first() {
        let spec = r#"{"tier":"t","order":"x","types":5,"selector":"app == 'a'"}"#;
        assert_eq!(shown(None, spec), ["t first app == 'a' [Ingress, Egress]"]);
        let spec = r#"{"tier":{},"order":5,"selector":"app == 'a'"}"#;
        assert_eq!(shown(None, spec)[0], "default first app == 'a' [Ingress, Egress]");
        let host = r#"{"preDNAT":true,"order":"x","selector":"all()"}"#;
        assert_eq!(shown(None, host), ["default first all() [Ingress]"]);
    }

    #[test]
    fn whom_it_is_for_is_not_guessed_beyond_its_namespace() {
        let spec = r#"{"selector":5}"#;
        assert_eq!(shown(Some("prod"), spec), ["default first  [Ingress, Egress]"]);
        assert_eq!(shown(None, spec), Vec::<String>::new());
        assert_eq!(shown(Some("prod"), "7"), ["default first  [Ingress, Egress]"]);
        assert_eq!(shown(None, "7"), Vec::<String>::new());
        let key = Key::resource(Kind::Tier, None, "t");
        let tier = Entry { key, value: "5".into(), revision: Revision(1) };
        assert_eq!(stand_ins(&tier), []);
    }
}
