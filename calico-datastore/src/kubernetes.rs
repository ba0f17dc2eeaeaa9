//! A store in a Kubernetes cluster, with upstream's custom resources and views.
//!
//! Resources are custom resources of `crd.projectcalico.org/v1` or `projectcalico.org/v3`,
//! whichever the cluster has, and so are IPAM's data. Nodes, workload endpoints and profiles are
//! views of Kubernetes' own nodes, pods, namespaces and service accounts, and so are services and
//! their endpoint slices; its own policies stand among the others with the prefixes `knp.default.`
//! and `kcnp.`. Migrations of KubeVirt are live migrations. See [`crate::conversion`].
//!
//! - *Revisions* are the server's `resourceVersion`s. Those of different collections come in no
//!   order: where a watch of several of them (all objects; profiles; policies) was, this store
//!   remembers by the latest revisions that it showed, so that a caller may go on from any of
//!   them. A revision that it did not show there, or that is forgotten, leads to a listing.
//! - *Writes* are one request each, compare-and-swap on the `resourceVersion`. One that changes
//!   nothing leaves the revision as it was. A deletion's revision is the first that is known to be
//!   after it.
//! - *Views* are written where upstream writes them: a node's annotations, and a pod's addresses.
//!   What else belongs to Kubernetes is refused with what to do instead.
//! - *Watches* list as a stream where the server can, else in pages of 50 to 500; they go on after lost
//!   connections, and list anew, in brackets, after what the server has forgotten.
//!
//! ```no_run
//! use calico_core::{Datastore, key::Scope, kind::Kind};
//! use calico_datastore::config::KubernetesConfig;
//! use calico_datastore::kubernetes::KubernetesStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), calico_core::datastore::StoreError> {
//! let store = KubernetesStore::connect(&KubernetesConfig::default())?;
//! for entry in store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await?.entries {
//!     println!("{} at {}", entry.key, entry.revision);
//! }
//! # Ok(())
//! # }
//! ```

mod cluster;
mod connect;
mod failure;
mod feed;
mod listing;
mod machines;
mod objects;
mod pods;
mod reading;
mod server;
mod services;
mod source;
mod trail;
mod views;
mod watch;
mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::resource::Profile;

use self::failure::{Failure, FailureKind};
use self::listing::Pages;
pub use self::machines::MachineMeta;
pub use self::pods::PodMeta;
use self::reading::{Read, Reading};
use self::server::Server;
use self::source::{Source, What};
use self::trail::Trails;
use self::write::of_object;
use crate::config::KubernetesConfig;

/// Listings that begin again because the server forgot where they were.
const LISTINGS: usize = 5;

/// A [`Datastore`] in Kubernetes; see the [module](self). Clones share its connections.
#[derive(Debug, Clone)]
pub struct KubernetesStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: Arc<Server>,
    /// Whether the server can stream listings: it can until it says otherwise.
    streams: AtomicBool,
    trails: Trails,
}

impl Inner {
    async fn reading(&self) -> Result<Reading, Failure> {
        let settings = &self.server.settings;
        Ok(Reading {
            group: self.server.found().await?.group,
            use_pod_cidr: settings.use_pod_cidr,
            interface_prefix: settings.interface_prefix().to_owned(),
        })
    }

    async fn sources(&self, scope: &Scope) -> Result<Vec<Source>, Failure> {
        Ok(Source::of(scope, self.server.found().await?.optional))
    }

