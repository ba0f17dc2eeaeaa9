//! The generated CustomResourceDefinitions: checked in, and the same as upstream's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use calico_core::resource::schema::{CrdGroup, crd, crd_kinds, deploy_files};
use serde_json::Value;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

#[test]
fn the_files_are_up_to_date() {
    let deploy = workspace().join("deploy");
    let mut wrong = Vec::new();
    let mut expected = BTreeSet::new();
    for (path, text) in deploy_files() {
        let path = deploy.join(path);
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            wrong.push(path.display().to_string());
        }
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let read: Value = serde_saphyr::from_str(&text).expect("YAML");
            assert_eq!(read["kind"], "CustomResourceDefinition");
        }
        expected.insert(path);
    }
    for dir in ["crds/v1", "crds/v3", "schemas"] {
        for entry in fs::read_dir(deploy.join(dir)).into_iter().flatten().flatten() {
            if !expected.contains(&entry.path()) {
                wrong.push(format!("{} (nothing generates it)", entry.path().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "run `cargo xtask crds`; out of date:\n  {}", wrong.join("\n  "));
}

#[test]
fn yaml_says_what_was_meant() {
    for kind in crd_kinds() {
        for group in CrdGroup::ALL {
            let crd = crd(kind, group);
            let text = calico_core::resource::to_yaml(&crd);
            let read: Value = serde_saphyr::from_str(&text).expect("YAML");
            assert_eq!(read, crd, "{kind}");
        }
    }
}

/// Keyword by keyword, against the files that upstream publishes.
#[test]
fn upstream_has_the_same() {
    let mut found = Vec::new();
    for (group, directory) in [(CrdGroup::V1, "crd-v1"), (CrdGroup::V3, "crd-v3")] {
        let directory = workspace().join("../shared/reference/upstream-data").join(directory);
        let Ok(files) = fs::read_dir(&directory) else {
            eprintln!(
                "NOT COMPARED: {} is absent; put upstream's CRDs there to compare with them",
                directory.display()
            );
            return;
        };
        let mut theirs = BTreeMap::new();
        for file in files {
            let text = fs::read_to_string(file.expect("an entry").path()).expect("a file");
            let crd: Value = serde_saphyr::from_str(&text).expect("upstream's YAML");
            if crd["spec"]["group"] == group.name() {
                theirs.insert(crd["spec"]["names"]["kind"].to_string(), crd);
            }
        }
        for kind in crd_kinds() {
            let ours = crd(kind, group);
            let name = ours["spec"]["names"]["kind"].to_string();
            match theirs.remove(&name) {
                Some(theirs) => {
                    let at =
                        format!("{directory} {}", name.trim_matches('"'), directory = tag(group));
                    compare(&at, &theirs, &ours, &mut found);
                }
                None => found.push(format!("{} {name}: only here", tag(group))),
            }
        }
        found.extend(theirs.keys().map(|name| format!("{} {name}: only upstream", tag(group))));
    }

    let intended = include_str!("crd_differences.txt");
    let intended: Vec<(&str, &str)> = intended
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" -- ").expect("`pattern -- reason`"))
        .collect();
    let mut used = BTreeSet::new();
    let mut unexplained = Vec::new();
    for difference in &found {
        match intended.iter().find(|(pattern, _)| matches(pattern, difference)) {
            Some((pattern, _)) => {
                used.insert(*pattern);
            }
            None => unexplained.push(difference.as_str()),
        }
    }
    println!("{} differences, {} without a reason", found.len(), unexplained.len());
    let stale: Vec<_> =
        intended.iter().map(|(pattern, _)| *pattern).filter(|p| !used.contains(p)).collect();
    assert!(
        unexplained.is_empty(),
        "differences that crd_differences.txt does not explain:\n  {}",
        unexplained.join("\n  ")
    );
    assert!(stale.is_empty(), "crd_differences.txt explains what is not there: {stale:?}");
}

const fn tag(group: CrdGroup) -> &'static str {
    match group {
        CrdGroup::V1 => "v1",
        CrdGroup::V3 => "v3",
    }
}

/// Where `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (nth, part) in parts.iter().enumerate() {
        if nth + 1 == parts.len() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

fn compare(at: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                // Texts are our own; tools that made upstream's files leave their mark.
                let is_text = key == "description" && !a.get(key).is_some_and(Value::is_object);
                if is_text || key == "annotations" && at.ends_with(".metadata") {
                    continue;
                }
                let at = format!("{at}.{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => compare(&at, a, b, found),
                    (Some(a), None) if is_empty(a) => {}
                    (Some(a), None) => found.push(format!("{at}: upstream {}", short(a))),
                    (None, Some(b)) => found.push(format!("{at}: ours {}", short(b))),
                    (None, None) => {}
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && at.ends_with("versions") => {
            for (a, b) in a.iter().zip(b) {
                compare(at, a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if at.ends_with("required") || at.ends_with("enum") => {
            let set = |list: &[Value]| list.iter().map(Value::to_string).collect::<BTreeSet<_>>();
            let (a, b) = (set(a), set(b));
            found.extend(a.difference(&b).map(|only| format!("{at}: upstream {only}")));
            found.extend(b.difference(&a).map(|only| format!("{at}: ours {only}")));
        }
        (Value::Array(a), Value::Array(b)) if at.ends_with("additionalPrinterColumns") => {
            let bare = |list: &[Value]| {
                let column = |c: &Value| format!("{} {} {}", c["name"], c["jsonPath"], c["type"]);
                list.iter().map(column).collect::<Vec<_>>()
            };
            if bare(a) != bare(b) {
                found.push(format!("{at}: upstream {:?}, ours {:?}", bare(a), bare(b)));
            }
        }
        (a, b) if same(a, b) => {}
        (a, b) => found.push(format!("{at}: upstream {}, ours {}", short(a), short(b))),
    }
}

/// `1` and `1.0` are one number.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some() && a.as_f64() == b.as_f64()
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(100) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
