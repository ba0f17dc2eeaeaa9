//! The network of a pod: a veth into its namespace, addresses, routes and settings on both sides.
//!
//! A pod has its addresses as `/32` and `/128`, and everything else is behind one router: the
//! host, which the pod knows as [`GATEWAY_V4`] and [`GATEWAY_V6`]. The host has one route per
//! address, to the pod's interface. No bridge, no subnet per node.
//!
//! [`setup`] is made to be quick: one request makes both ends in their final place with their
//! final names, two datagrams configure the pod's end, one connects the host's end. Settings are
//! written only where the kernel's answers show that they differ. The host's end goes up last, so
//! that the pod cannot send a packet before everything is in place. If any step fails, the veth
//! is removed, and with it addresses and routes of both sides.

mod check;
mod error;
mod inside;
mod outside;
mod removal;
mod setup;
mod spec;
#[cfg(test)]
mod tests;
mod workers;

pub use check::check;
pub use error::PodError;
pub use removal::{CUT_OFF, cut_off, remove_cut_off, wait_removed};
pub use setup::{setup, setup_async, teardown, teardown_async};
pub use spec::{GATEWAY_V4, GATEWAY_V6, HOST_MAC, PodInterface, PodInterfaces, PodRoutes, PodSpec};
pub use workers::Workers;
