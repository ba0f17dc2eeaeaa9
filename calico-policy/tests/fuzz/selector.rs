//! A selector, as anybody who may write a policy writes it.

use calico_core::selector::{MAX_LENGTH, Selector, SelectorError};

/// Reads the text. True if it is a selector.
pub(crate) fn run(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let selector: Selector = match text.parse() {
        Ok(selector) => selector,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let canonical = selector.to_string();
    match canonical.parse::<Selector>() {
        Ok(again) => {
            assert_eq!(again, selector, "{text}");
            assert_eq!(again.to_string(), canonical, "{text}");
            assert_eq!(again.unique_id(), selector.unique_id());
        }
        // It is longer and has more parentheses than what it was read from.
        Err(SelectorError::TooDeep { .. }) => {}
        Err(SelectorError::TooLong { .. }) => assert!(canonical.len() > MAX_LENGTH),
        Err(error) => panic!("{text:?} is {canonical:?}, which is none: {error}"),
    }
    for labels in labels(&text) {
        check(&selector, &labels);
    }
    true
}

/// Its words as names, with what stands in quotes as values; and no label at all.
fn labels(text: &str) -> Vec<Vec<(&str, &str)>> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let names: Vec<&str> = text.split(|c| !is_name(c)).filter(|name| !name.is_empty()).collect();
    let values = text.split(['\'', '"']).skip(1).step_by(2).chain([""]).take(8);
    let mut found = vec![Vec::new()];
    for value in values {
        for count in 1..=names.len().min(4) {
            let some = names.iter().take(count).map(|name| (*name, value));
            let mut labels: Vec<(&str, &str)> = some.collect();
            labels.sort_unstable();
            labels.dedup();
            found.push(labels);
        }
    }
    found
}

/// What the index believes of a selector is true of everything that it matches.
fn check(selector: &Selector, labels: &[(&str, &str)]) {
    let matches = selector.matches(labels);
    assert_eq!(selector.expr().clone().negate().matches(labels), !matches, "{selector}");
    if !matches {
        return;
    }
    for (name, restriction) in selector.label_restrictions() {
        let value = labels.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        assert!(!restriction.is_impossible(), "{selector} matches {labels:?}");
        assert!(!restriction.present || value.is_some(), "{selector} matches {labels:?}");
        assert!(!restriction.absent || value.is_none(), "{selector} matches {labels:?}");
        let among = restriction.one_of.is_none_or(|them| value.is_some_and(|v| them.contains(v)));
        assert!(among, "{selector} matches {labels:?}");
    }
}
