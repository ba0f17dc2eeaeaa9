//! What the programs with a BGP speaker have in common: `calico-agent` and `calico-rr`.
//!
//! - [`program`]: the frame of a `main`: a log, and errors with all their causes;
//! - [`BgpView`]: answers to the questions of `calicoctl bgp`, from a running speaker;
//! - [`control`]: a control socket that answers nothing else;
//! - [`metrics`] and [`http`]: metrics for Prometheus, health and readiness;
//! - [`notify`]: telling systemd.

mod answer;
pub mod control;
pub mod http;
pub mod metrics;
pub mod notify;
pub mod program;
mod ready;
mod values;

pub use answer::BgpView;
pub use ready::Readiness;
