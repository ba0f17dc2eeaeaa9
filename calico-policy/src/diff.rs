//! Which flows change their verdict between two states.
//!
//! The flows that are compared stand for all others: endpoints that every rule of both states
//! treats alike are one class, and ports between which no rule tells a difference are one range.
//! Flows come from an ephemeral source port ([`SOURCE_PORT`]).

mod classes;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use calico_core::dataplane::{Direction, EndpointId, Verdict, VerdictCause};
use calico_core::key::Family;
use ipnet::IpNet;
use serde::Serialize;

use crate::desired::Desired;
use crate::eval::Explanation;
use classes::{Class, classes};
use traffic::kinds_of_traffic;
pub use traffic::{SOURCE_PORT, Traffic};

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum End {
    /// A workload.
    Workload(EndpointId),
    /// Addresses of this prefix that are no workload's, and in no longer prefix that rules name.
    Net(IpNet),
    /// Addresses that no rule names.
    Elsewhere(Family),
}

/// What becomes of a flow in one state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Brief {
    /// Whether it arrives.
    pub allowed: bool,
    /// What decided, as people call it; and on which side.
    pub by: String,
}

/// Flows that change alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Who sends: each of these to each of [`to`](Self::to).
    pub from: Vec<End>,
    /// Who receives.
    pub to: Vec<End>,
    /// What is sent.
    pub traffic: Vec<Traffic>,
    /// What becomes of it before.
    pub before: Brief,
    /// And after.
    pub after: Brief,
}

/// The flows between workloads, and between workloads and the world, whose verdict is not the same
/// `before` and `after`. Workloads that are only in one of the states are not looked at.
#[must_use]
pub fn diff(before: &Desired, after: &Desired) -> Vec<Change> {
    let states = [before, after];
    let traffic = kinds_of_traffic(&states);
    let mut changes: BTreeMap<(usize, usize, Brief, Brief), Vec<Traffic>> = BTreeMap::new();
    let classes = classes(&states);
    for (from_number, from) in classes.iter().enumerate() {
        for (to_number, to) in classes.iter().enumerate() {
            if !from.can_send_to(to) {
                continue;
            }
            for kind in traffic.iter().filter(|kind| kind.exists_in(from.family())) {
                let [old, new] = states.map(|state| brief(state, from, to, kind));
                if old.allowed != new.allowed {
                    changes.entry((from_number, to_number, old, new)).or_default().push(*kind);
                }
            }
        }
    }
    merge(&classes, changes)
}

fn brief(state: &Desired, from: &Class, to: &Class, traffic: &Traffic) -> Brief {
    let packet = traffic.packet(from.address, to.address);
    let explanation = state.explain(from.endpoint(), to.endpoint(), &packet);
    Brief::of(&explanation)
}

impl Brief {
    /// The gist of an explanation.
    #[must_use]
    pub fn of(explanation: &Explanation) -> Self {
        let by = match explanation.deciding() {
            Some((direction, decision)) => cause(&decision.cause, direction),
            None => "no policy applies".to_owned(),
        };
        Self { allowed: explanation.is_allowed(), by }
    }
}

fn cause(cause: &VerdictCause, direction: Direction) -> String {
    match cause {
        // It says its direction itself.
        VerdictCause::Rule(id) => id.to_string(),
        other => format!("{other} ({direction})"),
    }
}

/// What happens to some flows: before, after, and which they are.
type What = (Brief, Brief, Vec<Traffic>);

/// Classes with equal changes are told together, first by receiver, then by sender.
fn merge(
    classes: &[Class],
    changes: BTreeMap<(usize, usize, Brief, Brief), Vec<Traffic>>,
) -> Vec<Change> {
    let mut by_sender: BTreeMap<(usize, What), BTreeSet<End>> = BTreeMap::new();
    for ((from, to, old, new), traffic) in changes {
        let what = (old, new, traffic::merge(traffic));
        by_sender.entry((from, what)).or_default().extend(classes[to].ends());
    }
    let mut merged: BTreeMap<(BTreeSet<End>, What), BTreeSet<End>> = BTreeMap::new();
    for ((from, what), to) in by_sender {
        merged.entry((to, what)).or_default().extend(classes[from].ends());
    }
    // Families whose changes differ only in that each has an ICMP of its own are one.
    let mut of_both: BTreeMap<(BTreeSet<End>, BTreeSet<End>, What), Vec<Traffic>> = BTreeMap::new();
    for ((to, (before, after, traffic)), from) in merged {
        let is_icmp = |kind: &Traffic| matches!(kind, Traffic::Icmp { .. });
        let (icmp, others): (Vec<_>, Vec<_>) = traffic.into_iter().partition(is_icmp);
        of_both.entry((from, to, (before, after, others))).or_default().extend(icmp);
    }
    let mut changes = Vec::with_capacity(of_both.len());
    for ((from, to, (before, after, mut traffic)), icmp) in of_both {
        let (from, to) = (from.into_iter().collect(), to.into_iter().collect());
        traffic.extend(icmp);
        changes.push(Change { from, to, traffic, before, after });
    }
    changes.sort();
    changes
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => id.fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Elsewhere(family) => write!(f, "elsewhere ({family})"),
        }
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { Verdict::Allowed } else { Verdict::Denied };
        let word = if verdict == Verdict::Allowed { "allowed" } else { "denied" };
        write!(f, "{word} by {}", self.by)
    }
}

impl Change {
    /// Three lines: the flows, then what they change from and to. `name` says what people call a
    /// workload.
    pub fn describe(&self, name: impl Fn(&EndpointId) -> String) -> String {
        let end = |end: &End| match end {
            End::Workload(id) => name(id),
            other => other.to_string(),
        };
        let ends = |ends: &[End]| ends.iter().map(end).collect::<Vec<_>>().join(", ");
        let traffic: Vec<String> = self.traffic.iter().map(ToString::to_string).collect();
        let (from, to, traffic) = (ends(&self.from), ends(&self.to), traffic.join(", "));
        format!("{from} -> {to}: {traffic}\n  {}\n  now {}", self.before, self.after)
    }
}

impl fmt::Display for Change {
    /// As [`describe`](Self::describe), by the names of endpoints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(ToString::to_string))
    }
}
