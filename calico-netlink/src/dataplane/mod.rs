//! [`LinuxDataplane`]: the rule IR of `calico-core` in force in the Linux kernel.
//!
//! One table, `inet calico`, holds everything; the names in it are upstream's. A packet of a
//! workload is dispatched by the name of its interface (one lookup in a verdict map) to the
//! endpoint's chain, which lets established connections through, checks the source address and
//! jumps to the chains of the policies and profiles in order. Those chains are shared by all
//! endpoints; mark bits carry their decision back. A name that is in no map is dropped: an
//! interface is closed from its first instant.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use calico_core::dataplane::{Dataplane, Transaction, Update};
//! use calico_netlink::dataplane::{LinuxDataplane, NoRoutes};
//!
//! # async fn run() -> Result<(), calico_core::dataplane::DataplaneError> {
//! let dataplane = LinuxDataplane::open(Arc::new(NoRoutes)).await?;
//! // Sets, rules, endpoints, ... and once that is all there is:
//! let updates = vec![Update::InSync];
//! let applied = dataplane.apply(Transaction { revision: 1, updates }).await?;
//! assert_eq!(applied.revision, 1);
//! for counter in dataplane.rule_counters().await? {
//!     println!("{}: {} packets", counter.identity, counter.packets);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What packets meet changes with one batch of nf_tables, so none meets half of an update; chains
//! that nothing leads to yet come in a batch before it. Desired state is a value (`state`, pure); the driver (`linux`) is the only part that does IO.

mod ahead;
mod base;
mod causes;
mod chain_state;
mod check;
mod commit;
mod dscp;
mod elements;
mod endpoint;
mod endpoint_state;
mod failures;
mod families;
mod flowtable;
mod flowtable_kernel;
mod guard;
mod host;
mod host_state;
mod hosts;
mod interfaces;
mod judge;
mod limits;
mod links;
mod linux;
mod lower;
mod matches;
mod names;
mod owner;
mod recheck;
mod recheck_state;
mod refused;
mod routes;
mod set_state;
mod shared;
mod state;
mod style;
mod translate;
mod tunnels;
mod verdicts;

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod state_tests;

pub use flowtable::{FLOW_TABLE, FlowOffload};
pub use flowtable_kernel::FlowStatus;
pub use interfaces::Exclusion;
pub use limits::check_limits;
pub use linux::{LinuxDataplane, Settings, SourceCounter, TABLE};
pub use names::{GROUP_EGRESS, GROUP_INGRESS};
pub use routes::{NoRoutes, RouteProgrammer};
