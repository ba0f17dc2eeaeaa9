//! What the cluster says about itself: who it is, which version, and whether it is locked.

use calico_core::Datastore;
use calico_core::datastore::{Revision, StoreError};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::ClusterInformation;

use crate::failure::Failure;

/// Attempts at changing it while others write it.
const TRIES: u32 = 5;

/// The stored ClusterInformation `default`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) information: ClusterInformation,
    pub(crate) revision: Revision,
}

impl Cluster {
    pub(crate) fn key() -> Key {
        Key::resource(Kind::ClusterInformation, None, "default")
    }

    /// Reads it; `None` if the datastore was never initialised.
    pub(crate) async fn read(store: &dyn Datastore) -> Result<Option<Self>, StoreError> {
        let Some(entry) = store.find(&Self::key()).await? else { return Ok(None) };
        Ok(Some(Self { information: entry.decode()?, revision: entry.revision }))
    }

    /// Whether agents and controllers must leave the datastore alone.
    pub(crate) fn is_locked(&self) -> bool {
        self.information.spec.datastore_ready == Some(false)
    }
}

/// Locks or unlocks the datastore.
pub(crate) async fn set_ready(store: &dyn Datastore, ready: bool) -> Result<(), Failure> {
    for attempt in 1.. {
        let Some(Cluster { mut information, revision }) = Cluster::read(store).await? else {
            return Err(Failure::Usage(
                "the datastore has no ClusterInformation: no agent has initialised it yet".into(),
            ));
        };
        information.spec.datastore_ready = Some(ready);
        information.metadata.resource_version.clear();
        match store.update(Cluster::key(), information.to_json(), revision).await {
            Err(error) if error.is_conflict() && attempt < TRIES => {}
            result => return Ok(result.map(drop)?),
        }
    }
    Ok(())
}
