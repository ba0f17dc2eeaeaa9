//! What goes wrong, as a person reads it.

use std::path::{Path, PathBuf};

use calico_core::datastore::StoreError;
use calico_core::key::Key;
use calico_core::kind::UnknownKind;
use calico_core::resource::{FieldError, ManifestError};

/// Why a command failed. Every failure is exit code 1, but for `diff` and `endpoint wait`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A file, directory or stream cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file cannot be written.
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
    /// A manifest has mistakes; each is a line.
    #[error("{}", lines(path, errors))]
    Manifest { path: PathBuf, errors: Vec<ManifestError> },
    /// Files, each with its mistakes.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<Self>),
    /// There is nothing to do.
    #[error("no resources in {path}; use --skip-empty if that is right", path = path.display())]
    Empty { path: PathBuf },
    /// A resource breaks rules that need more than its own fields.
    #[error("{}", invalid(name, errors))]
    Invalid { name: String, errors: Vec<FieldError> },
    /// The settings file cannot be understood.
    #[error("{path}: {reason}", path = path.display())]
    Settings { path: PathBuf, reason: String },
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    #[error("{}", of_store(.0))]
    Store(StoreError),
    #[error(transparent)]
    Ipam(#[from] calico_ipam::IpamError),
    /// Some resources were handled before one failed.
    #[error("Partial success: {done}\nHit error: {source}")]
    Partial { done: String, source: Box<Self> },
    /// A part of the answer is known, and belongs on the standard output.
    #[error("{source}")]
    Rest { out: String, source: Box<Self> },
    /// `diff` found something: no failure, but another exit code.
    #[error("{0}")]
    Differs(String),
    /// What was waited for did not come in time: another exit code, too.
    #[error("{0}")]
    NotInTime(String),
    /// The agent does not answer as it should.
    #[error("{0}")]
    Agent(String),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// `IPPool main`, or `NetworkPolicy prod/web`; other objects by their path.
pub(crate) fn name_of(key: &Key) -> String {
    match key {
        Key::Resource { kind, namespace: Some(namespace), name } => {
            format!("{kind} {namespace}/{name}")
        }
        Key::Resource { kind, namespace: None, name } => format!("{kind} {name}"),
        other => other.to_string(),
    }
}

fn of_store(error: &StoreError) -> String {
    match error {
        StoreError::NotFound { key } => format!("{} does not exist", name_of(key)),
        StoreError::AlreadyExists { key } => {
            format!("{} exists already; use apply or replace to change it", name_of(key))
        }
        StoreError::Conflict { key, expected, found } => format!(
            "{} was changed in the meantime: it is at resourceVersion {found}, not {expected}; \
             get it again and repeat the change",
            name_of(key)
        ),
        other => other.to_string(),
    }
}

fn lines(path: &Path, errors: &[ManifestError]) -> String {
    let path =
        if path == Path::new("-") { "standard input".into() } else { path.to_string_lossy() };
    let lines: Vec<String> = errors.iter().map(|error| format!("{path}: {error}")).collect();
    lines.join("\n")
}

fn invalid(name: &str, errors: &[FieldError]) -> String {
    let lines: Vec<String> = errors.iter().map(|error| format!("{name}: {error}")).collect();
    lines.join("\n")
}
