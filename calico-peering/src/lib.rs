//! Which BGP sessions a Calico node has, and what it tells over them: resources in, the
//! configuration of a [`calico_bgp`] speaker out. No IO, no clock.
//!
//! Feed [`Peering`] with Node, BGPPeer, BGPConfiguration and BGPFilter resources as they come and
//! go; [`Peering::plan`] says what the speaker of one node is to be. A plan is a value: compare it
//! with the one before, and hand [`Session::peer_config`] of all sessions to
//! `SpeakerHandle::set_peers`, which leaves alone those that did not change.
//!
//! As upstream: a full mesh of the nodes that are no route reflectors, sessions to the peers of
//! global and node-specific BGPPeers, and the mirror sessions of those that lead here. IPv4 and
//! IPv6 have sessions of their own, over addresses of their family.
//!
//! ```
//! use calico_core::datastore::{Entry, Revision};
//! use calico_core::key::Key;
//! use calico_core::kind::Kind;
//! use calico_peering::Peering;
//!
//! let mut peering = Peering::new("a".to_owned());
//! for (name, address) in [("a", "192.0.2.1/24"), ("b", "192.0.2.2/24")] {
//!     let value = format!(
//!         r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"bgp": {{"ipv4Address": "{address}"}}}}}}"#
//!     );
//!     let key = Key::resource(Kind::Node, None, name);
//!     peering.put(&Entry { key, value: value.into(), revision: Revision(1) })?;
//! }
//! let plan = peering.plan().expect("node a has an address");
//! assert_eq!(plan.sessions[0].address.to_string(), "192.0.2.2");
//! assert_eq!(plan.sessions[0].remote_as, 64512);
//! # Ok::<(), calico_core::datastore::StoreError>(())
//! ```

mod export;
mod filters;
mod host;
mod kernel;
mod node;
mod notes;
mod peering;
mod plan;
mod secrets;
mod services;
mod session;
mod sessions;
#[cfg(test)]
mod tests;

pub use host::HostRoute;
pub use kernel::KernelFilter;
pub use notes::{Note, Problem};
pub use peering::{Options, Peering, RouterId};
pub use plan::{Identity, SpeakerPlan};
pub use secrets::{Secret, SecretRef};
pub use session::{PeerType, Session};
