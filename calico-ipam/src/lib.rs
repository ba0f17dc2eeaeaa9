//! IP address management: every node takes blocks of addresses from shared pools and gives
//! addresses of its blocks to workloads, with nothing but compare-and-swap on a datastore between
//! the nodes. Blocks, claims and handles are stored exactly as Calico stores them.
//!
//! [`plan`] decides without IO, clock or randomness; [`Ipam`] is the thin driver over any
//! [`Datastore`](calico_core::Datastore), on any async runtime; [`Allocator`] adds a memory for
//! programs that stay.
//!
//! ```
//! use std::sync::Arc;
//! use calico_core::{Datastore, Kind, key::Key, memory::MemoryStore};
//! use calico_ipam::{AssignRequest, Ipam, IpamError, Options};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), IpamError> {
//! let store = Arc::new(MemoryStore::new());
//! let pool = r#"{"metadata":{"name":"main"},"spec":{"cidr":"10.65.0.0/16"}}"#;
//! store.create(Key::resource(Kind::IpPool, None, "main"), pool.into()).await?;
//!
//! let ipam = Ipam::new(store, Options::default());
//! let request = AssignRequest::new("node1").handle("net.container1").v4(1);
//! let address = ipam.auto_assign(request).await?.complete()?.v4[0].ip;
//! assert_eq!(ipam.addresses_by_handle("net.container1").await?, [address]);
//! assert_eq!(ipam.release_by_handle("net.container1").await?, [address]);
//! # Ok(())
//! # }
//! ```

mod driver;
mod error;
pub mod plan;
mod request;

pub use driver::{
    Allocator, BlockReport, BlockUse, Clock, Collected, Deed, Ending, Finding, HostReleased, Ipam,
    Left, Options, OwnerAttributes, OwnerChange, PoolUse, Served, UNPOOLED,
};
pub use error::{IpamError, Limit, PoolFill, Shortfall};
pub use plan::owner::Owner;
pub use plan::service::ServiceWish;
pub use plan::tunnel::Tunnel;
pub use request::{Address, AssignIp, AssignRequest, Assigned, Outcome, Release, Released};
