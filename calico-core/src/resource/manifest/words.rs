//! Bare words that YAML takes for numbers or booleans, where a text is wanted.
//!
//! Upstream's tools turn them into text: `version: 1` of a label is `"1"`, but `1.10` is `"1.1"`,
//! `010` is `"8"`, and `y`, `yes` and `on` are `"true"`. Here a word becomes a text if that is the
//! word itself; of any other it is said what to write.

use serde_json::Value;
use serde_saphyr::Spanned;

use super::lines::{Lines, Step, step};

/// What can be done about a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It was made the text that it looks like.
    Text,
    /// It means something else than it looks like; what to do.
    Doubtful(String),
}

/// Looks at the word at `place` of a document, which is a part of `source`.
pub(super) fn take(
    document: &mut Value,
    lines: &Spanned<Lines>,
    place: &str,
    source: &str,
) -> Option<Word> {
    if place.is_empty() {
        if !matches!(document, Value::Bool(_) | Value::Number(_)) {
            return None;
        }
        let span = lines.defined.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let length = usize::try_from(span.byte_len()?).ok()?;
        let written = source.get(start..start.checked_add(length)?)?.trim();
        let meant = document.to_string();
        if written != meant {
            return Some(Word::Doubtful(format!(
                "a text is expected, and YAML takes {written} for {meant}; write \"{written}\""
            )));
        }
        *document = Value::String(meant);
        return Some(Word::Text);
    }
    let (way, lines, rest) = step(lines, place)?;
    let inner = match way {
        Step::Key(key) => document.get_mut(key)?,
        Step::Index(index) => document.get_mut(index)?,
    };
    take(inner, lines, rest, source)
}
