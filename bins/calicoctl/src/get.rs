//! `get`: finding resources and printing them.

use calico_core::Datastore;
use calico_core::datastore::{Listing, StoreError};
use calico_core::key::{Key, Scope};
use calico_core::kind::{API_VERSION, Kind};
use calico_core::resource::{AnyResource, BgpConfiguration, to_yaml};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::columns::{Context, table};
use crate::stored::from_entry;

/// How resources are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Ps,
    Wide,
    Yaml,
    Json,
}

impl Format {
    pub(crate) fn parse(name: &str) -> Result<Self, Failure> {
        match name {
            "" | "ps" => Ok(Self::Ps),
            "wide" => Ok(Self::Wide),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            other => {
                let kind = other.split('=').next().unwrap_or_default();
                let known = ["custom-columns", "go-template", "go-template-file"];
                Err(Failure::Usage(match known.contains(&kind) {
                    true => format!("output format {kind} is not supported yet; use yaml or json"),
                    false => format!("unknown output format {other:?}; use ps, wide, yaml or json"),
                }))
            }
        }
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
pub(crate) fn print(
    found: &Found,
    format: Format,
    with_namespace: bool,
    context: &Context,
) -> String {
    match format {
        Format::Ps | Format::Wide => {
            let wide = format == Format::Wide;
            let mut tables = Vec::new();
            if let (Some((kind, _)), true) = (&found.list, found.resources.is_empty()) {
                tables.push(table(*kind, &[], wide, with_namespace, context).aligned());
            }
            let mut kinds: Vec<Kind> = Vec::new();
            for resource in &found.resources {
                if !kinds.contains(&resource.kind) {
                    kinds.push(resource.kind);
                }
            }
            for kind in kinds {
                let of_kind: Vec<_> = found.resources.iter().filter(|r| r.kind == kind).collect();
                tables.push(table(kind, &of_kind, wide, with_namespace, context).aligned());
            }
            tables.join("\n")
        }
        Format::Yaml => to_yaml(&document(found)),
        Format::Json => format!("{:#}\n", document(found)),
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
        let text = print(&found, Format::Yaml, true, &CONTEXT());
        assert!(text.contains("kind: NetworkPolicyList"), "{text}");
        let again =
            calico_core::resource::read_manifest(&text, calico_core::resource::Mode::Strict);
        assert_eq!(again.unwrap(), found.resources);
        let table =
            "NAMESPACE   NAME   TIER\ndefault     a      default\nprod        b      default\n";
        assert_eq!(print(&found, Format::Ps, true, &CONTEXT()), table);
    }

    #[tokio::test]
    async fn one_name_is_a_bare_document_and_several_are_an_array() {
        let store = store().await;
        let key = |ns: &str, name: &str| Key::resource(Kind::NetworkPolicy, Some(ns), name);
        let mut one = find(&store, &Query::Named(vec![key("prod", "b")])).await.unwrap();
        let document: Value =
            serde_json::from_str(&print(&one, Format::Json, false, &CONTEXT())).unwrap();
        assert_eq!(document["metadata"]["resourceVersion"], "2");
        export(&mut one.resources);
        let text = print(&one, Format::Yaml, false, &CONTEXT());
        assert!(!text.contains("resourceVersion") && !text.contains("uid"), "{text}");
        let both = vec![key("prod", "b"), key("default", "a")];
        let both = find(&store, &Query::Named(both)).await.unwrap();
        assert!(document_is_array(&print(&both, Format::Json, false, &CONTEXT())));
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
        assert_eq!(print(&found, Format::Ps, false, &CONTEXT()), "NAME   CIDR   SELECTOR\n");
        assert!(Format::parse("go-template=x").unwrap_err().to_string().contains("not supported"));
    }
}
