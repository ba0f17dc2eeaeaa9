//! What the programs with a BGP speaker have in common: `calico-agent` and `calico-rr`.
//!
//! - [`program`]: the frame of a `main`: a log, and errors with all their causes;
//! - [`BgpView`]: answers to the questions of `calicoctl bgp`, from a running speaker;
//! - [`control`]: a control socket that answers nothing else;
//! - [`metrics`] and [`Readiness`]: what Prometheus and probes read;
//! - [`mirror`] and [`secrets`]: resources and passwords that its sessions follow from;
//! - [`notify`]: telling systemd.

mod answer;
pub mod control;
pub mod metrics;
pub mod mirror;
pub mod notify;
pub mod program;
mod ready;
pub mod secrets;
mod values;

pub use answer::BgpView;
pub use ready::Readiness;
