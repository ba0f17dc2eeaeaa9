//! The CNI plugin of Calico in Rust, and the library that agent and plugin share.
//!
//! The program ([`shim`]) hands each call to the node's agent over a unix socket
//! ([`protocol`]); the agent carries it out with [`engine`]. Where no agent runs, the program does
//! so itself ([`direct`]). [`spec`] is the CNI specification, [`naming`] says what everything is
//! called.
//!
//! ```
//! use calico_cni::naming::Identity;
//! use calico_cni::spec::{Call, NetConf, Verb};
//!
//! # fn main() -> Result<(), calico_cni::spec::CniError> {
//! let conf = NetConf::parse(r#"{"cniVersion": "1.1.0", "name": "net", "type": "calico"}"#)?;
//! let call = Call::new(Verb::Del, |variable| match variable {
//!     "CNI_CONTAINERID" => Some("0f3c".into()),
//!     "CNI_IFNAME" => Some("eth0".into()),
//!     _ => None,
//! })?;
//! let identity = Identity::new("node1", &conf, &call);
//! assert_eq!(identity.host_interface, "cali0f3c");
//! assert_eq!(identity.handle, "net.0f3c");
//! # Ok(())
//! # }
//! ```
//!
//! Embedders give [`engine::Engine`] a datastore, something that makes interfaces
//! ([`engine::PodNetwork`]) and something that knows when policy is in force
//! ([`engine::PolicyGate`]), and [`protocol::serve`] it on a listener.

mod delegate;
pub mod direct;
pub mod engine;
pub mod facts;
pub mod install;
pub mod naming;
pub mod protocol;
pub mod shim;
pub mod spec;
