//! nftables, spoken over netlink by this crate: no `nft` process, no library.
//!
//! - [`wire`]: bytes to values and back.
//! - [`Batch`]: messages that come into force together; [`Socket`] commits them and reads back.
//! - [`Ruleset`]: the content of a table as a value; [`Tracker`]: desired against believed
//!   content, and the smallest [`Batch`] between them.
//! - [`parts`]: chains that are split by protocol.
//! - [`nflog`]: packets that rules report.
//!
//! Minimum kernel: 5.2, the first with NAT chains in tables of family `inet`.

mod batch;
mod conntrack;
mod counts;
mod error;
mod monitor;
pub mod nflog;
pub mod parts;
mod read;
mod ruleset;
mod socket;
mod tracker;
pub mod wire;

#[cfg(test)]
mod capture_tests;
#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod owner_tests;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(test)]
mod tracker_tests;

pub use batch::Batch;
pub use conntrack::{Connection, Tuple};
pub use counts::Counts;
pub use error::{Error, Refusal, Subject};
pub use monitor::{Monitor, Quiet};
pub use read::RuleCounter;
pub use ruleset::{ChainDef, RuleDef, Ruleset, SetDef, SetSpec};
pub use socket::Socket;
pub use tracker::Tracker;
