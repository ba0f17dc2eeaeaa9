//! What is told to both graphs: lines of the scenario language, and when to compare.
//!
//! ```text
//! NetworkPolicy a/q1 {} {selector: all(), ingress: [{action: Allow}]}
//! kubernetes {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
//! compare
//! delete NetworkPolicy a/q1
//! compare
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, EndpointName, SERVICE_NAME_LABEL, WorkloadEndpointSpec};
use calico_tests::scenario;
use serde_json::{Value, json};

/// Lines, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Story {
    /// What happens.
    pub lines: Vec<Line>,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// As it was written.
    pub text: String,
    /// What it means.
    pub event: Event,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A resource is written.
    Put(AnyResource),
    /// An object is written that Kubernetes keeps, and a datastore converts.
    Kubernetes(Value),
    /// A resource is deleted.
    Delete(AnyResource),
    /// Both graphs must ask for the same now.
    Compare,
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let event = match text.split_once(' ') {
            None if text == "compare" => Event::Compare,
            Some(("kubernetes", rest)) => {
                Event::Kubernetes(serde_json::from_str(rest).map_err(|error| error.to_string())?)
            }
            Some(("delete", rest)) => Event::Delete(scenario::resource(&match rest {
                // A name is enough.
                rest if rest.contains('{') => rest.to_owned(),
                rest => format!("{rest} {{}} {{}}"),
            })?),
            _ => Event::Put(scenario::resource(text)?),
        };
        Ok(Self { text: text.to_owned(), event })
    }
}

impl FromStr for Story {
    type Err = String;

    /// Says which line is wrong, and how.
    fn from_str(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let read = |line: &str| line.parse().map_err(|error| format!("{line}\n  {error}"));
        Ok(Self { lines: lines.map(read).collect::<Result<_, String>>()? })
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{}", line.text))
    }
}

/// After so many changes the graphs are compared again.
const STEP: usize = 6;

impl Story {
    /// A story made of a random scenario's lines: first most of them at once, the others in steps,
    /// and then a part of all goes again in steps.
    ///
    /// # Errors
    ///
    /// The first line that is wrong.
    pub fn of(lines: &[String]) -> Result<Self, String> {
        let mut story = Self::default();
        // A datastore always has it.
        story.push("Tier default {} {order: 1000000, defaultAction: Deny}")?;
        // Without, Felix treats an endpoint that asks for more sources as missing. It starts anew
        // when its settings change, so they are there from the start.
        story.push("FelixConfiguration default {} {workloadSourceSpoofing: Any}")?;
        let changes: Vec<String> = lines
            .iter()
            .filter(|line| !line.starts_with("send ") && !line.starts_with("FelixConfiguration"))
            .map(|line| stored(line))
            .collect::<Result<_, _>>()?;
        let first = changes.len() * 2 / 3;
        for change in &changes[..first] {
            story.push(change)?;
        }
        story.push("compare")?;
        for step in changes[first..].chunks(STEP) {
            step.iter().try_for_each(|change| story.push(change))?;
            story.push("compare")?;
        }
        let mut heads = BTreeMap::new();
        for change in &changes {
            let head = change.split(" {").next().unwrap_or_default();
            heads.entry(head.to_owned()).or_insert_with(|| delete(change));
        }
        // A datastore keeps a tier that has policies.
        let gone = heads.values().filter(|line| !line.starts_with("delete Tier"));
        let gone: Vec<&String> = gone.step_by(3).collect();
        for step in gone.chunks(STEP) {
            step.iter().try_for_each(|change| story.push(change))?;
            story.push("compare")?;
        }
        Ok(story)
    }

    fn push(&mut self, line: &str) -> Result<(), String> {
        let line: Line = line.parse().map_err(|error| format!("{line}\n  {error}"))?;
        self.lines.push(line);
        Ok(())
    }
}

/// A line that deletes what another one wrote.
fn delete(line: &str) -> String {
    format!("delete {}", line.split(" {").next().unwrap_or_default())
}

/// The line with the name under which a datastore has the resource: policies of tiers have a prefix
/// (up to upstream's 3.31 it says which tier it is), endpoints of workloads one that their fields
/// demand.
fn stored(line: &str) -> Result<String, String> {
    let resource = scenario::resource(line).map_err(|error| format!("{line}\n  {error}"))?;
    let spec = &resource.fields["spec"];
    let name = match resource.kind {
        Kind::WorkloadEndpoint => {
            let spec: WorkloadEndpointSpec =
                serde_json::from_value(spec.clone()).map_err(|error| error.to_string())?;
            EndpointName::of(&spec).to_string()
        }
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => {
            // Of equal order, policies come in that of `namespace/name` up to upstream's 3.31, and
            // in that of their names since: with these names it is the same.
            let name = match resource.namespace() {
                "" => resource.name().to_owned(),
                namespace => format!("{namespace}-{}", resource.name()),
            };
            match spec["tier"].as_str() {
                Some(tier) => format!("{tier}.{name}"),
                None => name,
            }
        }
        // In Felix, a slice that changes its service stays in the old one as well. Kubernetes' slices
        // never do that.
        Kind::KubernetesEndpointSlice => match resource.metadata.labels.get(SERVICE_NAME_LABEL) {
            Some(service) => format!("{}-{service}", resource.name()),
            None => return Ok(line.to_owned()),
        },
        _ => return Ok(line.to_owned()),
    };
    let old = match resource.namespace() {
        "" => resource.name().to_owned(),
        namespace => format!("{namespace}/{}", resource.name()),
    };
    let new = match resource.namespace() {
        "" => name,
        namespace => format!("{namespace}/{name}"),
    };
    // `!(!x)` is read as `x`, which changes the identity of its set.
    let line = line.replace("notSelector: \"!", "notSelector: \"");
    Ok(line.replacen(&format!(" {old} "), &format!(" {new} "), 1))
}

/// The resource as Felix' datastore has it.
#[must_use]
pub fn upstream(resource: &AnyResource) -> Value {
    let mut value = resource.to_value();
    if resource.kind == Kind::KubernetesEndpointSlice {
        // Ours is a view of Kubernetes' own.
        let spec = value["spec"].take();
        let labels = json!({"metadata": value["metadata"]});
        value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"});
        for part in [labels, spec] {
            if let (Value::Object(value), Value::Object(part)) = (&mut value, part) {
                value.extend(part);
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_a_datastore_has_them() {
        for (line, expected) in [
            ("NetworkPolicy a/q {} {tier: t}", "NetworkPolicy a/t.a-q {} {tier: t}"),
            ("GlobalNetworkPolicy q {} {}", "GlobalNetworkPolicy q {} {}"),
            (
                "WorkloadEndpoint a/p1 {} {orchestrator: k8s, pod: p1, endpoint: eth0, node: n1}",
                "WorkloadEndpoint a/n1-k8s-p1-eth0 {} \
                 {orchestrator: k8s, pod: p1, endpoint: eth0, node: n1}",
            ),
        ] {
            assert_eq!(stored(line).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_story_is_what_it_prints() {
        let text = "Tier t {} {order: 1}\ncompare\ndelete Tier t\ncompare\n";
        assert_eq!(text.parse::<Story>().map(|story| story.to_string()), Ok(text.to_owned()));
    }
}
