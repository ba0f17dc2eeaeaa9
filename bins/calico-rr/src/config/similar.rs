//! Words that somebody may have meant.

/// The word that somebody may have meant.
pub(crate) fn nearest<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    let distance = |other: &&'w str| (distance(word, other), *other);
    let (distance, nearest) = words.iter().map(distance).min()?;
    (distance <= 2 && distance < word.len()).then_some(nearest)
}

/// How many letters to change, add or leave out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        let check = |word: &str, expected| {
            assert_eq!(nearest(word, &["listen", "local_as", "as"]), expected, "{word}");
        };
        check("listne", Some("listen"));
        check("lisen", Some("listen"));
        check("localas", Some("local_as"));
        check("hold_time", None);
        check("x", None);
        assert_eq!(nearest("x", &[]), None);
    }
}
