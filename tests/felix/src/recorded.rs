//! What Felix said about a story, written down.
//!
//! A recording is the story itself, with `! ` before lines that upstream refused, and after each
//! `compare` what had changed in Felix' [`State`]: `= KEY: TEXT`, or
//! `= KEY` for what was gone. Lines with `#` are remarks.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::canonical::State;
use crate::play::Outcome;
use crate::story::{Event, Line, Story};

/// Which Felix `graph/` is made of, and so the recordings.
pub const FELIX: &str = "Felix v3.31.0 (github.com/projectcalico/calico, commit b1f3c43f8437)";

/// Where the recordings are.
#[must_use]
pub fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "cases"].iter().collect()
}

/// Writes down what Felix made of a story; `remark` says which Felix.
#[must_use]
pub fn write(remark: &str, story: &Story, felix: &Outcome) -> String {
    let mut out = format!("# {remark}\n");
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("strings grow");
    let mut states = felix.states.iter();
    let mut before = &State::default();
    for (number, told) in story.lines.iter().enumerate() {
        let refused = if felix.refused.contains(&number) { "! " } else { "" };
        line(format_args!("{refused}{}", told.text));
        if told.event == Event::Compare {
            let Some(now) = states.next() else { break };
            for (key, text) in now.0.iter().filter(|(key, text)| before.0.get(*key) != Some(text)) {
                line(format_args!("= {key}: {text}"));
            }
            for key in before.0.keys().filter(|key| !now.0.contains_key(*key)) {
                line(format_args!("= {key}"));
            }
            before = now;
        }
    }
    out
}

/// Reads what was written down.
///
/// # Errors
///
/// The line that makes no sense.
pub fn read(text: &str) -> Result<(Story, Outcome), String> {
    let (mut story, mut felix) = (Story::default(), Outcome::default());
    for text in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(change) = text.strip_prefix("= ") {
            let state = felix.states.last_mut().ok_or_else(|| format!("before compare: {text}"))?;
            match change.split_once(": ").or_else(|| Some((change.strip_suffix(':')?, ""))) {
                Some((key, value)) => drop(state.0.insert(key.to_owned(), value.to_owned())),
                None => drop(state.0.remove(change)),
            }
            continue;
        }
        let told = text.strip_prefix("! ");
        if told.is_some() {
            felix.refused.insert(story.lines.len());
        }
        let told = told.unwrap_or(text);
        let line: Line = told.parse().map_err(|error| format!("{text}\n  {error}"))?;
        if line.event == Event::Compare {
            felix.states.push(felix.states.last().cloned().unwrap_or_default());
        }
        story.lines.push(line);
    }
    Ok((story, felix))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let story: Story = "Tier t {} {}\ncompare\ndelete Tier t\ncompare\n".parse().unwrap();
        let state = |entries: &[(&str, &str)]| {
            let entry = |(key, text): &(&str, &str)| ((*key).to_owned(), (*text).to_owned());
            State(entries.iter().map(entry).collect::<BTreeMap<_, _>>())
        };
        let states = vec![
            state(&[
                ("policy a", "in allow; out deny"),
                ("set #1", ""),
                ("set #2", "fd00::/8 ::1"),
            ]),
            state(&[("policy a", ""), ("set #2", "fd00::/8 ::1")]),
        ];
        let felix = Outcome { states, refused: BTreeSet::from([0]) };
        let text = write("a remark", &story, &felix);
        assert_eq!(read(&text), Ok((story, felix)), "{text}");
    }
}
