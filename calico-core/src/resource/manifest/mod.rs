//! Manifests: YAML or JSON files with one or more resources.

mod lines;
mod words;

#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use self::lines::{Lines, line_of};
use self::words::Word;
use super::{AnyResource, FieldError, Mode};
use crate::kind::{API_VERSION, Kind};

/// Largest manifest that is read, in bytes.
pub const MAX_MANIFEST_SIZE: usize = 32 * 1024 * 1024;

/// Deepest nesting of maps and lists in a manifest.
pub const MAX_MANIFEST_DEPTH: usize = 64;

/// Why a manifest, or one resource in it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The whole input is too large.
    #[error(
        "the manifest has {size} bytes or more; split it: at most {MAX_MANIFEST_SIZE} are read"
    )]
    TooLarge {
        /// Its size in bytes, as far as it was read.
        size: usize,
    },
    /// It is neither YAML nor JSON, or too deep.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1; 0 if unknown.
        line: u64,
        /// Column, from 1; 0 if unknown.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// A resource in it is wrong.
    #[error("document {document}{}{subject}: {error}", Line(*line))]
    Resource {
        /// Which document, from 1; empty ones do not count.
        document: usize,
        /// The line of the mistake, from 1, where it is known.
        line: Option<u64>,
        /// Kind and name, such as ` (IPPool main)`, where they are known.
        subject: String,
        /// What is wrong, and where in the resource.
        error: FieldError,
    },
}

struct Line(Option<u64>);

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// Reads every resource of a manifest: several YAML documents, lists at the top level, and
/// objects of kind `<Kind>List` are all taken apart.
///
/// ```
/// use calico_core::resource::{Mode, read_manifest};
///
/// let pools = read_manifest("
/// apiVersion: projectcalico.org/v3
/// kind: IPPool
/// metadata: {name: main}
/// spec: {cidr: 10.0.0.0/16, natOutgoing: yes please}
/// ", Mode::Strict);
/// let errors = pools.expect_err("natOutgoing is no boolean");
/// let text = errors[0].to_string();
/// assert!(text.starts_with("document 1, line 5 (IPPool main): spec.natOutgoing"), "{text}");
/// ```
///
/// # Errors
/// Every mistake, with document, line and path.
pub fn read_manifest(text: &str, mode: Mode) -> Result<Vec<AnyResource>, Vec<ManifestError>> {
    if text.len() > MAX_MANIFEST_SIZE {
        return Err(vec![ManifestError::TooLarge { size: text.len() }]);
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|error| vec![syntax(&error)])?;
    let (resources, mut mistakes) = read_documents(documents, mode);
    if mistakes.is_empty() {
        return Ok(resources);
    }
    // Lines are looked up in a second pass, which a correct manifest never pays for.
    let lines: Vec<Spanned<Lines>> =
        serde_saphyr::from_multiple_with_options(text, options()).unwrap_or_default();
    if mistakes.iter().any(Mistake::wants_text) {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple_with_options(text, options()).unwrap_or_default();
        let (resources, fewer) = read_again(documents, &lines, text, mode, mistakes);
        if fewer.is_empty() {
            return Ok(resources);
        }
        mistakes = fewer;
    }
    let mut found: Vec<_> = mistakes
        .into_iter()
        .map(|Mistake { index, place, subject, error }| {
            (index + 1, lines.get(index).map(|lines| line_of(lines, &place)), subject, error)
        })
        .collect();
    found.sort_by_key(|(document, line, ..)| (*document, *line));
    let errors = found.into_iter().map(|(document, line, subject, error)| {
        ManifestError::Resource { document, line, subject, error }
    });
    Err(errors.collect())
}

/// Something wrong in the document of this index.
struct Mistake {
    index: usize,
    place: String,
    subject: String,
    error: FieldError,
}

impl Mistake {
    /// Whether something else than a text was found where one is expected.
    fn wants_text(&self) -> bool {
        self.error.message.ends_with("expected a string")
    }
}

fn read_documents(documents: Vec<Value>, mode: Mode) -> (Vec<AnyResource>, Vec<Mistake>) {
    let (mut resources, mut mistakes) = (Vec::new(), Vec::new());
    for (index, document) in documents.into_iter().enumerate() {
        let mut items = Vec::new();
        flatten(document, String::new(), &mut items);
        for (place, value) in items {
            let subject = subject(&value);
            match AnyResource::from_value(value, mode) {
                Ok(resource) => resources.push(resource),
                Err(errors) => mistakes.extend(errors.into_iter().map(|error| {
                    let place = format!("{place}.{}", error.path);
                    Mistake { index, place, subject: subject.clone(), error }
                })),
            }
        }
    }
    (resources, mistakes)
}

