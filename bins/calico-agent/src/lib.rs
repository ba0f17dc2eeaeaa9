//! The node agent: joins datastore, policy, dataplane, BGP and the CNI service of one host.
//!
//! The program `calico-agent` is [`config`] and a call into this library.

pub mod brain;
pub mod cni;
pub mod config;
pub mod control;
pub mod environment;
pub mod init;
pub mod mirror;
pub mod node;
pub mod node_status;
pub mod probes;
pub mod progress;
pub mod router;
pub mod routing;
pub mod run;
pub mod secrets;
pub mod settings;
pub mod workload_addresses;
