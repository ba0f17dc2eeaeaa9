//! What is in the kernel's tables, in a form that does not depend on how it came there.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Chains, sets and maps of a table by name, each as sorted text. Rules keep their order.
pub type Dump = BTreeMap<String, String>;

/// Reads a table of family inet of this thread's namespace.
///
/// # Panics
///
/// Without `nft` (Debian package nftables), or if it lists something that is not understood.
#[must_use]
pub fn table(name: &str) -> Dump {
    let output = Command::new("nft").args(["-j", "list", "table", "inet", name]).output();
    let output = output.expect("nft is needed: apt-get install nftables");
    assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut dump = Dump::new();
    for object in listed["nftables"].as_array().expect("a list") {
        let (kind, object) = object.as_object().and_then(|one| one.iter().next()).expect("one");
        let mut object = object.clone();
        settle(&mut object);
        let name = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "metainfo" => {}
            // Rules come after their chain, in order.
            "rule" => {
                let text = dump.entry(format!("chain {}", name("chain"))).or_default();
                text.push_str(&object["expr"].to_string());
                text.push('\n');
            }
            "chain" | "set" | "map" | "table" | "limit" | "counter" => {
                dump.insert(format!("{kind} {}", name("name")), format!("{object}\n"));
            }
            other => panic!("nft lists a {other}"),
        }
    }
    dump
}

/// Takes out what is another each time: handles and counts. Elements of sets are sorted.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("handle");
            if let Some(counter) = fields.get_mut("counter") {
                *counter = Value::Null;
            }
            fields.values_mut().for_each(settle);
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                elements.sort_by_key(ToString::to_string);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(settle),
        _ => {}
    }
}

/// In what two dumps differ; empty if in nothing.
#[must_use]
pub fn difference(expected: &Dump, found: &Dump) -> String {
    let names: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differ = names.into_iter().filter(|name| expected.get(*name) != found.get(*name));
    differ
        .map(|name| {
            let text = |dump: &Dump| dump.get(name).map_or("(missing)", String::as_str).to_owned();
            format!("{name}\n expected: {}\n found:    {}\n", text(expected), text(found))
        })
        .collect()
}
