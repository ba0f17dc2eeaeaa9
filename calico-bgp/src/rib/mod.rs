//! Routes: what each peer told us, which path is best and why, and what each peer is to hear.
//!
//! [`Rib`] is a value without IO. Adj-RIB-In, Loc-RIB and Adj-RIB-Out (RFC 4271, section 3.2) are
//! views of one table: a destination holds all its paths, and attributes are shared. Peers that
//! are to hear the same are an update group: one position in the log of changes, and one list of
//! what was told, 8 octets a destination, whatever their number.
//!
//! Where several paths to a destination are exchanged (RFC 7911), each has a number that stands
//! for its peer and the identifier it came with; that is what it is told under. Destinations with
//! one path without an identifier cost nothing more for it.

mod adj_in;
mod adj_out;
mod as_rules;
mod decision;
mod destinations;
mod export;
mod group;
mod inspect;
mod intern;
mod leaks;
mod long_lived;
mod path;
mod policy;
mod profile;
mod rank;
mod report;
mod several;
mod source;
mod table;
mod told;
mod view;
mod walk;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;

pub use as_rules::{AsRules, PrivateAs};
pub use decision::{Candidate, Decision, compare};
pub use export::{NextHopMode, NotExported};
pub use group::{Audience, ExportBatch, GroupBatch};
pub use inspect::{AdvertisedRoute, Explanation, PeerVerdict, ReceivedRoute};
pub use intern::AttributeStore;
pub use path::{PeerFacts, PeerId, PeerKind, SessionTraits};
pub use policy::{Policy, PolicyReason, PolicyRoute, PrefixList, PrefixRule, RoutePolicy, Verdict};
pub use report::Rejections;
pub use several::{AddPathFamily, SendPaths};
pub use table::{PeerRouting, Rib, RibConfig};
pub use view::{BestRoute, PathView, RouteSource, RouteView};
