//! `get`: finding resources and printing them.

use calico_core::Datastore;
use calico_core::datastore::{Listing, StoreError};
use calico_core::key::{Key, Scope};
use calico_core::kind::{API_VERSION, Kind};
use calico_core::resource::{AnyResource, BgpConfiguration, to_yaml};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::columns::{Context, custom, table};
use crate::output::template::{Environment, Template};
use crate::stored::from_entry;

/// How resources are printed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Format {
    Ps,
    Wide,
    Yaml,
    Json,
    /// Columns by name.
    Columns(Vec<String>),
    Template(Template),
}

impl Format {
    pub(crate) fn parse(name: &str) -> Result<Self, Failure> {
        const KNOWN: &str = "ps, wide, yaml, json, custom-columns=A,B, go-template=TEXT or \
                             go-template-file=FILE";
        let (kind, rest) = match name.split_once('=') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (name, None),
        };
        let template = |text: &str| {
            let template = Template::parse(text);
            template.map(Self::Template).map_err(|e| Failure::Usage(format!("go-template: {e}")))
        };
        match (kind, rest) {
            ("" | "ps", None) => Ok(Self::Ps),
            ("wide", None) => Ok(Self::Wide),
            ("yaml", None) => Ok(Self::Yaml),
            ("json", None) => Ok(Self::Json),
            ("custom-columns", Some(names)) if !names.is_empty() => {
                Ok(Self::Columns(names.split(',').map(|name| name.trim().to_owned()).collect()))
            }
            ("go-template", Some(text)) => template(text),
            ("go-template-file", Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| Failure::Read { path: path.into(), source })?;
                template(&text)
            }
            _ => Err(Failure::Usage(format!("unknown output format {name:?}; use {KNOWN}"))),
        }
    }

    /// Whether cells may show the cluster's AS number.
    pub(crate) const fn needs_context(&self) -> bool {
        matches!(self, Self::Wide | Self::Columns(_) | Self::Template(_))
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Query {
    /// Every resource of a kind; of one namespace if that is given.
    List { kind: Kind, namespace: Option<String> },
    /// These objects.
    Named(Vec<Key>),
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) resources: Vec<AnyResource>,
    /// Objects that are stored and cannot be read.
    pub(crate) bad: Vec<StoreError>,
    /// Set for a listing: its kind and revision.
    pub(crate) list: Option<(Kind, String)>,
}

/// Looks resources up. Of names that do not exist, the first is the failure.
pub(crate) async fn find(store: &dyn Datastore, query: &Query) -> Result<Found, Failure> {
    let mut found = Found::default();
    match query {
        Query::Named(keys) => {
            for key in keys {
                found.resources.push(from_entry(&store.get(key).await?)?);
            }
        }
        Query::List { kind, namespace } => {
            let scope = match namespace {
                Some(namespace) => Scope::Namespace(*kind, namespace.clone()),
                None => Scope::Kind(*kind),
            };
            let Listing { entries, revision } = store.list(&scope).await?;
            for entry in entries {
                match from_entry(&entry) {
                    Ok(resource) => found.resources.push(resource),
                    Err(error) => found.bad.push(error),
                }
            }
            found.list = Some((*kind, revision.to_string()));
        }
    }
    Ok(found)
}

/// Leaves out what only this cluster gave the objects.
pub(crate) fn export(resources: &mut [AnyResource]) {
    for resource in resources {
        let metadata = &mut resource.metadata;
        metadata.namespace.clear();
        metadata.uid.clear();
        metadata.resource_version.clear();
        metadata.creation_timestamp = None;
        metadata.deletion_timestamp = None;
    }
}

/// The text of what was found.
///
/// # Errors
/// A column that does not exist, or a template that does not fit.
pub(crate) fn print(
    found: &Found,
    format: &Format,
    with_namespace: bool,
    context: &Context,
) -> Result<String, Failure> {
    let one_table = |kind: Kind, resources: &[&AnyResource]| match format {
        Format::Columns(names) => {
            custom(kind, resources, names, context).map(|table| table.aligned())
        }
        _ => {
            let wide = *format == Format::Wide;
            Ok(table(kind, resources, wide, with_namespace, context).aligned())
        }
    };
    match format {
        Format::Ps | Format::Wide | Format::Columns(_) => {
            let mut tables = Vec::new();
            if let (Some((kind, _)), true) = (&found.list, found.resources.is_empty()) {
                tables.push(one_table(*kind, &[]));
            }
            let mut kinds: Vec<Kind> = Vec::new();
            for resource in &found.resources {
                if !kinds.contains(&resource.kind) {
                    kinds.push(resource.kind);
                }
            }
            for kind in kinds {
                let of_kind: Vec<_> = found.resources.iter().filter(|r| r.kind == kind).collect();
                tables.push(one_table(kind, &of_kind));
            }
            let tables: Result<Vec<String>, String> = tables.into_iter().collect();
            Ok(tables.map_err(Failure::Usage)?.join("\n"))
        }
        Format::Yaml => Ok(to_yaml(&document(found))),
        Format::Json => Ok(format!("{:#}\n", document(found))),
        Format::Template(template) => {
            let items = found.resources.iter().map(AnyResource::to_value).collect();
            let config = vec![("asNumber", context.as_number.clone())];
            let environment = Environment { config };
            let text = template.run(&Value::Array(items), &environment);
            text.map_err(|error| Failure::Usage(format!("go-template: {error}")))
        }
    }
}

