//! BGP-4 (RFC 4271) as values.
pub mod rib;
pub mod session;
pub mod wire;
