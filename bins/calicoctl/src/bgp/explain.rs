//! Why a destination is routed as it is, and who hears of it.

use calico_control::{Attributes, Explanation, Path, Told};

use super::tables::{from, hop, numbers};
use crate::output::table::Table;

/// More neighbors with the same answer are told of together.
const MANY: usize = 8;

/// The answer in words.
pub(super) fn text(explanation: &Explanation) -> String {
    let route = &explanation.route;
    let mut text = route.prefix.to_string();
    if explanation.asked != route.prefix {
        text.push_str(&format!(" (the longest prefix that {} is in)", explanation.asked));
    }
    text.push_str("\n\nPaths, best first:\n");
    let mut table = Table::new(&["FROM", "NEXT HOP", "PREF", "MED", "AS PATH", "ORIGIN", "WHY"]);
    let best = route.paths.first().filter(|path| path.best);
    for path in &route.paths {
        let mut row = vec![from(path), hop(&path.attributes)];
        row.extend(numbers(&path.attributes));
        row.push(path.attributes.origin.clone());
        row.push(why(path, best));
        table.rows.push(row);
    }
    text.push_str(&table.aligned());
    let (told, untold): (Vec<&Told>, Vec<&Told>) =
        explanation.told.iter().partition(|told| told.attributes.is_some());
    if !told.is_empty() {
        text.push_str("\nTold to:\n");
        let mut table = Table::new(&["NEIGHBOR", "NEXT HOP", "PREF", "MED", "AS PATH", ""]);
        let same = |a: &Told, b: &Told| a.attributes == b.attributes && a.pending == b.pending;
        for (neighbor, told) in gathered(&told, same) {
            let Some(attributes) = &told.attributes else { continue };
            let mut row = vec![neighbor, hop(attributes)];
            row.extend(numbers(attributes));
            row.push(if told.pending { "still to be sent" } else { "" }.to_owned());
            table.rows.push(row);
        }
        text.push_str(&table.aligned());
    }
    if !untold.is_empty() {
        text.push_str("\nNot told to:\n");
        let mut table = Table::new(&["NEIGHBOR", "WHY"]);
        for (neighbor, told) in gathered(&untold, |a, b| a.withheld == b.withheld) {
            table.rows.push(vec![neighbor, told.withheld.clone().unwrap_or_default()]);
        }
        text.push_str(&table.aligned());
    }
    if explanation.told.is_empty() {
        text.push_str("\nThere is no neighbor to tell.\n");
    }
    text
}

/// The neighbors, of which many that are the same are one row.
fn gathered<'t>(all: &[&'t Told], same: impl Fn(&Told, &Told) -> bool) -> Vec<(String, &'t Told)> {
    let mut groups: Vec<Vec<&Told>> = Vec::new();
    for told in all {
        match groups.iter_mut().find(|group| same(group[0], told)) {
            Some(group) => group.push(told),
            None => groups.push(vec![told]),
        }
    }
    let mut rows = Vec::new();
    for group in groups {
        if group.len() > MANY {
            let name = format!("{} and {} others", group[0].address, group.len() - 1);
            rows.push((name, group[0]));
        } else {
            rows.extend(group.into_iter().map(|told| (told.address.to_string(), told)));
        }
    }
    rows
}

fn why(path: &Path, best: Option<&Path>) -> String {
    let stale = if path.stale { " (stale: its peer restarts)" } else { "" };
    if let Some(refused) = &path.refused {
        return format!("not used: {refused}{stale}");
    }
    let step = &path.decided_by;
    match best {
        _ if path.best && step == "only path" => format!("best: there is no other{stale}"),
        _ if path.best => format!("best by {step}{stale}"),
        Some(best) => {
            let values = compared(step, &path.attributes, &best.attributes);
            let equal = if path.used { "shares traffic; " } else { "" };
            format!("{equal}behind the best by {step}{values}{stale}")
        }
        None => format!("{step}{stale}"),
    }
}

/// What was compared in a step of the decision, if it is to be seen in the attributes.
fn compared(step: &str, this: &Attributes, best: &Attributes) -> String {
    let pair = |of: fn(&Attributes) -> u64| Some((of(this), of(best)));
    let values = match step {
        // RFC 4271 leaves the default to the speaker; 100 is everybody's.
        "local preference" => pair(|a| a.local_pref.unwrap_or(100).into()),
        "AS path length" => pair(|a| hops(&a.as_path)),
        "multi-exit discriminator" => pair(|a| a.med.unwrap_or(0).into()),
        "cluster list length" => pair(|a| a.cluster_list.len() as u64),
        _ => None,
    };
    match values {
        Some((this, best)) => format!(" ({this} against {best})"),
        None if step == "origin" => format!(" ({} against {})", this.origin, best.origin),
        None => String::new(),
    }
}

