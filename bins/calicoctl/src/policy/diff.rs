//! `policy diff`: which flows would change their verdict.

use std::fmt::Write as _;

use calico_core::resource::AnyResource;
use calico_policy::diff;
use calico_policy::way::Cluster;
use serde_json::json;

use super::Format;
use super::state::State;
use crate::failure::Failure;
use crate::run::Said;

pub(super) fn run(
    mut state: State,
    changes: &[AnyResource],
    format: Format,
) -> Result<Said, Failure> {
    let (desired, topology) = (std::mem::take(&mut state.desired), state.topology.clone());
    state.apply(changes)?;
    let before = Cluster { desired: &desired, topology: &topology };
    let diff::Diff { changes: found, doubts, .. } = diff::diff(before, state.cluster());
    state.warnings.extend(doubts);
    let out = match format {
        Format::Json => format!("{:#}\n", json!({ "changes": found })),
        Format::Text if found.is_empty() => "No flow changes its verdict\n".to_owned(),
        Format::Text => {
            let mut out = String::new();
            for change in &found {
                // Writing to a string does not fail.
                let _ = writeln!(out, "{}", change.describe(|id| state.name_of(id)));
            }
            out
        }
    };
    Ok(Said { out, warnings: state.warnings })
}
