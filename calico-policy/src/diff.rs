//! Which flows change their verdict between two states of a cluster.
//!
//! # What is compared
//!
//! Flows between workloads, nodes that have a host endpoint, and everybody else, as far as one end
//! is a workload or such a node; each is carried all the way ([`way`](crate::way)). A node counts if
//! it has a host endpoint in one of the states: what a new one would shut off is told.
//!
//! The flows that are compared stand for all others: ends that every rule of both states treats
//! alike are one class, and ports between which no rule and no list of failsafe ports tells a
//! difference are one range. Where it matters, flows inside of a node and between nodes are told
//! apart ([`Nodes`]).
//!
//! # What is not
//!
//! - Workloads that are only in one of the states.
//! - What a node forwards for others than its workloads, and what it sends to itself.
//! - Translation: packets to the address of a service are judged as such, those to its backends as
//!   if they were sent to them. Policy before destination NAT (`preDNAT`) sees the latter.
//! - Packets after the first one of a connection, and other source ports than [`SOURCE_PORT`].
//! - Over which of several interfaces a node takes packets in; it is assumed, and said
//!   ([`Diff::doubts`]).

mod classes;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use calico_core::dataplane::{EndpointId, EndpointToHostAction, Verdict, VerdictCause};
use calico_core::key::Family;
use ipnet::IpNet;
use serde::Serialize;

use crate::way::{At, Cluster, Way};
use classes::{Class, Member, classes};
use traffic::kinds_of_traffic;
pub use traffic::{SOURCE_PORT, Traffic};

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum End {
    /// A workload.
    Workload(EndpointId),
    /// A node that a host endpoint protects, before or after.
    Node(Arc<str>),
    /// Addresses of this prefix that are no workload's or node's, and in no longer prefix that rules
    /// name.
    Net(IpNet),
    /// Addresses that no rule names.
    Elsewhere(Family),
}

/// On which nodes the ends of a flow are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Nodes {
    /// Wherever they are.
    Any,
    /// Both on one, whichever it is.
    Same,
    /// Not both on one.
    Different,
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
    /// Of those, only between ends that are on such nodes.
    pub nodes: Nodes,
    /// What is sent.
    pub traffic: Vec<Traffic>,
    /// What becomes of it before.
    pub before: Brief,
    /// And after.
    pub after: Brief,
}

/// See [`diff`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The flows that change, sorted.
    pub changes: Vec<Change>,
    /// What was assumed, for people.
    pub doubts: Vec<String>,
}

/// The flows whose verdict is not the same `before` and `after`; see the [module](self) for which
/// are looked at.
#[must_use]
pub fn diff(before: Cluster<'_>, after: Cluster<'_>) -> Diff {
    let states = [before, after];
    let traffic = kinds_of_traffic(&states.map(|state| state.desired));
    let mut changes: BTreeMap<(usize, usize, Nodes, Brief, Brief), Vec<Traffic>> = BTreeMap::new();
    let mut doubts = BTreeSet::new();
    let classes = classes(&states);
    for (from_number, from) in classes.iter().enumerate() {
        for (to_number, to) in classes.iter().enumerate() {
            let pairs = from.pairs(to);
            if pairs.is_empty() {
                continue;
            }
            for kind in traffic.iter().filter(|kind| kind.exists_in(from.family)) {
                let found = pairs.iter().map(|(nodes, from, to)| {
                    let [old, new] =
                        [0, 1].map(|n| brief(states[n], n, from, to, kind, &mut doubts));
                    (*nodes, (old.allowed != new.allowed).then_some((old, new)))
                });
                let mut found: Vec<_> = found.collect();
                if let [(nodes, one), (_, other)] = &mut found[..]
                    && one == other
                {
                    *nodes = Nodes::Any;
                    found.truncate(1);
                }
                for (nodes, change) in found {
                    let Some((old, new)) = change else { continue };
                    let key = (from_number, to_number, nodes, old, new);
                    changes.entry(key).or_default().push(*kind);
                }
            }
        }
    }
    Diff { changes: merge(&classes, changes), doubts: doubts.into_iter().collect() }
}

