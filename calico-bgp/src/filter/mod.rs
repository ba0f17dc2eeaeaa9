//! Import and export filters as typed rules.
//!
//! A [`Filter`] is a list of [`Rule`]s: the first whose conditions all hold decides. It goes into
//! [`PeerConfig::import`](crate::speaker::PeerConfig::import) or `export` as
//! [`Policy::Filter`](crate::rib::Policy::Filter).
//!
//! ```
//! use calico_bgp::filter::{Action, Condition, Filter, Operation, PrefixMatch, Rule};
//! use calico_bgp::rib::Policy;
//! use calico_bgp::speaker::PeerConfig;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let blocks = PrefixMatch::within("192.168.0.0/16".parse()?).lengths(26..=26);
//! let filter = Filter {
//!     rules: vec![
//!         Rule {
//!             conditions: vec![Condition::Prefix(blocks)],
//!             action: Action::Accept(vec![Operation::AddCommunity("65000:100".parse()?)]),
//!         },
//!         Rule { conditions: vec![], action: Action::Reject },
//!     ],
//!     ..Filter::default()
//! };
//! let mut peer = PeerConfig::new("192.0.2.254".parse()?, 65001);
//! peer.export = Policy::Filter(filter.into());
//! # Ok(())
//! # }
//! ```

mod apply;
mod community;
mod prefix;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use community::{AnyCommunity, BadCommunity};
pub use prefix::PrefixMatch;
use thiserror::Error;

use crate::rib::PrefixList;
use crate::wire::Family;

/// Rules in their order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Filter {
    /// The rules; the first that matches decides.
    pub rules: Vec<Rule>,
    /// What happens to routes that no rule matches.
    pub otherwise: Otherwise,
    /// What the rules are called when somebody asks which of them decided, in the order of the
    /// rules, and then what it is called that none matches; there may be fewer.
    pub labels: Vec<Arc<str>>,
}

/// What happens to routes that no rule of a filter matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Otherwise {
    /// They pass as they are.
    #[default]
    Accept,
    /// They do not pass.
    Reject,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// All of these must hold; without any the rule matches every route.
    pub conditions: Vec<Condition>,
    /// What happens to a route that matches.
    pub action: Action,
}

/// A question about a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// Its prefix compares so with another.
    Prefix(PrefixMatch),
    /// A list permits its prefix.
    Prefixes(PrefixList),
    /// Its prefix is of this family.
    Family(Family),
    /// It was learned from a peer, and is not this speaker's own.
    Learned,
    /// It is this speaker's own.
    Local,
    /// It came over an interface of this name, as far as that is known.
    Interface(InterfacePattern),
    /// On import the peer it comes from, on export the peer it goes to, is in another AS.
    ExternalPeer,
    /// … is in the same AS.
    InternalPeer,
    /// It carries a community.
    Community(AnyCommunity),
    /// Its AS path begins with these numbers, nearest first. On export to another AS, what this
    /// speaker puts in front does not count.
    AsPathPrefix(Vec<u32>),
    /// Its AS path has this number anywhere.
    AsPathContains(u32),
    /// Its LOCAL_PREF is this one. Routes from other AS numbers have none until a rule sets it;
    /// of routes to them, it is the one that they have here.
    LocalPref(u32),
    /// Its LOCAL_PREF is greater than this.
    LocalPrefAbove(u32),
}

/// What happens to a route that matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// It passes, after these changes in their order.
    Accept(Vec<Operation>),
    /// It is changed so, and the rules that follow decide; what they ask about is the changed
    /// route.
    Change(Vec<Operation>),
    /// It does not pass.
    Reject,
}

/// A change of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Adds a community, if it is not there.
    AddCommunity(AnyCommunity),
    /// Takes a community off.
    RemoveCommunity(AnyCommunity),
    /// Puts these AS numbers in front of the path, so that it begins with the first of them. On
    /// export to another AS the session's own AS number stays in front of all.
    PrependAsPath(Vec<u32>),
    /// Sets LOCAL_PREF; without effect on export to another AS, which is not told any.
    SetLocalPref(u32),
    /// Sets MULTI_EXIT_DISC.
    SetMed(u32),
}

/// A name of an interface, or a pattern with `*` for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InterfacePattern(String);

impl InterfacePattern {
    /// Whether a name fits.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        // `split` gives at least one part.
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            // The leftmost place is as good as any: what follows only gets more room.
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// A pattern that no interface can fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no name of an interface: 1 to 15 characters without blanks and slashes")]
pub struct BadInterfacePattern(String);

impl FromStr for InterfacePattern {
    type Err = BadInterfacePattern;

    fn from_str(pattern: &str) -> Result<Self, BadInterfacePattern> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        if !(1..=15).contains(&pattern.len()) || pattern.contains(bad) {
            return Err(BadInterfacePattern(pattern.to_owned()));
        }
        Ok(Self(pattern.to_owned()))
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
