//! BGP-4 (RFC 4271) as values.
pub mod rib;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod session;
pub mod speaker;
pub mod wire;
