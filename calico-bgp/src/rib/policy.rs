//! Import and export policy: typed rules, and a hook for one's own.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::PeerFacts;
use crate::filter::Filter;
use crate::wire::PathAttributes;

/// What a policy looks at.
#[derive(Debug, Clone, Copy)]
pub struct PolicyRoute<'a> {
    /// The destination.
    pub prefix: &'a IpNet,
    /// The attributes: as received on import, as they would be sent on export.
    pub attributes: &'a PathAttributes,
    /// Who the route came from.
    pub from: &'a PeerFacts,
    /// Whom it would go to; `None` on import.
    pub to: Option<&'a PeerFacts>,
    /// LOCAL_PREF that it has here, on export: another AS is not told, but rules may ask for it.
    pub local_pref: Option<u32>,
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The route passes as it is.
    Accept,
    /// The route does not pass.
    Reject,
    /// The route passes with these attributes.
    Modify(Box<PathAttributes>),
}

/// Which part of a policy decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PolicyReason {
    /// Number of the rule that matched, from 0; `None` if none did or there are no rules.
    pub rule: Option<usize>,
    /// What the rule is called, if it has a name ([`Filter::labels`]).
    pub label: Option<Arc<str>>,
}

impl fmt::Display for PolicyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.label, self.rule) {
            (Some(label), _) => f.write_str(label),
            (None, Some(rule)) => write!(f, "rule {}", rule + 1),
            (None, None) => f.write_str("no rule matches"),
        }
    }
}

/// A policy of one's own. It has to be a pure function: results are remembered until the
/// configuration changes.
pub trait RoutePolicy: fmt::Debug + Send + Sync {
    /// Judges one route.
    fn evaluate(&self, route: &PolicyRoute<'_>) -> Verdict;
}

/// An import or export policy.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Everything passes.
    #[default]
    AcceptAll,
    /// Nothing passes.
    RejectAll,
    /// What a prefix list permits passes.
    Prefixes(Arc<PrefixList>),
    /// Typed rules.
    Filter(Arc<Filter>),
    /// One's own rules.
    Custom(Arc<dyn RoutePolicy>),
}

impl Policy {
    /// Judges one route.
    pub fn evaluate(&self, route: &PolicyRoute<'_>) -> Verdict {
        let permitted = match self {
            Self::AcceptAll => true,
            Self::RejectAll => false,
            Self::Prefixes(list) => list.permits(route.prefix),
            Self::Filter(filter) => return filter.evaluate(route),
            Self::Custom(policy) => return policy.evaluate(route),
        };
        if permitted { Verdict::Accept } else { Verdict::Reject }
    }

    /// Which part of the policy decides on a route.
    pub fn reason(&self, route: &PolicyRoute<'_>) -> PolicyReason {
        match self {
            Self::AcceptAll | Self::RejectAll | Self::Custom(_) => PolicyReason::default(),
            Self::Prefixes(list) => PolicyReason {
                rule: list.rules.iter().position(|rule| rule.matches(route.prefix)),
                label: None,
            },
            Self::Filter(filter) => filter.reason(route),
        }
    }

    /// Whether it never looks at a route.
    pub(super) const fn accepts_all(&self) -> bool {
        matches!(self, Self::AcceptAll)
    }
}

/// Custom policies are equal if they are the same object: a new object means "look again".
impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::AcceptAll, Self::AcceptAll) | (Self::RejectAll, Self::RejectAll) => true,
            (Self::Prefixes(a), Self::Prefixes(b)) => a == b,
            (Self::Filter(a), Self::Filter(b)) => a == b,
            (Self::Custom(a), Self::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Policy {}

/// One line of a prefix list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixRule {
    /// Prefixes inside this one match,
    pub prefix: IpNet,
    /// if they are at least this long
    pub min_len: u8,
    /// and at most this long.
    pub max_len: u8,
    /// What a match means.
    pub permit: bool,
}

impl PrefixRule {
    /// Permits exactly this prefix.
    pub fn exact(prefix: IpNet) -> Self {
        let len = prefix.prefix_len();
        Self { prefix, min_len: len, max_len: len, permit: true }
    }

    /// Permits this prefix and all inside it.
    pub fn within(prefix: IpNet) -> Self {
        let max_len = prefix.max_prefix_len();
        Self { prefix, min_len: prefix.prefix_len(), max_len, permit: true }
    }

    fn matches(&self, prefix: &IpNet) -> bool {
        (self.min_len..=self.max_len).contains(&prefix.prefix_len()) && self.prefix.contains(prefix)
    }
}

/// Rules for prefixes: the first match counts, no match rejects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PrefixList {
    /// The rules, in order.
    pub rules: Vec<PrefixRule>,
}

impl PrefixList {
    /// Whether a prefix passes.
    pub fn permits(&self, prefix: &IpNet) -> bool {
        self.rules.iter().find(|rule| rule.matches(prefix)).is_some_and(|rule| rule.permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_match_counts() {
        let net = |s: &str| s.parse::<IpNet>().unwrap();
        let list = PrefixList {
            rules: vec![
                PrefixRule { permit: false, ..PrefixRule::within(net("10.1.0.0/16")) },
                PrefixRule { min_len: 26, max_len: 26, ..PrefixRule::within(net("10.0.0.0/8")) },
                PrefixRule::exact(net("0.0.0.0/0")),
            ],
        };
        let check =
            |prefix: &str, expected| assert_eq!(list.permits(&net(prefix)), expected, "{prefix}");
        check("10.1.2.0/26", false);
        check("10.2.2.0/26", true);
        check("10.2.2.0/27", false);
        check("0.0.0.0/0", true);
        check("0.0.0.0/1", false);
        check("2001:db8::/32", false);
    }
}
