//! `policy explain`: the verdict on one packet, who decided, and how it came to that.

use std::fmt::Write as _;
use std::net::IpAddr;

use calico_core::dataplane::{Direction, VerdictCause};
use calico_policy::way::{At, Hop, Place, Way};
use serde_json::{Value, json};

use super::Format;
use super::ends::{self, Flow, Query};
use super::parts;
use super::services;
use super::state::State;
use crate::failure::Failure;
use crate::run::Said;

pub(super) fn run(mut state: State, query: &Query, format: Format) -> Result<Said, Failure> {
    let flows = ends::resolve(&state, query)?;
    let now: Vec<Way> = flows.iter().map(|flow| flow.walk(&state)).collect();
    let staged = state.enforce_staged();
    let would: Vec<Option<Way>> =
        flows.iter().map(|flow| (!staged.is_empty()).then(|| flow.walk(&state))).collect();
    for doubt in now.iter().flat_map(|way| &way.doubts) {
        if !state.warnings.contains(doubt) {
            state.warnings.push(doubt.clone());
        }
    }
    let told = flows.iter().zip(now.iter().zip(&would));
    let out = match format {
        Format::Text if flows.iter().any(|flow| flow.part.is_some()) => {
            let answers: Vec<_> = told.collect();
            parts::text(&state, query, &answers, &staged)
        }
        Format::Text => {
            let texts =
                told.map(|(flow, (now, would))| text(&state, flow, now, would.as_ref(), &staged));
            texts.collect::<Vec<_>>().join("\n")
        }
        Format::Json => {
            let mut values: Vec<Value> = told
                .map(|(flow, (now, would))| {
                    json!({
                        "from": end(&flow.from),
                        "to": end(&flow.to),
                        "net": flow.part,
                        "now": document(now),
                        "staged": staged,
                        "ifStagedWereEnforced": would.as_ref().map(document),
                    })
                })
                .collect();
            // A service has any number of backends, a prefix of parts.
            let many = services::named(&query.to).is_some()
                || flows.iter().any(|flow| flow.part.is_some());
            let value = match many {
                true => Value::Array(values),
                false => values.pop().unwrap_or_default(),
            };
            format!("{value:#}\n")
        }
    };
    Ok(Said { out, warnings: state.warnings })
}

pub(super) fn text(
    state: &State,
    flow: &Flow,
    now: &Way,
    would: Option<&Way>,
    staged: &[String],
) -> String {
    let mut out = String::new();
    let (from, to) = (name(state, &flow.from), name(state, &flow.to));
    let verdict = now.verdict();
    // Writing to a string does not fail.
    let _ = writeln!(out, "{from} -> {to}: {verdict}{}", in_tier(now));
    for (word, place, address) in
        [("from", &flow.from, flow.packet.source), ("to", &flow.to, flow.packet.destination)]
    {
        let _ = writeln!(out, "{word}: {}", described(state, place, address));
    }
    out.push_str(&trace(now));
    if let Some(would) = would {
        let changed = would.verdict();
        let names = staged.join(", ");
        if changed == verdict {
            let _ = writeln!(out, "staged: no difference if enforced: {names}");
        } else {
            let _ =
                writeln!(out, "staged: would be {changed}{} if enforced: {names}", in_tier(would));
            out.push_str(&trace(would));
        }
    }
    out
}

fn trace(way: &Way) -> String {
    let word = if way.is_allowed() { "allowed" } else { "denied" };
    let mut out = format!("{}: {word}\n", way.packet);
    for Hop { at, direction, decision } in &way.hops {
        let _ = match at {
            At::Workload => writeln!(out, "{direction}:"),
            At::Host { name, forwarded: false } => {
                writeln!(out, "{direction} at host endpoint {name}:")
            }
            At::Host { name, forwarded: true } => {
                writeln!(out, "{direction} at host endpoint {name}, forwarded:")
            }
            _ => Ok(()),
        };
        let _ = writeln!(out, "{decision}");
    }
    if let Some(action) = way.to_host {
        let _ = writeln!(out, "to its own host: defaultEndpointToHostAction {action:?}");
    }
    out
}

fn name(state: &State, place: &Place) -> String {
    match place {
        Place::Workload { id, .. } => state.name_of(id),
        Place::Host { node, .. } => format!("node {node}"),
        _ => "outside".to_owned(),
    }
}

/// Who it is, with what rules may know of it.
fn described(state: &State, place: &Place, address: IpAddr) -> String {
    let labels = |labels: &std::collections::BTreeMap<String, String>| {
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if labels.is_empty() {
            "no labels".to_owned()
        } else {
            format!("labels {}", labels.join(", "))
        }
    };
    match place {
        Place::Workload { id, node } => {
            let found = state.endpoints.iter().find(|endpoint| {
                (endpoint.namespace(), endpoint.name()) == (&*id.namespace, &*id.name)
            });
            let labels = found.map(|endpoint| labels(&endpoint.metadata.labels));
            let labels = labels.unwrap_or_default();
            format!("{address}, WorkloadEndpoint {id} on {node}, {labels}")
        }
        Place::Host { endpoint: None, node } => {
            format!("{address}, node {node}, which no HostEndpoint protects there")
        }
        Place::Host { endpoint: Some(name), .. } => {
            let found = state.hosts.iter().find(|host| *host.name() == **name);
            let labels = found.map(|host| labels(&host.metadata.labels)).unwrap_or_default();
            format!("{address}, HostEndpoint {name}, {labels}")
        }
        _ => {
            let of = state
                .networks
                .iter()
                .filter(|(_, nets)| nets.iter().any(|net| net.0.trunc().contains(&address)));
            let sets: Vec<&str> = of.map(|(name, _)| name.as_str()).collect();
            match sets[..] {
                [] => format!("{address}, in no network set"),
                _ => format!("{address}, in {}", sets.join(", ")),
            }
        }
    }
}

/// The tier in which the deciding step was, in words, unless the verdict names it itself.
pub(super) fn in_tier(way: &Way) -> String {
    let deciding = way.deciding().map(|hop| &hop.decision);
    let unnamed = deciding.filter(|d| !matches!(d.cause, VerdictCause::EndOfTier(_)));
    let tier = unnamed.and_then(|decision| decision.tier());
    tier.map_or_else(String::new, |tier| format!(", in tier {tier}"))
}

fn document(way: &Way) -> Value {
    let deciding = way.deciding().map(|hop| {
        json!({
            "direction": hop.direction,
            "tier": hop.decision.tier(),
            "cause": hop.decision.cause,
        })
    });
    json!({
        "allowed": way.is_allowed(),
        "by": way.by(),
        "decided": deciding,
        "packet": way.packet,
        "egress": way.at_workload(Direction::Egress),
        "hosts": hosts(way),
        "toHost": way.to_host,
        "ingress": way.at_workload(Direction::Ingress),
    })
}

/// What host endpoints said.
fn hosts(way: &Way) -> Vec<Value> {
    let hosts = way.hops.iter().filter_map(|hop| match &hop.at {
        At::Host { name, forwarded } => Some(json!({
            "hostEndpoint": name,
            "direction": hop.direction,
            "forwarded": forwarded,
            "decision": hop.decision,
        })),
        _ => None,
    });
    hosts.collect()
}

fn end(place: &Place) -> Value {
    match place {
        Place::Workload { id, .. } => json!(id),
        Place::Host { endpoint, node } => json!({"hostEndpoint": endpoint, "node": node}),
        _ => Value::Null,
    }
}
