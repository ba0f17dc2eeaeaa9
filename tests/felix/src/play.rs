//! Stories, played to each of the graphs.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use calico_core::resource::AnyResource;
use calico_datastore::conversion;
use calico_policy::desired::Desired;
use calico_policy::{Graph, Object};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::canonical::State;
use crate::story::{Event, Story, upstream};
use crate::{ours, theirs};

/// The host whose endpoints are local, as in the scenario language.
pub const HOST: &str = "n1";

/// What became of a story.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// At each comparison.
    pub states: Vec<State>,
    /// Numbers of the lines that were refused.
    pub refused: BTreeSet<usize>,
}

/// Plays a story to our graph, without the lines that upstream refused.
///
/// # Errors
///
/// A line that cannot be converted; updates in an order that a dataplane cannot follow.
pub fn ours(story: &Story, without: &BTreeSet<usize>) -> Result<Outcome, String> {
    let mut graph = Graph::for_node(HOST);
    let mut desired = Desired::default();
    let mut outcome = Outcome::default();
    for (number, line) in story.lines.iter().enumerate() {
        if without.contains(&number) {
            continue;
        }
        let result = match &line.event {
            Event::Put(resource) => graph.handle_resource(resource),
            Event::Kubernetes(object) => graph.handle(converted(object)?),
            Event::Delete(resource) => {
                graph.handle_gone(&resource.key());
                Ok(())
            }
            Event::Compare => {
                for update in graph.flush() {
                    desired.apply(&update).map_err(|error| format!("{}: {error}", line.text))?;
                }
                outcome.states.push(ours::state(&desired));
                Ok(())
            }
        };
        if result.is_err() {
            outcome.refused.insert(number);
        }
    }
    Ok(outcome)
}

/// Where our outcome is another than Felix': at which comparison, and what refused alone.
#[must_use]
pub fn compare(story: &Story, ours: &Outcome, felix: &Outcome) -> String {
    let mut out = String::new();
    for number in &ours.refused {
        out += &format!("- refused: {}\n", story.lines[*number].text);
    }
    let comparisons =
        story.lines.iter().enumerate().filter(|(_, line)| line.event == Event::Compare);
    for ((number, _), (ours, felix)) in comparisons.zip(ours.states.iter().zip(&felix.states)) {
        let difference = ours.difference(felix);
        if !difference.is_empty() {
            out += &format!("at line {number}:\n{difference}");
            // What follows follows from it.
            break;
        }
    }
    if ours.states.len() != felix.states.len() {
        out += "the numbers of comparisons differ\n";
    }
    out
}

/// What our Kubernetes datastore makes of an object.
fn converted(object: &Value) -> Result<Object, String> {
    fn read<T: serde::de::DeserializeOwned>(object: &Value) -> Result<T, String> {
        serde_json::from_value(object.clone()).map_err(|error| format!("{object}: {error}"))
    }
    Ok(match object["kind"].as_str() {
        Some("Namespace") => conversion::namespace_profile(&read(object)?).into(),
        Some("Pod") => {
            let converted = conversion::workload_endpoint(&read(object)?, "cali");
            converted.ok_or_else(|| format!("{object} is no workload"))?.resource.into()
        }
        Some("NetworkPolicy") => {
            let mut policy = conversion::network_policy(&read(object)?).resource;
            policy.metadata.name =
                format!("{}{}", conversion::NETWORK_POLICY_PREFIX, policy.metadata.name);
            policy.into()
        }
        kind => return Err(format!("{kind:?} is not converted here")),
    })
}

/// Felix' graph, in a process of its own.
#[derive(Debug)]
pub struct Felix {
    child: Child,
    commands: BufWriter<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    message: String,
    body: Value,
    refused: String,
    done: bool,
}

impl Felix {
    /// Starts the program that `calico_test_servers::programs::find_felix` finds.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start(program: &Path) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", program.display()))?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a child without pipes".to_owned());
        };
        Ok(Self { child, commands: BufWriter::new(commands), answers: BufReader::new(answers) })
    }

    /// Tells it something.
    ///
    /// # Errors
    ///
    /// If it is gone; its last words are on standard error.
    pub fn tell(&mut self, command: &Value) -> Result<(), String> {
        writeln!(self.commands, "{command}").map_err(|error| format!("Felix' graph: {error}"))
    }

    /// Its next answer.
    ///
    /// # Errors
    ///
    /// If it is gone, or says what cannot be understood.
    pub fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        let read = self.commands.flush().and_then(|()| self.answers.read_line(&mut line));
        match read {
            Ok(0) => Err("Felix' graph has ended; its last words are above".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{line}: {error}")),
            Err(error) => Err(format!("Felix' graph: {error}")),
        }
    }

    /// Plays a story to it, from the start.
    ///
    /// # Errors
    ///
    /// If it ends, or says what does not fit together.
    pub fn play(&mut self, story: &Story) -> Result<Outcome, String> {
        let spoofing = story.lines.iter().any(|l| l.text.contains("workloadSourceSpoofing: Any"));
        self.tell(&json!({"op": "start", "host": HOST, "spoofing": spoofing}))?;
        let mut felix = theirs::Felix::default();
        let mut outcome = Outcome::default();
        for (number, line) in story.lines.iter().enumerate() {
            let name = number.to_string();
            let object =
                |op: &str, object: Value| json!({"op": op, "name": name, "object": object});
            match &line.event {
                Event::Put(resource) if is_setting(resource) => {}
                Event::Put(resource) => self.tell(&object("put", upstream(resource)))?,
                Event::Kubernetes(value) => self.tell(&object("put", value.clone()))?,
                Event::Delete(resource) => self.tell(&object("delete", upstream(resource)))?,
                Event::Compare => {
                    if outcome.states.is_empty() {
                        self.tell(&json!({"op": "synced"}))?;
                    }
                    self.tell(&json!({"op": "flush"}))?;
                    self.listen(&mut felix, &mut outcome.refused)?;
                    outcome.states.push(felix.state()?);
                }
            }
        }
        Ok(outcome)
    }

    fn listen(
        &mut self,
        felix: &mut theirs::Felix,
        refused: &mut BTreeSet<usize>,
    ) -> Result<(), String> {
        loop {
            let answer: Answer =
                serde_json::from_value(self.answer()?).map_err(|error| error.to_string())?;
            if answer.done {
                return Ok(());
            }
            if answer.refused.is_empty() {
                felix.apply(&answer.message, &answer.body)?;
            } else {
                refused.insert(answer.refused.parse().map_err(|_lost| answer.refused)?);
            }
        }
    }
}

impl Drop for Felix {
    fn drop(&mut self) {
        // It may be in the middle of something; there is nothing to lose.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Settings of Felix are told at its start.
fn is_setting(resource: &AnyResource) -> bool {
    resource.kind == calico_core::kind::Kind::FelixConfiguration
}
