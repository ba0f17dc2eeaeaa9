//! Routes: what is desired against what the kernel has.
//!
//! [`RouteTable`] is the pure part: desired routes, what is known of the kernel, and the smallest
//! set of [`Op`]s between them. [`RouteSync`] carries those out in batches, follows the kernel,
//! and repairs what others change.
//!
//! Ours are, in the table of [`RouteConfig`], routes of its protocols for other nodes and own
//! blocks, and routes of its workload protocol whose interface's name starts with the prefix of
//! workloads. Nothing else is ever changed or removed, and nothing is removed before the desired
//! state is complete. Routes that an earlier run, upstream's agent or its BIRD left behind are
//! ours by the same rule: identical ones stay untouched, so that no packet is lost.
//!
//! A next hop that is on no link of this host, as of a BGP peer several hops away, is replaced by
//! the next hops of the route that leads to it, and follows that route.

mod config;
mod host;
mod kernel;
mod list;
mod message;
mod recursive;
mod sync;
mod table;
#[cfg(test)]
mod tests;

pub use config::RouteConfig;
pub use host::HostRoute;
pub use kernel::{Hop, KernelRoute, KernelTarget};
pub use list::list;
pub use sync::{RouteReport, RouteSync};
pub use table::{Op, RouteTable, Standing};
