use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{CniError, Code};

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Detach it; may be repeated.
    Del,
    /// See whether an attachment is as it was made.
    Check,
    /// Detach what the runtime no longer knows.
    Gc,
    /// Say whether ADD can be served.
    Status,
    /// Say which versions are supported.
    Version,
}

impl FromStr for Verb {
    type Err = CniError;

    fn from_str(word: &str) -> Result<Self, CniError> {
        Ok(match word {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => {
                let message = format!("CNI_COMMAND is {word:?}");
                return Err(CniError::new(Code::InvalidEnvironment, message)
                    .details("expected ADD, DEL, CHECK, GC, STATUS or VERSION"));
            }
        })
    }
}

/// The environment of a call, as the specification names it; checked by [`Call::new`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; empty if the runtime gave none.
    pub netns: PathBuf,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`, such as `K8S_POD_NAME=web;K8S_POD_NAMESPACE=default`.
    pub args: Args,
    /// `CNI_PATH`: where other plugins are.
    pub path: Vec<PathBuf>,
}

impl Call {
    /// Reads and checks what `verb` needs; `variable` looks up the environment.
    ///
    /// # Errors
    ///
    /// Code 4, naming every variable that is missing or invalid.
    pub fn new(verb: Verb, variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let get = |name| variable(name).unwrap_or_default();
        let call = Self {
            container: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS").into(),
            ifname: get("CNI_IFNAME"),
            args: Args::parse(&get("CNI_ARGS"))?,
            path: std::env::split_paths(&get("CNI_PATH"))
                .filter(|path| !path.as_os_str().is_empty())
                .collect(),
        };
        call.check(verb)?;
        Ok(call)
    }

    fn check(&self, verb: Verb) -> Result<(), CniError> {
        let (container, netns) = match verb {
            Verb::Add | Verb::Check => (true, true),
            Verb::Del => (true, false),
            Verb::Gc | Verb::Status | Verb::Version => (false, false),
        };
        let mut problems = Vec::new();
        if container {
            match self.container.as_str() {
                "" => problems.push("CNI_CONTAINERID is missing".to_owned()),
                id if !is_container_id(id) => problems.push(format!(
                    "CNI_CONTAINERID {id:?} is invalid: letters and digits, then also . _ -"
                )),
                _ => {}
            }
            match self.ifname.as_str() {
                "" => problems.push("CNI_IFNAME is missing".to_owned()),
                name if !is_interface_name(name) => problems.push(format!(
                    "CNI_IFNAME {name:?} is invalid: at most 15 bytes without spaces, '/' and ':'"
                )),
                _ => {}
            }
        }
        if netns && self.netns.as_os_str().is_empty() {
            problems.push("CNI_NETNS is missing".to_owned());
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(CniError::new(Code::InvalidEnvironment, "the environment is not complete")
            .details(problems.join("; ")))
    }

    /// `CNI_NETNS`, if the runtime gave one.
    #[must_use]
    pub fn netns(&self) -> Option<&std::path::Path> {
        (!self.netns.as_os_str().is_empty()).then_some(self.netns.as_path())
    }
}

fn is_container_id(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && id.len() <= 255
}

pub(crate) fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && ![".", ".."].contains(&name)
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// `CNI_ARGS`: pairs of name and value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Args(Vec<(String, String)>);

impl Args {
    fn parse(text: &str) -> Result<Self, CniError> {
        let pair = |pair: &str| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS has {pair:?}"))
                .details("expected NAME=VALUE, separated by semicolons")),
        };
        text.split(';')
            .filter(|part| !part.is_empty())
            .map(pair)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The value of `name`, if it is there and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name)?;
        Some(found.1.as_str()).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(verb: Verb, variables: &[(&str, &str)]) -> Result<Call, CniError> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name);
        Call::new(verb, |name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn each_verb_needs_its_variables() {
        let container = ("CNI_CONTAINERID", "0f3c");
        let ifname = ("CNI_IFNAME", "eth0");
        let netns = ("CNI_NETNS", "/run/netns/a");
        assert!(call(Verb::Add, &[container, ifname, netns]).is_ok());
        assert!(call(Verb::Del, &[container, ifname]).is_ok());
        assert!(call(Verb::Gc, &[]).is_ok());
        for (verb, variables, missing) in [
            (Verb::Add, vec![container, ifname], "CNI_NETNS is missing"),
            (Verb::Add, vec![], "CNI_CONTAINERID is missing; CNI_IFNAME is missing; CNI_NETNS"),
            (Verb::Del, vec![("CNI_CONTAINERID", "../x"), ifname], "CNI_CONTAINERID \"../x\""),
            (Verb::Del, vec![container, ("CNI_IFNAME", "0123456789abcdef")], "at most 15 bytes"),
            (Verb::Del, vec![container, ifname, ("CNI_ARGS", "a")], "CNI_ARGS has \"a\""),
        ] {
            let error = call(verb, &variables).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(error.to_string().contains(missing), "{error}");
        }
    }

    #[test]
    fn arguments_are_pairs() {
        let args = Args::parse("IgnoreUnknown=1;K8S_POD_NAME=web=1;EMPTY=").unwrap();
        assert_eq!(args.get("K8S_POD_NAME"), Some("web=1"));
        assert_eq!(args.get("EMPTY"), None);
        assert_eq!(args.get("K8S_POD_NAMESPACE"), None);
    }
}
