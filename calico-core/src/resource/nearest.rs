//! "Did you mean ...?"

/// The message for a field nobody knows, with the nearest name that exists.
pub(crate) fn unknown_field<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(key, known) {
        Some(name) => format!("unknown field; did you mean `{name}`?"),
        None => "unknown field; remove it".to_owned(),
    }
}

/// The candidate nearest to `word`, if it is near enough to be a slip: one letter in three, four
/// at most, may differ.
///
/// ```
/// let pods = ["prod/web", "prod/db"];
/// assert_eq!(calico_core::resource::nearest("prod/wbe", pods.into_iter()), Some("prod/web"));
/// assert_eq!(calico_core::resource::nearest("something", pods.into_iter()), None);
/// ```
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let limit = (word.len() / 3).clamp(1, 4);
    candidates
        .map(|name| (distance(&lower, &name.to_ascii_lowercase()), name))
        .filter(|(cost, _)| *cost <= limit)
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, name)| name)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
