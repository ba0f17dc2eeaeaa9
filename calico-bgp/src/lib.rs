//! A BGP-4 speaker and route reflector to build on.
//!
//! The crate is in layers, each usable alone:
//!
//! - [`wire`]: bytes to values and back (RFC 4271 and its extensions), errors by RFC 7606;
//! - [`session`]: one peering, the state machine with timers and collision detection;
//! - [`rib`]: the table, best paths with the step that decided, ECMP, reflection, export;
//! - [`filter`]: import and export policy as typed rules;
//! - [`speaker`]: many peerings and one table, with graceful restart;
//! - [`runtime`]: all of it on tokio behind a handle (feature `runtime`, on by default).
//!
//! All but the last have no IO and read no clock: bytes and times go in, bytes and deadlines come
//! out. With `--no-default-features` there is nothing else. The crate does not touch the
//! kernel's routes: it reports best routes, and the program puts them where it wants them.
//!
//! # A speaker in twenty lines
//!
//! ```
//! # #[cfg(feature = "runtime")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use calico_bgp::runtime::{RouteUpdate, Shutdown, SpeakerHandle};
//! use calico_bgp::speaker::{Config, PeerConfig};
//! use calico_bgp::wire::PathAttributes;
//!
//! let mut config = Config::new(64512, "192.0.2.1".parse()?);
//! config.listen = vec!["127.0.0.1:0".parse()?]; // port 179 of all addresses by default
//! let speaker = SpeakerHandle::spawn(config)?;
//! let mut peer = PeerConfig::new("192.0.2.254".parse()?, 65001);
//! peer.passive = true; // wait for it, instead of connecting
//! speaker.set_peers(vec![peer]).await??;
//! speaker.announce(vec![("10.244.1.0/26".parse()?, PathAttributes::default())]).await?;
//!
//! let mut routes = speaker.subscribe();
//! while let Some(update) = routes.next().await {
//!     match update {
//!         RouteUpdate::Item(r) | RouteUpdate::Put(r) => println!("{} via {:?}", r.prefix, r.next_hops),
//!         RouteUpdate::Gone(prefix) => println!("no way to {prefix}"),
//!         RouteUpdate::Begin => {}
//!         RouteUpdate::Ready => break, // a real program goes on reading
//!     }
//! }
//! speaker.shutdown(Shutdown::Cease("maintenance".to_owned())).await;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "runtime"))]
//! # fn main() {}
//! ```

pub mod filter;
pub mod rib;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod session;
pub mod speaker;
pub mod wire;