    async fn list_once(&self, scope: &Scope) -> Result<Listing, Failure> {
        let reading = self.reading().await?;
        let (mut entries, mut revision) = (Vec::new(), None::<Revision>);
        for source in self.sources(scope).await? {
            let mut pages = Pages::new(source);
            while let Some(page) = pages.next(&self.server, &reading).await? {
                for item in page.items {
                    match item {
                        Read::Object(entry) if scope.contains(&entry.key) => entries.push(entry),
                        // A listing has no place for it; a watch tells of it once.
                        Read::Bad { path, reason, .. } => {
                            tracing::debug!(path, reason, "left a malformed object out");
                        }
                        _ => {}
                    }
                }
            }
            revision = match (revision, pages.revision) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        if scope.contains(&Profile::default_allow().key()) {
            entries.push(default_allow());
        }
        entries.sort_by_cached_key(|entry| entry.key.to_string());
        Ok(Listing { entries, revision: revision.unwrap_or(Revision(1)) })
    }

    async fn write_one(&self, write: &Write) -> Result<Revision, StoreError> {
        let key = &write.key;
        if !key.is_storable() {
            return Err(StoreError::bad_object(key, &"its name cannot be stored"));
        }
        let Some(source) = Source::of_key(key) else {
            return Err(match write.value {
                None => StoreError::NotFound { key: key.clone() },
                Some(_) => StoreError::Unsupported {
                    what: format!("{key}: Kubernetes has no place for it"),
                },
            });
        };
        let reading = self.reading().await.map_err(Failure::into_error)?;
        match source.what {
            What::Custom(_) | What::Ipam(_) => {
                write::custom_resource(self, &reading, source, write).await
            }
            _ => views::view(self, &reading, &source, write).await,
        }
    }

    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        let not_found = || StoreError::NotFound { key: key.clone() };
        if *key == Profile::default_allow().key() {
            return Ok(default_allow());
        }
        let source = Source::of_key(key).filter(|_| key.is_storable()).ok_or_else(not_found)?;
        let reading = self.reading().await.map_err(Failure::into_error)?;
        let mut text = self.server.get(source.object(reading.group)).await;
        if let (Err(failure), Some(older)) = (&text, source.older(reading.group))
            && failure.kind == FailureKind::NotFound
        {
            text = self.server.get(older.object(reading.group)).await;
        }
        let text = text.map_err(|failure| of_object(key, failure))?;
        match source.read(&text, &reading) {
            Ok(Read::Object(entry)) if entry.key == *key => Ok(entry),
            // A view that says nothing (yet): what it is of is not ours to delete.
            Ok(Read::Hidden(_)) if !matches!(source.what, What::Ipam(_)) => Err(not_found()),
            Ok(Read::Hidden(_)) => {
                // Somebody began to delete it; whoever finds that finishes it.
                let write = Write::delete(key.clone(), None);
                match write::custom_resource(self, &reading, source, &write).await {
                    Err(error) => Err(error),
                    Ok(_) => Err(not_found()),
                }
            }
            Ok(Read::Object(_) | Read::Other) => Err(not_found()),
            Ok(Read::Bad { path, reason, .. }) => Err(StoreError::BadObject { path, reason }),
            Err(reason) => Err(StoreError::bad_object(key, &reason)),
        }
    }
}

fn default_allow() -> Entry {
    let profile = Profile::default_allow();
    Entry { key: profile.key(), value: profile.to_json(), revision: Revision(1) }
}

impl KubernetesStore {
    /// The store in a cluster. Connects when it is first used, which must be on a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StoreError::Settings`] for settings that make no sense, such as an endpoint that is
    /// no URL.
    pub fn connect(config: &KubernetesConfig) -> Result<Self, StoreError> {
        let server = Arc::new(Server::new(config.clone())?);
        Ok(Self {
            inner: Arc::new(Inner {
                server,
                streams: AtomicBool::new(true),
                trails: Trails::default(),
            }),
        })
    }
}

#[async_trait]
impl Datastore for KubernetesStore {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        for _ in 1..LISTINGS {
            match self.inner.list_once(scope).await {
                Err(failure) if failure.kind == FailureKind::Expired => {}
                result => return result.map_err(Failure::into_error),
            }
        }
        self.inner.list_once(scope).await.map_err(Failure::into_error)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        let mut done = Vec::with_capacity(writes.len());
        for write in &writes {
            match self.inner.write_one(write).await {
                Ok(revision) => done.push(revision),
                Err(error) => return Err(WriteFailed { done, error }),
            }
        }
        Ok(done)
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        watch::stream(Arc::clone(&self.inner), scope, from)
    }
}
