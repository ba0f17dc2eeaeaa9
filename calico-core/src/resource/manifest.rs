//! Manifests: YAML or JSON files with one or more resources.

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

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
    #[error("the manifest has {size} bytes; split it: at most {MAX_MANIFEST_SIZE} are read")]
    TooLarge {
        /// Its size in bytes.
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
    let (mut resources, mut mistakes) = (Vec::new(), Vec::new());
    for (index, document) in documents.into_iter().enumerate() {
        let mut items = Vec::new();
        flatten(document, String::new(), &mut items);
        for (place, value) in items {
            let subject = subject(&value);
            match AnyResource::from_value(value, mode) {
                Ok(resource) => resources.push(resource),
                Err(errors) => {
                    let place = |e: &FieldError| format!("{place}.{}", e.path);
                    mistakes
                        .extend(errors.into_iter().map(|e| (index, place(&e), subject.clone(), e)));
                }
            }
        }
    }
    if mistakes.is_empty() {
        return Ok(resources);
    }
    // Lines are looked up in a second pass, which a correct manifest never pays for.
    let lines: Vec<Spanned<Lines>> =
        serde_saphyr::from_multiple_with_options(text, options()).unwrap_or_default();
    let errors = mistakes.into_iter().map(|(index, place, subject, error)| {
        let line = lines.get(index).map(|lines| line_of(lines, &place));
        ManifestError::Resource { document: index + 1, line, subject, error }
    });
    Err(errors.collect())
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

/// The shape of a document: only its lines are of interest.
enum Lines {
    Map(Vec<(String, Spanned<Self>)>),
    List(Vec<Spanned<Self>>),
    Scalar,
}

/// The line of `place`, or of the nearest thing around it that exists.
fn line_of(node: &Spanned<Lines>, place: &str) -> u64 {
    let line = node.referenced.line();
    let place = place.strip_prefix('.').unwrap_or(place);
    let inner = match &node.value {
        Lines::Map(entries) => entries
            .iter()
            .filter_map(|(key, value)| Some((place.strip_prefix(key.as_str())?, value)))
            .filter(|(rest, _)| rest.is_empty() || rest.starts_with(['.', '[']))
            .min_by_key(|(rest, _)| rest.len()),
        Lines::List(items) => place.strip_prefix('[').and_then(|rest| {
            let (index, rest) = rest.split_once(']')?;
            Some((rest, items.get(index.parse::<usize>().ok()?)?))
        }),
        Lines::Scalar => None,
    };
    inner.map_or(line, |(rest, value)| line_of(value, rest))
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LinesVisitor)
    }
}

struct LinesVisitor;

macro_rules! scalars {
    ($($visit:ident: $ty:ty),*) => {
        $(fn $visit<E>(self, _: $ty) -> Result<Lines, E> { Ok(Lines::Scalar) })*
    };
}

impl<'de> Visitor<'de> for LinesVisitor {
    type Value = Lines;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lines, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Lines::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Lines, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Lines::List(items))
    }

    fn visit_unit<E>(self) -> Result<Lines, E> {
        Ok(Lines::Scalar)
    }

    fn visit_none<E>(self) -> Result<Lines, E> {
        Ok(Lines::Scalar)
    }

    scalars!(visit_str: &str, visit_bool: bool, visit_u64: u64, visit_i64: i64, visit_f64: f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[&str], &[&str]>) {
        match (read_manifest(text, Mode::Strict), expected) {
            (Ok(found), Ok(names)) => {
                let found: Vec<&str> = found.iter().map(AnyResource::name).collect();
                assert_eq!(found, names, "{text}");
            }
            (Err(found), Err(errors)) => {
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                assert_eq!(found, errors, "{text}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    const TIER: &str = "apiVersion: projectcalico.org/v3, kind: Tier";

    #[test]
    fn every_way_to_write_several_resources() {
        let tier = |name: &str| format!("{{{TIER}, metadata: {{name: {name}}}, spec: {{}}}}");
        let (a, b, c) = (tier("a"), tier("b"), tier("c"));
        check("", Ok(&[]));
        check("# only a comment\n---\n---\n", Ok(&[]));
        check(&a, Ok(&["a"]));
        check(&format!("---\n{a}\n---\n# none\n---\n[{b}, {c}]\n"), Ok(&["a", "b", "c"]));
        let list = "apiVersion: projectcalico.org/v3\nkind: TierList\nmetadata: {}\nitems:\n";
        check(&format!("{list}- metadata: {{name: x}}\n- {a}\n"), Ok(&["x", "a"]));
        check(&format!("apiVersion: v1\nkind: List\nitems: [{a}]\n"), Ok(&["a"]));
        let json = r#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"j"}}"#;
        check(json, Ok(&["j"]));
    }

    #[test]
    fn mistakes_are_all_reported_with_their_lines() {
        check(
            "apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: main
spec:
  cidr: 10.0.0.0/40
  natOutgoin: true
---
- kind: Tier
  apiVersion: projectcalico.org/v3
  metadata: {name: t, labels: {a.b/c: 1}}
- kind: Gadget
  apiVersion: projectcalico.org/v3
- 7
",
            Err(&[
                "document 1, line 6 (IPPool main): spec.cidr: the text \"10.0.0.0/40\" is no CIDR, such as 10.0.0.0/16 or fd00::/64",
                "document 1, line 7 (IPPool main): spec.natOutgoin: unknown field; \
                 did you mean `natOutgoing`?",
                "document 2, line 11 (Tier t): metadata.labels.a.b/c: \
                 invalid type: integer `1`, expected a string",
                "document 2, line 12 (Gadget): kind: \"Gadget\" is no kind of projectcalico.org/v3",
                "document 2, line 14: document: \
                 expected a map with kind and metadata, found the number 7",
            ]),
        );
        check(
            "kind: Tier\nkind: Tier\n",
            Err(&["line 2, column 1: duplicate mapping key: kind; remove one of the two"]),
        );
        check("a: [1\nb: 2\n", Err(&["line 2, column 2: illegal placement of ':' indicator"]));
    }

    #[test]
    fn bounds() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        check(&deep(MAX_MANIFEST_DEPTH), Ok(&[]));
        for depth in [MAX_MANIFEST_DEPTH + 1, 10_000] {
            let errors = read_manifest(&deep(depth), Mode::Strict).unwrap_err();
            assert!(errors[0].to_string().contains("nested deeper than 64"), "{errors:?}");
        }
        let size = MAX_MANIFEST_SIZE + 1;
        assert_eq!(
            read_manifest(&" ".repeat(size), Mode::Strict),
            Err(vec![ManifestError::TooLarge { size }])
        );
    }

    #[test]
    fn yaml_is_written_in_block_style_without_needless_quotes() {
        let yaml = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  labels:
    number: \"12\"
    word: \"true\"
  name: web
spec:
  ingress:
  - action: Allow
    destination:
      ports:
      - 80
      - 90:100
      - http
    protocol: TCP
    source:
      nets:
      - 10.0.0.0/8
      - fd00::/8
      selector: app == 'web' && has(a-rather-long-label-name-to-make-the-line-exceed-eighty-columns)
  order: 100
  selector: all()
";
        let read = read_manifest(yaml, Mode::Strict).unwrap();
        assert_eq!(to_yaml(&read[0].normalised().unwrap()), yaml);
    }
}
