//! The control service: what `calicoctl` and the lab ask of a running agent, in the protocol of
//! [`calico_control`].

mod log;
mod server;

pub use log::VerdictLog;
pub use server::Control;
