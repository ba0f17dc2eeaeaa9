//! Differences of two texts, as `diff -u` shows them.

use super::colour::Colour;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// Most edits that are looked for; texts that differ more are shown one after the other.
const MAX_EDITS: usize = 4_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Same(usize, usize),
    Old(usize),
    New(usize),
}

/// The hunks between `old` and `new`, without a heading; empty if they are the same.
pub(crate) fn unified(old: &str, new: &str, colour: Colour) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let edits = edits(&old, &new);
    let mut out = String::new();
    let changes: Vec<usize> =
        (0..edits.len()).filter(|at| !matches!(edits[*at], Edit::Same(..))).collect();
    let mut rest = changes.as_slice();
    while let Some((&first, _)) = rest.split_first() {
        // Changes that are near each other share a hunk.
        let mut count = 1;
        while count < rest.len() && rest[count] - rest[count - 1] <= 2 * CONTEXT {
            count += 1;
        }
        let last = rest[count - 1];
        rest = &rest[count..];
        let span = first.saturating_sub(CONTEXT)..(last + CONTEXT + 1).min(edits.len());
        out.push_str(&hunk(&edits, span, &old, &new, colour));
    }
    out
}

fn hunk(
    edits: &[Edit],
    span: std::ops::Range<usize>,
    old: &[&str],
    new: &[&str],
    colour: Colour,
) -> String {
    let before = &edits[..span.start];
    let of = |edits: &[Edit], skip: fn(&Edit) -> bool| edits.iter().filter(|e| !skip(e)).count();
    let is_new: fn(&Edit) -> bool = |edit| matches!(edit, Edit::New(_));
    let is_old: fn(&Edit) -> bool = |edit| matches!(edit, Edit::Old(_));
    let inside = &edits[span.clone()];
    let range = |start: usize, count: usize| {
        // The line before, for a hunk that has none of this side.
        let start = if count == 0 { start } else { start + 1 };
        if count == 1 { start.to_string() } else { format!("{start},{count}") }
    };
    let heading = format!(
        "@@ -{} +{} @@",
        range(of(before, is_new), of(inside, is_new)),
        range(of(before, is_old), of(inside, is_old))
    );
    let mut out = format!("{}\n", colour.cyan(&heading));
    for edit in inside {
        match edit {
            Edit::Same(at, _) => out.push_str(&format!(" {}\n", old[*at])),
            Edit::Old(at) => {
                out.push_str(&colour.red(&format!("-{}", old[*at])));
                out.push('\n');
            }
            Edit::New(at) => {
                out.push_str(&colour.green(&format!("+{}", new[*at])));
                out.push('\n');
            }
        }
    }
    out
}

/// The shortest way from `old` to `new` (Myers' greedy algorithm).
fn edits(old: &[&str], new: &[&str]) -> Vec<Edit> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let end = old[start..].iter().rev().zip(new[start..].iter().rev());
    let end = end.take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[start..old.len() - end], &new[start..new.len() - end]);
    let mut all: Vec<Edit> = (0..start).map(|at| Edit::Same(at, at)).collect();
    all.extend(middle(a, b).into_iter().map(|edit| match edit {
        Edit::Same(x, y) => Edit::Same(x + start, y + start),
        Edit::Old(x) => Edit::Old(x + start),
        Edit::New(y) => Edit::New(y + start),
    }));
    all.extend((0..end).map(|at| Edit::Same(old.len() - end + at, new.len() - end + at)));
    all
}

fn middle(a: &[&str], b: &[&str]) -> Vec<Edit> {
    let limit = (a.len() + b.len()).min(MAX_EDITS);
    // Furthest x on each diagonal k = x - y; kept per step, to find the way back.
    let mut furthest = vec![0_usize; 2 * limit + 3];
    let at = |k: isize| usize::try_from(k + limit as isize + 1).unwrap_or_default();
    let mut trace: Vec<Vec<usize>> = Vec::new();
    for step in 0..=limit as isize {
        trace.push(furthest.clone());
        for k in (-step..=step).step_by(2) {
            let down = k == -step || (k != step && furthest[at(k - 1)] < furthest[at(k + 1)]);
            let mut x = if down { furthest[at(k + 1)] } else { furthest[at(k - 1)] + 1 };
            let mut y = usize::try_from(x as isize - k).unwrap_or_default();
            while x < a.len() && y < b.len() && a[x] == b[y] {
                (x, y) = (x + 1, y + 1);
            }
            furthest[at(k)] = x;
            if x >= a.len() && y >= b.len() {
                return way_back(&trace, a.len(), b.len(), at);
            }
        }
    }
    (0..a.len()).map(Edit::Old).chain((0..b.len()).map(Edit::New)).collect()
}

fn way_back(
    trace: &[Vec<usize>],
    mut x: usize,
    mut y: usize,
    at: impl Fn(isize) -> usize,
) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (step, furthest) in trace.iter().enumerate().rev() {
        let (k, step) = (x as isize - y as isize, step as isize);
        let down = k == -step || (k != step && furthest[at(k - 1)] < furthest[at(k + 1)]);
        let from_k = if down { k + 1 } else { k - 1 };
        let from_x = if step == 0 { 0 } else { furthest[at(from_k)] };
        let from_y = if step == 0 {
            0
        } else {
            usize::try_from(from_x as isize - from_k).unwrap_or_default()
        };
        while x > from_x && y > from_y {
            (x, y) = (x - 1, y - 1);
            edits.push(Edit::Same(x, y));
        }
        if step > 0 {
            edits.push(if down { Edit::New(from_y) } else { Edit::Old(from_x) });
            (x, y) = (from_x, from_y);
        }
    }
    edits.reverse();
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: &str, new: &str, expected: &str) {
        let lines = |text: &str| text.replace(' ', "\n");
        assert_eq!(unified(&lines(old), &lines(new), Colour::Never), expected);
    }

    #[test]
    fn hunks_are_those_of_diff() {
        check("a b c", "a b c", "");
        check("", "a b", "@@ -0,0 +1,2 @@\n+a\n+b\n");
        check("a", "", "@@ -1 +0,0 @@\n-a\n");
        check("a b c", "a x c", "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n");
        check(
            "1 2 3 4 5 6 7 8 9 10 11 12",
            "0 1 2 3 4 5 6 7 8 9 10 12",
            "@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -8,5 +9,4 @@\n 8\n 9\n 10\n-11\n 12\n",
        );
    }

    #[test]
    fn every_way_leads_from_old_to_new() {
        // Every pair of short texts over two letters.
        let texts: Vec<Vec<&str>> = (0..64_u32)
            .map(|bits| (0..bits % 7).map(|n| if bits >> n & 1 == 0 { "a" } else { "b" }).collect())
            .collect();
        for old in &texts {
            for new in &texts {
                let edits = edits(old, new);
                let side = |skip: fn(&Edit) -> Option<usize>| -> Vec<usize> {
                    edits.iter().filter_map(skip).collect()
                };
                let olds = side(|e| match e {
                    Edit::Same(x, _) | Edit::Old(x) => Some(*x),
                    Edit::New(_) => None,
                });
                let news = side(|e| match e {
                    Edit::Same(_, y) | Edit::New(y) => Some(*y),
                    Edit::Old(_) => None,
                });
                assert_eq!(olds, (0..old.len()).collect::<Vec<_>>(), "{old:?} {new:?}");
                assert_eq!(news, (0..new.len()).collect::<Vec<_>>(), "{old:?} {new:?}");
                for edit in &edits {
                    if let Edit::Same(x, y) = edit {
                        assert_eq!(old[*x], new[*y]);
                    }
                }
            }
        }
    }
}
