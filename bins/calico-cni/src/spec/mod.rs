//! The CNI specification, versions 0.1.0 to 1.1.0: what comes in, what goes out. Pure.
//!
//! <https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md>

mod config;
mod env;
mod error;
mod result;
mod version;

pub use config::{Attachment, Ipam, NetConf, Policy};
pub use env::{Args, Call, Verb};
pub use error::{CniError, Code};
pub use result::{CniResult, Interface, IpConfig};
pub use version::Version;
