//! Nodes, as the agent runs them, over one datastore and real sessions on the loopback.
//!
//! Everything is there but the kernel: brain, speaker, sockets. A router outside of the cluster
//! takes part as a speaker of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;
mod export;
mod host;
mod passwords;
mod services;
mod status;
mod stays;
