//! What else is wrong with a document that cannot be read as a whole.
//!
//! Whoever corrects a manifest wants to see all of its mistakes, not those of each stage in turn.
//! So what cannot be read is taken out, and the rest is validated.

use serde_json::{Map, Value};

use super::{AnyResource, FieldError, Mode};
use crate::kind::{API_VERSION, Kind};

/// With more mistakes than this, those are enough for a beginning.
const MANY: usize = 256;

/// What validation finds besides the mistakes `found` already. Says nothing about a place that
/// was taken out, nor about the element of a list that it stood in: what seems missing there is
/// perhaps only misspelt.
pub(super) fn mistakes(
    kind: Kind,
    metadata: Option<Value>,
    mut fields: Map<String, Value>,
    found: &[FieldError],
) -> Vec<FieldError> {
    if found.len() > MANY {
        return Vec::new();
    }
    fields.insert("kind".to_owned(), kind.as_str().into());
    fields.insert("apiVersion".to_owned(), API_VERSION.into());
    fields.extend(metadata.map(|metadata| ("metadata".to_owned(), metadata)));
    let document = Value::Object(fields);
    // Something may need what was taken out of it; then the whole list that it is in goes, too.
    let lists = |path: &str| path.find('[').map_or(path.len(), |start| start);
    let Some(resource) =
        without(&document, found, str::len).or_else(|| without(&document, found, lists))
    else {
        return Vec::new();
    };
    let mut errors = resource.validate().err().unwrap_or_default();
    errors.retain(|error| !found.iter().any(|known| concerns(&error.path, &known.path)));
    errors
}

/// The resource and its defaults, without what stands at the first `length` bytes of each path.
fn without(
    document: &Value,
    found: &[FieldError],
    length: impl Fn(&str) -> usize,
) -> Option<AnyResource> {
    let mut document = document.clone();
    for error in found {
        remove(&mut document, &error.path[..length(&error.path)]);
    }
    let mut resource = AnyResource::from_value(document, Mode::Tolerant).ok()?;
    resource.apply_defaults().ok()?;
    Some(resource)
}

/// Takes the value at `path` out; as elements of a list must keep their numbers, the whole list
/// goes with one of them.
fn remove(value: &mut Value, path: &str) {
    match value {
        Value::Object(fields) => {
            // Keys may have dots; the longest that fits is meant.
            let key = fields.keys().filter(|key| below(path, key).is_some());
            let Some(key) = key.max_by_key(|key| key.len()).cloned() else { return };
            let rest = below(path, &key).unwrap_or_default();
            let whole_list = fields[&key].is_array() && rest.ends_with(']') && !rest.contains('.');
            if rest.is_empty() || whole_list {
                fields.shift_remove(&key);
            } else {
                remove(&mut fields[&key], rest.trim_start_matches('.'));
            }
        }
        Value::Array(items) => {
            let index = path.strip_prefix('[').and_then(|path| path.split_once(']'));
            let Some((index, rest)) = index else { return };
            if let Some(item) = index.parse().ok().and_then(|index: usize| items.get_mut(index)) {
                remove(item, rest.trim_start_matches('.'));
            }
        }
        _ => {}
    }
}

/// Whether a mistake at `path` may be due to the one at `known`.
fn concerns(path: &str, known: &str) -> bool {
    let element = known.rfind(']').map_or(known, |end| &known[..=end]);
    below(path, element).is_some() || below(known, path).is_some()
}

/// What is left of `path` below `place`; nothing if it is elsewhere.
pub(super) fn below<'a>(path: &'a str, place: &str) -> Option<&'a str> {
    path.strip_prefix(place).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(mut document: Value) -> Vec<String> {
        document["apiVersion"] = API_VERSION.into();
        let errors = AnyResource::from_value(document, Mode::Valid).unwrap_err();
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn all_stages_report_together() {
        let policy = json!({
            "kind": "NetworkPolicy",
            "metadata": {"name": "Web_x", "namespace": "default", "labels": {"a.b/c": 1}},
            "spec": {
                "selectr": "all()",
                "selector": "role = 'web'",
                "types": ["Ingres"],
                "ingress": [
                    {"action": "Allow", "protocol": "TPC", "source": {"ports": [80]}},
                    {"action": "Allow", "source": {"ports": [80], "nets": ["10.0.0.0/8"]}},
                    {"action": "Allow", "source": {"nets": ["10.0.0.0/40"], "selector": "x ="}},
                ],
            },
        });
        let expected = [
            "metadata.labels.a.b/c",
            "spec.selectr",
            "spec.types[0]",
            "spec.ingress[0].protocol",
            "spec.ingress[2].source.nets[0]",
            "metadata.name",
            "spec.selector",
            "spec.ingress[1].source.ports",
            "spec.ingress[2].source.selector",
        ];
        let mut found = paths(policy);
        found.sort();
        let mut expected = expected.map(str::to_owned);
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_was_taken_out_is_not_called_missing() {
        let pool =
            |spec: Value| paths(json!({"kind": "IPPool", "metadata": {"name": "a"}, "spec": spec}));
        assert_eq!(pool(json!({"cidr": "10.0.0.0/40", "blockSize": 33})), ["spec.cidr"]);
        let both = json!({"cidr": "10.0.0.0/16", "natOutgoing": "x", "blockSize": 33});
        assert_eq!(pool(both), ["spec.natOutgoing", "spec.blockSize"]);
        assert_eq!(pool(json!(7)), ["spec"]);
        let rules = json!([{"action": "Permit"}, {"source": {"selector": "x ="}}]);
        let policy = json!({
            "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "a"},
            "spec": {"ingress": rules, "selector": "x ="},
        });
        let expected = ["spec.ingress[0].action", "spec.ingress[1].action", "spec.selector"];
        assert_eq!(paths(policy), expected);
    }
}
