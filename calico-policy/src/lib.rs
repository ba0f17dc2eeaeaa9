//! Calico network policy: from resources to rules that a dataplane can enforce.
//!
//! - [`Graph`] takes resources in any order, and gives [`Update`]s out: only what changed, only
//!   what the endpoints of its node need, in an order that a dataplane can follow. The cost of a
//!   change follows the change, not the cluster.
//! - [`desired::Desired`] is the sum of such updates, and checks their order.
//! - [`eval`] says what becomes of a packet, which rule decided, and why each earlier one did not
//!   match. It reads the same rules as a dataplane does, in the plainest way, and is the oracle
//!   for dataplanes.
//! - [`way`] carries a packet through a cluster: who is asked about it on each node.
//! - [`mod@diff`] says which flows change their verdict between two states, and [`staged`] what
//!   enforcing a staged policy would change.
//!
//! The crate is pure: values in, values out. It has no async runtime, does no IO, reads no clock.
//!
//! ```
//! use calico_core::resource::{NetworkPolicySpec, NetworkPolicy, WorkloadEndpoint, WorkloadEndpointSpec};
//! use calico_policy::{Graph, desired::Desired, eval::Packet};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut graph = Graph::for_node("n1");
//! for (name, address) in [("web", "10.0.0.1"), ("db", "10.0.0.2")] {
//!     let mut pod = WorkloadEndpoint::namespaced("prod", name, WorkloadEndpointSpec {
//!         node: "n1".into(),
//!         interface_name: format!("cali{name}"),
//!         ip_networks: vec![address.parse()?],
//!         profiles: vec!["projectcalico-default-allow".into()],
//!         ..Default::default()
//!     });
//!     pod.metadata.labels.insert("app".into(), name.into());
//!     graph.handle(pod)?;
//! }
//! let spec: NetworkPolicySpec = serde_saphyr::from_str(
//!     "{selector: app == 'db', ingress: [{action: Allow, source: {selector: app == 'web'}}]}",
//! )?;
//! graph.handle(NetworkPolicy::namespaced("prod", "db", spec))?;
//!
//! let mut desired = Desired::default();
//! for update in graph.flush() {
//!     println!("{update:?}");
//!     desired.apply(&update)?;
//! }
//! let from = |source: &str| desired.explain_packet(&Packet::to_port(
//!     source.parse().unwrap(), "10.0.0.2".parse().unwrap(), 6, 5432,
//! ));
//! assert!(from("10.0.0.1").is_allowed());
//! println!("{}", from("10.0.0.9")); // the trace: denied by the end of tier default
//! # assert!(!from("10.0.0.9").is_allowed());
//! # Ok(())
//! # }
//! ```
//!
//! [`Update`]: calico_core::dataplane::Update

#![forbid(unsafe_code)]

pub mod desired;
pub mod diff;
pub mod eval;
mod graph;
mod index;
mod input;
mod nets;
mod rules;
mod sets;
pub mod staged;
pub mod way;

pub use graph::{Graph, Stats};
pub use input::{Input, Object, Rejected, Warning};