/// Reads documents in which `mistakes` were found, with bare words as texts where that is clear.
fn read_again(
    mut documents: Vec<Value>,
    lines: &[Spanned<Lines>],
    text: &str,
    mode: Mode,
    mistakes: Vec<Mistake>,
) -> (Vec<AnyResource>, Vec<Mistake>) {
    let mut doubtful = Vec::new();
    for mut mistake in mistakes.into_iter().filter(Mistake::wants_text) {
        let Mistake { index, place, .. } = &mistake;
        let (document, lines) = (documents.get_mut(*index), lines.get(*index));
        let word = document
            .zip(lines)
            .and_then(|(document, lines)| words::take(document, lines, place, text));
        if let Some(Word::Doubtful(advice)) = word {
            mistake.error.message = advice;
            doubtful.push(mistake);
        }
    }
    let (resources, mut mistakes) = read_documents(documents, mode);
    for mistake in &mut mistakes {
        let same =
            |known: &&Mistake| (known.index, &known.place) == (mistake.index, &mistake.place);
        if let Some(known) = doubtful.iter().find(same) {
            mistake.error = known.error.clone();
        }
    }
    (resources, mistakes)
}

/// Writes a value as kubectl would: block style, keys sorted.
#[must_use]
pub fn to_yaml(value: &impl Serialize) -> String {
    let mut value = serde_json::to_value(value).expect("resource types serialise to JSON");
    value.sort_all_objects();
    let options = serde_saphyr::ser_options! {
        folded_wrap_chars: usize::MAX,
        min_fold_chars: usize::MAX,
    };
    serde_saphyr::to_string_with_options(&value, options).expect("JSON values are YAML values")
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_MANIFEST_DEPTH,
            max_documents: 100_000,
            max_nodes: 4_000_000,
            max_events: 10_000_000,
        },
    }
}

fn syntax(error: &serde_saphyr::Error) -> ManifestError {
    let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let message = if text.contains("budget breached") || text.contains("recursion limit") {
        format!("nested deeper than {MAX_MANIFEST_DEPTH} levels, or too many values")
    } else if text.starts_with("duplicate mapping key") {
        let key = text.split(", set ").next().unwrap_or_default();
        format!("{key}; remove one of the two")
    } else {
        text.to_owned()
    };
    ManifestError::Syntax { line, column, message }
}

/// Takes lists apart; each resource comes with its place in the document.
fn flatten(value: Value, place: String, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Null => {}
        Value::Array(items) => {
            for (index, item) in items.into_iter().enumerate() {
                flatten(item, format!("{place}[{index}]"), out);
            }
        }
        Value::Object(mut list) => match list_kind(&list) {
            Some(kind) => {
                let Some(Value::Array(items)) = list.shift_remove("items") else { return };
                for (index, mut item) in items.into_iter().enumerate() {
                    if let (Some(kind), Value::Object(item)) = (kind, &mut item) {
                        item.entry("kind").or_insert_with(|| kind.as_str().into());
                        item.entry("apiVersion").or_insert_with(|| API_VERSION.into());
                    }
                    flatten(item, format!("{place}.items[{index}]"), out);
                }
            }
            None => out.push((place, Value::Object(list))),
        },
        other => out.push((place, other)),
    }
}

/// `Some` for a list: with the kind of its items, unless it may hold any (`kind: List`).
fn list_kind(fields: &Map<String, Value>) -> Option<Option<Kind>> {
    let of = fields.get("kind")?.as_str()?.strip_suffix("List")?;
    if !matches!(fields.get("items"), Some(Value::Array(_) | Value::Null)) {
        return None;
    }
    match Kind::ALL.iter().find(|kind| kind.as_str() == of) {
        Some(kind) => Some(Some(*kind)),
        None => of.is_empty().then_some(None),
    }
}

/// ` (Kind name)`, as far as a document tells.
fn subject(value: &Value) -> String {
    let kind = value["kind"].as_str().unwrap_or_default();
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    match (kind, name) {
        ("", _) => String::new(),
        (kind, "") => format!(" ({kind})"),
        (kind, name) => format!(" ({kind} {name})"),
    }
}
