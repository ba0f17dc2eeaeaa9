//! Groups of options.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Located, Table};
use super::options::Options;
use super::similar::nearest;

/// The groups, each with what it takes over from its own.
pub(super) fn read_groups<'d, 't>(root: &mut Table<'d, 't>) -> BTreeMap<String, Options<'d, 't>> {
    type Raw<'d, 't> = (Options<'d, 't>, Option<Located<'d, 't, String>>);
    let mut raw: BTreeMap<String, Raw<'d, 't>> = BTreeMap::new();
    for (name, mut table) in root.named("group") {
        let group = table.get::<String>("group");
        let options = Options::read(&mut table);
        table.finish();
        raw.insert(name.value, (options, group));
    }
    let resolve = |name: &String| {
        let (mut options, mut next) = raw.get(name)?.clone();
        let mut seen = BTreeSet::from([name.clone()]);
        while let Some(group) = next {
            if !seen.insert(group.value.clone()) {
                group.problem("goes in a circle; leave it out");
                break;
            }
            let Some((more, after)) = raw.get(&group.value) else {
                group.problem(unknown_group(&group.value, raw.keys()));
                break;
            };
            options = options.or(more);
            next = after.clone();
        }
        Some((name.clone(), options))
    };
    raw.keys().filter_map(resolve).collect()
}

pub(super) fn with_group<'d, 't>(
    table: &mut Table<'d, 't>,
    groups: &BTreeMap<String, Options<'d, 't>>,
) -> Options<'d, 't> {
    let options = Options::read(table);
    let Some(name) = table.get::<String>("group") else { return options };
    match groups.get(&name.value) {
        Some(group) => options.or(group),
        None => {
            name.problem(unknown_group(&name.value, groups.keys()));
            options
        }
    }
}

fn unknown_group<'n>(name: &str, names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    match nearest(name, &names) {
        Some(similar) => format!("there is no group {name:?}; did you mean {similar:?}?"),
        None => format!("there is no group {name:?}; write it as [group.{name}]"),
    }
}
