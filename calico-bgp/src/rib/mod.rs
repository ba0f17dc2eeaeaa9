//! Routes: what each peer told us, which path is best and why, and what each peer is to hear.
//!
//! [`Rib`] is a value without IO. Adj-RIB-In, Loc-RIB and Adj-RIB-Out (RFC 4271, section 3.2) are
//! views of one table: a destination holds all its paths, attributes are shared, and what a peer
//! was told is a map from prefix to shared attributes.

mod adj_in;
mod adj_out;
mod as_rules;
mod decision;
mod export;
mod intern;
mod leaks;
mod long_lived;
mod path;
mod policy;
mod rank;
mod table;
mod view;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;

pub use adj_out::ExportBatch;
pub use as_rules::{AsRules, PrivateAs};
pub use decision::{Candidate, Decision, compare};
pub use export::NextHopMode;
pub use intern::AttributeStore;
pub use path::{PeerFacts, PeerId, PeerKind, SessionTraits};
pub use policy::{Policy, PolicyRoute, PrefixList, PrefixRule, RoutePolicy, Verdict};
pub use table::{PeerRouting, Rib, RibConfig};
pub use view::{BestRoute, PathView, RouteSource, RouteView};