fn brief(
    state: Cluster<'_>,
    number: usize,
    from: &Member,
    to: &Member,
    traffic: &Traffic,
    doubts: &mut BTreeSet<String>,
) -> Brief {
    let packet = traffic.packet(from.address, to.address);
    let way = state.walk(&from.places[number], &to.places[number], &packet);
    let brief = Brief::of(&way);
    doubts.extend(way.doubts);
    brief
}

impl Brief {
    /// The gist of what became of a packet. It names no single host endpoint, as flows of many are
    /// told together.
    #[must_use]
    pub fn of(way: &Way) -> Self {
        let allowed = way.is_allowed();
        let by = match way.deciding() {
            _ if way.to_host == Some(EndpointToHostAction::Drop) => way.by(),
            None => "default: no policy applies".to_owned(),
            Some(hop) => match (&hop.decision.cause, &hop.at) {
                // It says its direction itself.
                (VerdictCause::Rule(id), _) => id.to_string(),
                (other, At::Workload) => format!("{other} ({})", hop.direction),
                (other, At::Host { forwarded: false, .. }) => {
                    format!("{other} ({} of the node)", hop.direction)
                }
                (other, At::Host { forwarded: true, .. }) => {
                    format!("{other} ({} of the node, forwarded)", hop.direction)
                }
            },
        };
        Self { allowed, by }
    }
}

/// What happens to some flows: before, after, on which nodes, and which they are.
type What = (Brief, Brief, Nodes, Vec<Traffic>);

/// Classes with equal changes are told together, first by receiver, then by sender.
fn merge(
    classes: &[Class],
    changes: BTreeMap<(usize, usize, Nodes, Brief, Brief), Vec<Traffic>>,
) -> Vec<Change> {
    let mut by_sender: BTreeMap<(usize, What), BTreeSet<End>> = BTreeMap::new();
    for ((from, to, nodes, old, new), traffic) in changes {
        let what = (old, new, nodes, traffic::merge(traffic));
        by_sender.entry((from, what)).or_default().extend(classes[to].ends());
    }
    let mut merged: BTreeMap<(BTreeSet<End>, What), BTreeSet<End>> = BTreeMap::new();
    for ((from, what), to) in by_sender {
        merged.entry((to, what)).or_default().extend(classes[from].ends());
    }
    // Families whose changes differ only in that each has an ICMP of its own are one.
    let mut of_both: BTreeMap<(BTreeSet<End>, BTreeSet<End>, What), Vec<Traffic>> = BTreeMap::new();
    for ((to, (before, after, nodes, traffic)), from) in merged {
        let is_icmp = |kind: &Traffic| matches!(kind, Traffic::Icmp { .. });
        let (icmp, others): (Vec<_>, Vec<_>) = traffic.into_iter().partition(is_icmp);
        of_both.entry((from, to, (before, after, nodes, others))).or_default().extend(icmp);
    }
    let mut changes = Vec::with_capacity(of_both.len());
    for ((from, to, (before, after, nodes, mut traffic)), icmp) in of_both {
        let (from, to) = (from.into_iter().collect(), to.into_iter().collect());
        traffic.extend(icmp);
        changes.push(Change { from, to, nodes, traffic, before, after });
    }
    changes.sort();
    changes
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => id.fmt(f),
            Self::Node(node) => write!(f, "node {node}"),
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
        let nodes = match self.nodes {
            Nodes::Any => "",
            Nodes::Same => ", on the same node",
            Nodes::Different => ", on different nodes",
        };
        let (before, after) = (&self.before, &self.after);
        format!("{from} -> {to}{nodes}: {traffic}\n  {before}\n  now {after}")
    }
}

impl fmt::Display for Change {
    /// As [`describe`](Self::describe), by the names of endpoints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(ToString::to_string))
    }
}
