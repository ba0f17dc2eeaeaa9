//! An explanation for a whole prefix: one, if all of it meets the same, or where it divides.

use std::fmt::Write as _;

use calico_policy::way::Way;
use ipnet::IpNet;

use super::ends::{Flow, Query};
use super::explain::{self, in_tier};
use super::state::State;

/// A part of the prefix, what becomes of its packets, and what would if staged policy were enforced.
pub(super) type Answer<'a> = (&'a Flow, (&'a Way, &'a Option<Way>));

pub(super) fn text(
    state: &State,
    query: &Query,
    answers: &[Answer<'_>],
    staged: &[String],
) -> String {
    // Parts with one verdict are told together, the one with the shortest prefix first.
    let mut groups: Vec<(String, Vec<&Flow>)> = Vec::new();
    for (flow, (now, would)) in answers {
        let mut verdict = format!("{}{}", now.verdict(), in_tier(now));
        if let Some(would) = would.as_ref().filter(|would| would.verdict() != now.verdict()) {
            let (names, would) = (staged.join(", "), would.verdict());
            verdict.push_str(&format!("; staged: would be {would} if enforced: {names}"));
        }
        match groups.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, flows)) => flows.push(flow),
            None => groups.push((verdict, vec![flow])),
        }
    }
    let mut out = String::new();
    let (from, to) = (&query.from, &query.to);
    if let ([_], [(flow, (now, would)), ..]) = (&groups[..], answers) {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{from} -> {to}: the same for all of its addresses, such as");
        out.push_str(&explain::text(state, flow, now, would.as_ref(), staged));
        return out;
    }
    let _ = writeln!(out, "{from} -> {to}: depends on the address");
    for (number, (verdict, flows)) in groups.iter().enumerate() {
        let nets: Vec<IpNet> = flows.iter().filter_map(|flow| flow.part).collect();
        // What is inside of one that meets the same anyway need not be told.
        let told = nets.iter().filter(|net| {
            let outer = around(**net, answers);
            outer == **net || !nets.contains(&outer)
        });
        let nets: Vec<String> = told.map(ToString::to_string).collect();
        let rest = if number == 0 { " (but for what follows)" } else { "" };
        let _ = writeln!(out, "  {}{rest}: {verdict}", nets.join(", "));
    }
    out
}

/// The part that this one is cut out of; itself, if it is the whole.
fn around(net: IpNet, answers: &[Answer<'_>]) -> IpNet {
    let parts = answers.iter().filter_map(|(flow, _)| flow.part);
    let outer = parts.filter(|other| *other != net && other.contains(&net));
    outer.max_by_key(IpNet::prefix_len).unwrap_or(net)
}
