//! Schemas of the resource types, as CustomResourceDefinitions and editors want them.
//!
//! Names and types come from the structs themselves, so they cannot drift. What a Rust type does
//! not say (limits, patterns, defaults that the API server fills in) stands in `limits.json`, by
//! struct and field: facts of upstream's API.

mod crd;
mod rules;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

#[cfg(feature = "yaml")]
pub use self::crd::deploy_files;
pub use self::crd::{CrdGroup, crd, crd_kinds, json_schema};

/// What types do not say: struct, then field (`""` is the struct itself), then keywords.
static LIMITS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("limits.json")).expect("limits.json is checked by a test")
});

/// One field of a struct of the model.
pub(crate) struct Property {
    /// Upstream's name.
    pub(crate) name: &'static str,
    /// Our documentation of it.
    pub(crate) doc: &'static str,
    /// Whether input must have it.
    pub(crate) required: bool,
    /// The schema of its type.
    pub(crate) schema: fn() -> Value,
}

pub(crate) fn of_type(name: &str) -> Value {
    json!({ "type": name })
}

pub(crate) fn integer(format: &str) -> Value {
    json!({ "type": "integer", "format": format })
}

pub(crate) fn text() -> Value {
    of_type("string")
}

/// Whatever JSON holds; the API server keeps it as it is.
pub(crate) fn anything() -> Value {
    json!({ "x-kubernetes-preserve-unknown-fields": true })
}

pub(crate) fn number_or_text() -> Value {
    json!({
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "x-kubernetes-int-or-string": true,
    })
}

/// One of these words; any text if there are none.
pub(crate) fn one_of(words: &[&str]) -> Value {
    if words.is_empty() { text() } else { json!({ "type": "string", "enum": words }) }
}

pub(crate) fn list_of(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

pub(crate) fn map_of(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

/// A struct. Fields in `also` are known by name only, unless `limits.json` says more.
pub(crate) fn object_of(name: &str, properties: &[Property], also: &[&str]) -> Value {
    let limits = |field: &str| LIMITS.get(name).and_then(|fields| fields.get(field));
    let mut schemas = Map::new();
    for property in properties {
        let mut schema = (property.schema)();
        if let Some(limits) = limits(property.name) {
            merge(&mut schema, limits);
        }
        add_rules(&mut schema, name, property.name);
        let description = describe(property.doc);
        if let (false, Value::Object(schema)) = (description.is_empty(), &mut schema) {
            schema.insert("description".to_owned(), description.into());
        }
        schemas.insert(property.name.to_owned(), schema);
    }
    for field in also {
        schemas.insert((*field).to_owned(), limits(field).cloned().unwrap_or_else(anything));
    }
    let mut object = json!({ "type": "object", "properties": schemas });
    let required: Vec<&str> = properties.iter().filter(|p| p.required).map(|p| p.name).collect();
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    if let Some(limits) = limits("") {
        merge(&mut object, limits);
    }
    add_rules(&mut object, name, "");
    object
}

fn add_rules(schema: &mut Value, name: &str, field: &str) {
    if let (Some(rules), Value::Object(schema)) = (rules::of(name, field), schema) {
        schema.insert("x-kubernetes-validations".to_owned(), rules);
    }
}

/// Adds keywords to a schema; `null` takes one away.
fn merge(schema: &mut Value, more: &Value) {
    match (schema, more) {
        (Value::Object(schema), Value::Object(more)) => {
            for (key, value) in more {
                if value.is_null() {
                    super::object::take(schema, key);
                } else {
                    merge(schema.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (schema, more) => *schema = more.clone(),
    }
}

/// Documentation of a field without what only means something in Rust.
fn describe(doc: &str) -> String {
    let mut text = doc.trim();
    // References to methods stand at the end.
    if let Some(at) = text.find("; see [`") {
        text = &text[..at];
    }
    text.replace("[`", "").replace("`]", "").replace('`', "")
}

#[cfg(test)]
mod tests;
