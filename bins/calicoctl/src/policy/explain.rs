//! `policy explain`: the verdict on one packet, who decided, and how it came to that.

use std::fmt::Write as _;
use std::sync::Arc;

use calico_core::dataplane::{Direction, EndpointId, VerdictCause};
use calico_policy::diff::Brief;
use calico_policy::eval::{Decision, Explanation, Step};
use serde_json::{Value, json};

use super::Format;
use super::ends::{self, Flow, Query};
use super::state::State;
use crate::failure::Failure;
use crate::run::Said;

pub(super) fn run(mut state: State, query: &Query, format: Format) -> Result<Said, Failure> {
    let flow = ends::resolve(&state, query)?;
    let now = explain(&state, &flow);
    let staged = state.enforce_staged();
    let would = (!staged.is_empty()).then(|| explain(&state, &flow));
    let out = match format {
        Format::Text => text(&state, &flow, &now, would.as_ref(), &staged),
        Format::Json => {
            let value = json!({
                "from": end(flow.from.as_ref()),
                "to": end(flow.to.as_ref()),
                "now": document(&now),
                "staged": staged,
                "ifStagedWereEnforced": would.as_ref().map(document),
            });
            format!("{value:#}\n")
        }
    };
    Ok(Said { out, warnings: state.warnings })
}

fn explain(state: &State, flow: &Flow) -> Explanation {
    state.desired.explain(flow.from.as_ref(), flow.to.as_ref(), &flow.packet)
}

fn text(
    state: &State,
    flow: &Flow,
    now: &Explanation,
    would: Option<&Explanation>,
    staged: &[String],
) -> String {
    let mut out = String::new();
    let name =
        |id: Option<&EndpointId>| id.map_or_else(|| "outside".to_owned(), |id| state.name_of(id));
    let (from, to) = (name(flow.from.as_ref()), name(flow.to.as_ref()));
    let verdict = Brief::of(now);
    // Writing to a string does not fail.
    let _ = writeln!(out, "{from} -> {to}: {verdict}{}", in_tier(now));
    let _ = write!(out, "{now}");
    if let Some(would) = would {
        let changed = Brief::of(would);
        let names = staged.join(", ");
        if changed == verdict {
            let _ = writeln!(out, "staged: no difference if enforced: {names}");
        } else {
            let _ =
                writeln!(out, "staged: would be {changed}{} if enforced: {names}", in_tier(would));
            let _ = write!(out, "{would}");
        }
    }
    out
}

/// The tier in which the deciding step was, in words, unless the verdict names it itself.
fn in_tier(explanation: &Explanation) -> String {
    let deciding = explanation.deciding().map(|(_, decision)| decision);
    let unnamed = deciding.filter(|d| !matches!(d.cause, VerdictCause::EndOfTier(_)));
    let tier = unnamed.and_then(tier_of);
    tier.map_or_else(String::new, |tier| format!(", in tier {tier}"))
}

/// The tier that decided; none if profiles did.
fn tier_of(decision: &Decision) -> Option<Arc<str>> {
    decision.steps.iter().rev().find_map(|step| match step {
        Step::Tier(tier) => Some(Some(Arc::clone(tier))),
        Step::Profiles => Some(None),
        _ => None,
    })?
}

fn document(explanation: &Explanation) -> Value {
    let brief = Brief::of(explanation);
    let deciding = explanation.deciding().map(|(direction, decision)| {
        let direction: Direction = direction;
        json!({"direction": direction, "tier": tier_of(decision), "cause": decision.cause})
    });
    json!({
        "allowed": brief.allowed,
        "by": brief.by,
        "decided": deciding,
        "packet": explanation.packet,
        "egress": explanation.egress,
        "ingress": explanation.ingress,
    })
}

fn end(id: Option<&EndpointId>) -> Value {
    json!(id)
}
