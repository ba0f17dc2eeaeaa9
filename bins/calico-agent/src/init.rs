//! What every cluster has: the built-in tiers, and the cluster's identity. Upstream's clients
//! make sure of it too (`EnsureInitialized`).

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{ClusterInformation, ClusterInformationSpec, Tier};
use serde::Serialize;
use tracing::info;

/// Creates what is missing; what is there stays as it is.
///
/// # Errors
///
/// [`StoreError::Unavailable`].
pub async fn ensure_initialized(
    store: &dyn Datastore,
    new_guid: impl FnOnce() -> String,
) -> Result<(), StoreError> {
    for tier in Tier::built_in() {
        create(store, Key::resource(Kind::Tier, None, tier.name()), &tier).await?;
    }
    let key = Key::resource(Kind::ClusterInformation, None, "default");
    if store.find(&key).await?.is_none() {
        let spec = ClusterInformationSpec {
            cluster_guid: new_guid(),
            calico_version: format!("v{}", env!("CARGO_PKG_VERSION")),
            datastore_ready: Some(true),
            ..ClusterInformationSpec::default()
        };
        create(store, key, &ClusterInformation::new("default", spec)).await?;
    }
    Ok(())
}

/// Creates an object unless there is one of its name.
pub(crate) async fn create(
    store: &dyn Datastore,
    key: Key,
    object: &impl Serialize,
) -> Result<(), StoreError> {
    let text =
        serde_json::to_string(object).map_err(|error| StoreError::bad_object(&key, &error))?;
    match store.create(key.clone(), text.into()).await {
        Ok(_) => {
            info!(%key, "created what every cluster has");
            Ok(())
        }
        Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use calico_core::key::Scope;
    use calico_core::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_second_agent_changes_nothing() {
        let store = MemoryStore::new();
        ensure_initialized(&store, || "first".into()).await.unwrap();
        let before = store.list(&Scope::All).await.unwrap();
        assert_eq!(before.entries.len(), 4, "three tiers and the cluster's identity");
        ensure_initialized(&store, || "second".into()).await.unwrap();
        assert_eq!(store.list(&Scope::All).await.unwrap(), before);
    }
}