fn document(found: &Found) -> Value {
    let mut items: Vec<Value> = found.resources.iter().map(AnyResource::to_value).collect();
    match &found.list {
        Some((kind, revision)) => json!({
            "kind": format!("{kind}List"),
            "apiVersion": API_VERSION,
            "metadata": {"resourceVersion": revision},
            "items": items,
        }),
        None if items.len() == 1 => items.remove(0),
        None => Value::Array(items),
    }
}

/// What the cells of `kind` need from elsewhere.
pub(crate) async fn context(store: &dyn Datastore, needs_as: bool) -> Result<Context, Failure> {
    let mut context = Context { as_number: "64512".to_owned() };
    if needs_as {
        let key = Key::resource(Kind::BgpConfiguration, None, "default");
        if let Some(entry) = store.find(&key).await?
            && let Ok(settings) = entry.decode::<BgpConfiguration>()
        {
            context.as_number = settings.spec.as_number().to_string();
        }
    }
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::memory::MemoryStore;

    async fn store() -> MemoryStore {
        let store = MemoryStore::new();
        for (namespace, name) in [("default", "a"), ("prod", "b")] {
            let value = json!({"kind": "NetworkPolicy", "metadata": {"name": name,
                "namespace": namespace, "uid": "u"}, "spec": {"order": 1}});
            let key = Key::resource(Kind::NetworkPolicy, Some(namespace), name);
            store.put(key, value.to_string().into()).await.unwrap();
        }
        store
    }

    const CONTEXT: fn() -> Context = || Context { as_number: "64512".to_owned() };

    #[tokio::test]
    async fn a_list_is_one_document_and_can_be_read_again() {
        let store = store().await;
        let query = Query::List { kind: Kind::NetworkPolicy, namespace: None };
        let found = find(&store, &query).await.unwrap();
        let text = print(&found, &Format::Yaml, true, &CONTEXT()).unwrap();
        assert!(text.contains("kind: NetworkPolicyList"), "{text}");
        let again =
            calico_core::resource::read_manifest(&text, calico_core::resource::Mode::Strict);
        assert_eq!(again.unwrap(), found.resources);
        let table =
            "NAMESPACE   NAME   TIER\ndefault     a      default\nprod        b      default\n";
        assert_eq!(print(&found, &Format::Ps, true, &CONTEXT()).unwrap(), table);
    }

    #[tokio::test]
    async fn one_name_is_a_bare_document_and_several_are_an_array() {
        let store = store().await;
        let key = |ns: &str, name: &str| Key::resource(Kind::NetworkPolicy, Some(ns), name);
        let mut one = find(&store, &Query::Named(vec![key("prod", "b")])).await.unwrap();
        let document: Value =
            serde_json::from_str(&print(&one, &Format::Json, false, &CONTEXT()).unwrap()).unwrap();
        assert_eq!(document["metadata"]["resourceVersion"], "2");
        export(&mut one.resources);
        let text = print(&one, &Format::Yaml, false, &CONTEXT()).unwrap();
        assert!(!text.contains("resourceVersion") && !text.contains("uid"), "{text}");
        let both = vec![key("prod", "b"), key("default", "a")];
        let both = find(&store, &Query::Named(both)).await.unwrap();
        assert!(document_is_array(&print(&both, &Format::Json, false, &CONTEXT()).unwrap()));
        let missing = find(&store, &Query::Named(vec![key("prod", "x")])).await.unwrap_err();
        assert_eq!(missing.to_string(), "NetworkPolicy prod/x does not exist");
    }

    fn document_is_array(text: &str) -> bool {
        serde_json::from_str::<Value>(text).unwrap().is_array()
    }

    #[tokio::test]
    async fn a_bad_object_is_told_and_passed_over() {
        let store = store().await;
        let bad = Key::resource(Kind::NetworkPolicy, Some("prod"), "bad");
        store.put(bad, "{".into()).await.unwrap();
        let query = Query::List { kind: Kind::NetworkPolicy, namespace: Some("prod".to_owned()) };
        let found = find(&store, &query).await.unwrap();
        assert_eq!((found.resources.len(), found.bad.len()), (1, 1));
    }

    #[test]
    fn an_empty_list_has_a_heading() {
        let found = Found { list: Some((Kind::IpPool, "0".to_owned())), ..Found::default() };
        assert_eq!(
            print(&found, &Format::Ps, false, &CONTEXT()).unwrap(),
            "NAME   CIDR   SELECTOR\n"
        );
        let error = Format::parse("go-template={{x}}").unwrap_err().to_string();
        assert!(error.contains("function x is not supported"), "{error}");
        assert!(Format::parse("custom-columns=").is_err() && Format::parse("toml").is_err());
    }
}
