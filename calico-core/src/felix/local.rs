//! Parameters of the host: its file, and its environment.

use std::fmt;

use serde_json::{Map, Value, json};

use super::layers::Source;
use super::parameter::Parameter;
use crate::resource::FelixConfigurationSpec;

/// Beginning of the variables that are parameters.
const PREFIX: &str = "FELIX_";

/// Parameters that hold on this host whatever the datastore says.
#[derive(Debug, Clone, Default)]
pub struct Local {
    pub(super) file: Map<String, Value>,
    pub(super) environment: Map<String, Value>,
    problems: Vec<Problem>,
}

/// A parameter of the host that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub source: Source,
    /// Its name as written.
    pub name: String,
    /// Why it has none.
    pub reason: String,
    /// Whether upstream's node agent would stop: what it protects would be wrong without it.
    pub vital: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}: {}", self.name, self.source, self.reason)
    }
}

impl Local {
    /// Adds the text of the file: lines `Name = value`; sections, and lines that begin with `#`
    /// or `;`, mean nothing.
    #[must_use]
    pub fn file(mut self, text: &str) -> Self {
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';', '[']) {
                continue;
            }
            match line.split_once('=') {
                Some((name, value)) => self.add(Source::File, name.trim(), value),
                None => self.problem(Source::File, line, "it is no Name = value", false),
            }
        }
        self
    }

    /// Adds those of the variables that are parameters; empty ones are as if not set.
    #[must_use]
    pub fn environment<N: AsRef<str>, V: AsRef<str>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        for (name, value) in variables {
            let (name, value) = (name.as_ref(), value.as_ref());
            let is_ours = name.get(..PREFIX.len()).is_some_and(|p| p.eq_ignore_ascii_case(PREFIX));
            if is_ours && !value.trim().is_empty() {
                self.add(Source::Environment, name, value);
            }
        }
        self
    }

    /// What has no effect.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn add(&mut self, source: Source, name: &str, value: &str) {
        let bare = if source == Source::Environment { &name[PREFIX.len()..] } else { name };
        let Some(parameter) = Parameter::by_local_name(bare) else {
            return self.problem(source, name, "it is no parameter of the node agent", false);
        };
        let fits = |value: &Value| {
            let alone = json!({parameter.field: value});
            let read = serde_json::from_value::<FelixConfigurationSpec>(alone);
            read.map(drop).map_err(|error| error.to_string())
        };
        match parameter.read(value).and_then(|value| fits(&value).map(|()| value)) {
            Ok(value) => {
                let layer = match source {
                    Source::File => &mut self.file,
                    _ => &mut self.environment,
                };
                layer.insert(parameter.field.to_owned(), value);
            }
            Err(reason) => {
                let reason = format!("{:?}: {reason}", value.trim());
                self.problem(source, name, &reason, parameter.vital);
            }
        }
    }

    fn problem(&mut self, source: Source, name: &str, reason: &str, vital: bool) {
        let (name, reason) = (name.to_owned(), reason.to_owned());
        self.problems.push(Problem { source, name, reason, vital });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_named() {
        let local = Local::default()
            .file("# a comment\n[global]\nIpInIpMtu = 1400\nnonsense\nInterfacePrefx = tap\n")
            .environment([("FELIX_DEFAULTENDPOINTTOHOSTACTION", "maybe"), ("HOME", "/root")])
            .environment([("felix_VxlanPort", "4790"), ("FELIX_LOGPREFIX", " ")])
            .environment([("FELIX_HEALTHPORT", "70000")]);
        assert_eq!(local.file["ipipMTU"], 1400);
        assert_eq!(local.environment["vxlanPort"], 4790);
        let texts: Vec<String> = local.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "nonsense of the file: it is no Name = value",
                "InterfacePrefx of the file: it is no parameter of the node agent",
                "FELIX_DEFAULTENDPOINTTOHOSTACTION of the environment: \"maybe\": one of Accept, \
                 Drop, Return is expected",
                "FELIX_HEALTHPORT of the environment: \"70000\": invalid value: integer `70000`, \
                 expected u16",
            ]
        );
        assert!(local.problems()[2].vital);
    }
}
