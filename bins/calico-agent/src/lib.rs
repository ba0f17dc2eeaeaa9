//! The node agent: joins datastore, policy, dataplane, BGP and the CNI service of one host.
//!
//! The program `calico-agent` is [`config`] and a call into this library.

pub mod brain;
pub mod cni;
pub mod collect;
pub mod config;
pub mod control;
mod doubts;
pub mod environment;
mod ignored;
pub mod init;
pub mod load_balancer;
pub mod metrics;
pub mod migrations;
pub mod node;
pub mod node_status;
pub mod overlay;
pub mod pods;
pub mod probes;
pub mod progress;
pub mod router;
pub mod routing;
pub mod run;
pub mod settings;
pub mod source;
mod stand_in;
pub mod startup;
pub mod workload_addresses;

// What it shares with the route reflector.
pub use calico_router::{mirror, secrets};
