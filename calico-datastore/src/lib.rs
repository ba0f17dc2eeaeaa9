//! Backends of [`calico_core::Datastore`].
//!
//! - [`embedded`]: one durable file, for a node or a lab that needs no other database.
//! - [`remote`]: a store served by another process over a unix socket, and the server for it.
//! - `etcd` (feature of that name): an etcd v3 cluster, in upstream's layout.
//! - `kubernetes` (feature of that name): the API server of a Kubernetes cluster.
//! - [`fanout`]: one watch on a store serves any number of watches on its own.
//! - [`conversion`]: Calico's view of Kubernetes' own objects, without a client.
//! - [`config`]: picks a backend from typed settings.
//!
//! ```
//! use calico_core::Datastore;
//! use calico_core::key::{Key, Scope};
//! use calico_datastore::embedded::EmbeddedStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), calico_core::datastore::StoreError> {
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! # let path = dir.path().join("calico.db");
//! let store = EmbeddedStore::open(&path)?;
//! let revision = store.create(Key::IpamConfig, r#"{"strict_affinity":true}"#.into()).await?;
//! drop(store);
//!
//! let store = EmbeddedStore::open(&path)?;
//! assert_eq!(store.get(&Key::IpamConfig).await?.revision, revision);
//! assert_eq!(store.list(&Scope::All).await?.entries.len(), 1);
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod conversion;
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod fanout;
mod joint;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod remote;

pub use config::{DatastoreConfig, open};
pub use embedded::EmbeddedStore;
#[cfg(feature = "etcd")]
pub use etcd::EtcdStore;
#[cfg(feature = "kubernetes")]
pub use kubernetes::KubernetesStore;
pub use remote::RemoteStore;
