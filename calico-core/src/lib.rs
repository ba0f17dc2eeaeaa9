//! The ground that the crates of Calico in Rust stand on.
//!
//! - [`kind`], [`key`]: the `projectcalico.org/v3` kinds, and upstream's names in the datastore.
//! - [`datastore`]: the trait [`Datastore`], with a resumable watch; [`memory`] is a backend.
//! - [`dataplane`]: the trait [`Dataplane`] and the rule IR that policy engines produce.
//! - [`routes`]: the trait [`RouteDistributor`].
//! - [`felix`]: which of the node agent's settings hold on a node.
//!
//! It knows no async runtime, does no IO, and reads no clock. The features `yaml` (manifests) and
//! `digests` (names made by SHA) are on by default. The feature `testing` adds `mockall` mocks of
//! the three traits, and `testing`: a contract suite and a faulty store.
//!
//! ```
//! use calico_core::datastore::{Datastore, WatchEvent};
//! use calico_core::key::{Key, Scope};
//! use calico_core::kind::Kind;
//! use calico_core::memory::MemoryStore;
//! use futures_util::StreamExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), calico_core::datastore::StoreError> {
//! let store = MemoryStore::new();
//! let key = Key::resource(Kind::IpPool, None, "main");
//! let first = store.create(key.clone(), r#"{"spec":{"cidr":"10.0.0.0/8"}}"#.into()).await?;
//!
//! let mut watch = store.watch(Scope::Kind(Kind::IpPool), Some(first));
//! store.delete(key.clone(), Some(first)).await?;
//! assert!(matches!(watch.next().await, Some(WatchEvent::Gone { key: gone, .. }) if gone == key));
//! # Ok(())
//! # }
//! ```

pub mod dataplane;
pub mod datastore;
pub mod felix;
pub mod key;
pub mod kind;
pub mod memory;
pub mod resource;
pub mod routes;
pub mod selector;
pub mod stream;
#[cfg(feature = "testing")]
pub mod testing;

pub use dataplane::Dataplane;
pub use datastore::Datastore;
pub use kind::{API_VERSION, Kind};
pub use routes::RouteDistributor;