/// Length of an AS path: a set counts as one, confederations do not count (RFC 4271, section
/// 9.1.2.2; RFC 5065, section 5.3).
fn hops(path: &str) -> u64 {
    let mut count = 0;
    let (mut in_set, mut in_confederation) = (false, false);
    for word in path.split_whitespace() {
        in_confederation |= word.starts_with(['(', '[']);
        let opens = word.starts_with('{');
        if !in_confederation && (!in_set || opens) {
            count += 1;
        }
        in_set |= opens;
        in_set &= !word.ends_with('}');
        in_confederation &= !word.ends_with([')', ']']);
    }
    count
}

#[cfg(test)]
mod tests {
    use calico_control::Route;

    use super::*;

    fn path(from: u8, local_pref: u32) -> Path {
        Path {
            from: Some([192, 0, 2, from].into()),
            path_id: None,
            attributes: Attributes {
                next_hop: Some([10, 0, 0, from].into()),
                as_path: "65001".to_owned(),
                origin: "igp".to_owned(),
                local_pref: Some(local_pref),
                ..Attributes::default()
            },
            best: false,
            used: false,
            stale: false,
            decided_by: "local preference".to_owned(),
            refused: None,
        }
    }

    #[test]
    fn a_destination_with_everything() {
        let told = |n: u8, withheld: Option<&str>| Told {
            address: [192, 0, 2, n].into(),
            port: 179,
            attributes: withheld.is_none().then(|| path(1, 200).attributes),
            withheld: withheld.map(str::to_owned),
            pending: n == 3,
        };
        let refused = Some("rejected by the import policy: filter blocks, rule 2".to_owned());
        let found = text(&Explanation {
            asked: "10.65.0.5/32".parse().unwrap(),
            route: Route {
                prefix: "10.65.0.0/26".parse().unwrap(),
                paths: vec![
                    Path { best: true, used: true, ..path(1, 200) },
                    path(2, 100),
                    Path { refused, ..path(4, 300) },
                ],
            },
            told: vec![
                told(1, Some("the peer told the route itself")),
                told(2, None),
                told(3, None),
            ],
        });
        let expected = "\
10.65.0.0/26 (the longest prefix that 10.65.0.5/32 is in)

Paths, best first:
FROM        NEXT HOP   PREF   MED   AS PATH   ORIGIN   WHY
192.0.2.1   10.0.0.1   200    -     65001     igp      best by local preference
192.0.2.2   10.0.0.2   100    -     65001     igp      \
behind the best by local preference (100 against 200)
192.0.2.4   10.0.0.4   300    -     65001     igp      \
not used: rejected by the import policy: filter blocks, rule 2

Told to:
NEIGHBOR    NEXT HOP   PREF   MED   AS PATH
192.0.2.2   10.0.0.1   200    -     65001
192.0.2.3   10.0.0.1   200    -     65001     still to be sent

Not told to:
NEIGHBOR    WHY
192.0.2.1   the peer told the route itself
";
        assert_eq!(found, expected);
    }

    #[test]
    fn many_neighbors_with_one_answer_are_one_row() {
        let told = |n: u8| Told {
            address: [192, 0, 2, n].into(),
            port: 179,
            attributes: None,
            withheld: Some(if n == 5 { "b" } else { "a" }.to_owned()),
            pending: false,
        };
        let all: Vec<Told> = (0..20).map(told).collect();
        let all: Vec<&Told> = all.iter().collect();
        let names: Vec<String> =
            gathered(&all, |a, b| a.withheld == b.withheld).into_iter().map(|row| row.0).collect();
        assert_eq!(names, ["192.0.2.0 and 18 others", "192.0.2.5"]);
    }

    #[test]
    fn lengths_of_as_paths() {
        let check = |path: &str, expected| assert_eq!(hops(path), expected, "{path}");
        check("", 0);
        check("1 2 3", 3);
        check("1 {2,3} 4", 3);
        check("1 {2 3}", 2);
        check("(5 6) 1", 1);
    }
}
