//! A store in another process: [`Server`] offers any [`Datastore`](calico_core::Datastore) on a
//! socket, [`RemoteStore`] is that store on the other side.
//!
//! Frames are a length (u32, big endian) and JSON. The client says hello with the version it
//! speaks; then requests, each with a number, share the connection. A watch is paid for in events:
//! the server sends no more than the client has room for, and a client that falls too far behind
//! is given a new listing by the store itself, so neither side queues without bound. A client that
//! takes nothing at all for minutes is dropped. Where several clients watch a store that has its
//! objects in memory, each event is written as JSON once for all of them.
//!
//! The client connects when it is first used and again whenever needed. What fails while there is
//! no connection fails at once with [`Unavailable`](calico_core::datastore::StoreError); watches
//! say `Interrupted`, wait, and go on where they were, or with a new listing if the server is not
//! the one that they knew. A write whose connection broke may or may not have happened. A server
//! that says nothing for ten seconds is taken for gone: one that works says every three seconds
//! that it is there.
//!
//! Both sides run on tokio. The transport is a parameter ([`Listen`], [`Connect`]); a unix socket
//! is built in, and TCP with TLS with the feature `tls`.
//!
//! ```
//! use std::sync::Arc;
//! use calico_core::{Datastore, key::Key, memory::MemoryStore};
//! use calico_datastore::remote::{LocalListener, RemoteStore, Server};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let socket = dir.path().join("datastore.sock");
//! let listener = LocalListener::bind(&socket)?;
//! let store = Arc::new(MemoryStore::new());
//! tokio::spawn(Server::run(listener, store, std::future::pending()));
//!
//! let remote = RemoteStore::connect(&socket);
//! remote.create(Key::IpamConfig, "{}".into()).await?;
//! assert_eq!(&*remote.get(&Key::IpamConfig).await?.value, "{}");
//! # Ok(())
//! # }
//! ```

mod client;
mod connection;
mod counters;
mod heartbeat;
mod local;
mod server;
#[cfg(feature = "tls")]
mod tls;
mod watch;
mod wire;

pub use client::{Connect, RemoteStore, Transport};
pub use counters::{Counters, ServerFigures};
pub use local::{LocalListener, LocalSocket};
pub use server::{Listen, Server};
#[cfg(feature = "tls")]
pub use tls::{TlsAddress, TlsListener};
