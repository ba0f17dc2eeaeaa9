//! The table of allowed dependencies between the workspace's crates.
//!
//! Libraries depend on `calico-core` alone; a program joins them. The table is held against
//! `cargo metadata` by `cargo xtask check-deps` and by a test.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::run::{self, Failure};

/// Who may depend on whom: in production, and in addition in tests, examples and benches.
const ALLOWED: &[Row] = &[
    Row { from: "calico-core", uses: &[], tests_use: &[] },
    Row { from: "calico-datastore", uses: &["calico-core"], tests_use: &["calico-test-servers"] },
    Row { from: "calico-ipam", uses: &["calico-core"], tests_use: &[] },
    Row { from: "calico-policy", uses: &["calico-core"], tests_use: &[] },
    Row { from: "calico-netlink", uses: &["calico-core"], tests_use: &[] },
    Row { from: "calico-bgp", uses: &["calico-core"], tests_use: &[] },
    // Resources on one side, a speaker's configuration on the other: agent and reflector share it.
    Row { from: "calico-peering", uses: &["calico-bgp", "calico-core"], tests_use: &[] },
    // Questions to a running program and their answers; who answers them is its own affair.
    Row { from: "calico-control", uses: &["calico-core"], tests_use: &[] },
    // Health and metrics of any program.
    Row { from: "calico-observe", uses: &[], tests_use: &[] },
    // What the programs with a speaker share.
    Row {
        from: "calico-router",
        uses: &[
            "calico-bgp",
            "calico-control",
            "calico-core",
            "calico-datastore",
            "calico-observe",
            "calico-peering",
        ],
        tests_use: &[],
    },
    Row {
        from: "calico-cni",
        uses: &["calico-core", "calico-datastore", "calico-ipam", "calico-netlink"],
        tests_use: &[],
    },
    Row {
        from: "calico-agent",
        uses: &[
            "calico-bgp",
            "calico-cni",
            "calico-control",
            "calico-core",
            "calico-datastore",
            "calico-ipam",
            "calico-netlink",
            "calico-observe",
            "calico-peering",
            "calico-policy",
            "calico-router",
        ],
        tests_use: &["calico-test-servers"],
    },
    Row {
        from: "calico-rr",
        uses: &[
            "calico-bgp",
            "calico-core",
            "calico-datastore",
            "calico-observe",
            "calico-peering",
            "calico-router",
        ],
        tests_use: &["calico-control"],
    },
    Row {
        from: "calico-fanout",
        uses: &["calico-datastore", "calico-observe"],
        tests_use: &["calico-core"],
    },
    Row {
        from: "calicoctl",
        uses: &[
            "calico-control",
            "calico-core",
            "calico-datastore",
            "calico-ipam",
            "calico-policy",
        ],
        tests_use: &["calico-test-servers"],
    },
    // A kube-apiserver and an etcd that are somebody else's programs.
    Row { from: "calico-test-servers", uses: &[], tests_use: &[] },
    // The lab runs the programs and checks them by what the kernel and they themselves say, so
    // it shares no code with them but the values of resources and what an agent is asked. Its
    // bench measures the netlink crate; its crash test asks datastore and IPAM what is left.
    Row {
        from: "calico-lab",
        uses: &["calico-control", "calico-core", "calico-netlink", "calico-test-servers"],
        tests_use: &["calico-datastore", "calico-ipam"],
    },
    Row {
        from: "calico-examples",
        uses: &[
            "calico-bgp",
            "calico-core",
            "calico-datastore",
            "calico-ipam",
            "calico-netlink",
            "calico-policy",
        ],
        tests_use: &[],
    },
    // Tests that hold one library against another.
    Row {
        from: "calico-tests",
        uses: &["calico-core", "calico-datastore", "calico-netlink", "calico-policy"],
        tests_use: &[],
    },
    // Felix' calculation graph, built from upstream's packages, beside ours.
    Row {
        from: "calico-felix-tests",
        uses: &[
            "calico-core",
            "calico-datastore",
            "calico-policy",
            "calico-test-servers",
            "calico-tests",
        ],
        tests_use: &[],
    },
    // CRDs and schemas are generated from the types.
    Row { from: "xtask", uses: &["calico-core"], tests_use: &[] },
];

/// Crates that embedders build, themselves included: at most so many.
const SMALL: &[(&str, usize)] = &[("calico-ipam", 25)];

struct Row {
    from: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
}

/// One crate of the workspace depends on another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    from: String,
    to: String,
    /// Whether only tests, examples and benches need it.
    for_tests: bool,
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.for_tests { " (in tests)" } else { "" };
        write!(f, "{} -> {}{suffix}", self.from, self.to)
    }
}

/// The edges as `cargo metadata` tells them.
pub(crate) fn workspace_edges() -> Result<BTreeSet<Edge>, Failure> {
    Ok(edges(&run::metadata()?))
}

/// The edges that the table does not allow; a crate missing in the table may use none.
pub(crate) fn violations(edges: &BTreeSet<Edge>) -> Vec<&Edge> {
    edges.iter().filter(|edge| !is_allowed(edge)).collect()
}

/// Crates of [`SMALL`] whose tree of normal dependencies, with default features, has grown beyond
/// its limit.
pub(crate) fn too_large() -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for (name, limit) in SMALL {
        let text = run::output(&["tree", "-p", name, "-e", "normal", "--prefix", "none"])?;
        let tree = crates(&text);
        if tree.len() > *limit {
            let all: Vec<&str> = tree.iter().copied().collect();
            found.push(format!(
                "{name}: {} crates, at most {limit}: {}",
                tree.len(),
                all.join(", ")
            ));
        }
    }
    Ok(found)
}

/// Name and version of each crate of `cargo tree`, which marks repetitions.
fn crates(tree: &str) -> BTreeSet<&str> {
    let entry = |line: &'_ str| line.find(" (").map_or(line.len(), |at| at);
    tree.lines().map(|line| &line[..entry(line)]).filter(|line| !line.is_empty()).collect()
}

fn is_allowed(edge: &Edge) -> bool {
    ALLOWED.iter().filter(|row| row.from == edge.from).any(|row| {
        row.uses.contains(&edge.to.as_str())
            || edge.for_tests && row.tests_use.contains(&edge.to.as_str())
    })
}

fn edges(metadata: &Value) -> BTreeSet<Edge> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut edges = BTreeSet::new();
    for package in packages {
        let from = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            // A crate's dev-dependency on itself turns on features of its own.
            if names.contains(to) && to != from {
                let for_tests = dependency["kind"] == "dev";
                edges.insert(Edge { from: from.into(), to: to.into(), for_tests });
            }
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata_of(from: &str, to: &str, kind: Value) -> Value {
        serde_json::json!({ "packages": [
            { "name": from, "dependencies": [{ "name": to, "kind": kind }] },
            { "name": to, "dependencies": [{ "name": "serde", "kind": null }] },
        ]})
    }

    #[test]
    fn the_workspace_keeps_to_the_table() {
        let edges = workspace_edges().expect("cargo metadata");
        assert!(edges.iter().any(|edge| edge.from == "calico-ipam" && edge.to == "calico-core"));
        let wrong = violations(&edges);
        assert!(wrong.is_empty(), "not allowed: {wrong:?}");
    }

    #[test]
    fn crates_for_embedders_stay_small() {
        assert_eq!(too_large().expect("cargo tree"), [""; 0]);
        let tree = "a v1.0.0 (/somewhere)\nb v0.2.0 (proc-macro)\n\nc v3.0.0\nb v0.2.0 (*)\n";
        assert_eq!(
            crates(tree).into_iter().collect::<Vec<_>>(),
            ["a v1.0.0", "b v0.2.0", "c v3.0.0"]
        );
    }

    #[test]
    fn an_edge_outside_of_the_table_is_found() {
        for (from, to) in [("calico-ipam", "calico-datastore"), ("calico-core", "calico-bgp")] {
            for kind in [Value::Null, "dev".into(), "build".into()] {
                let edges = edges(&metadata_of(from, to, kind));
                assert_eq!(violations(&edges).len(), 1, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_crate_that_the_table_lacks_may_use_none() {
        let edges = edges(&metadata_of("calico-novel", "calico-core", Value::Null));
        assert_eq!(violations(&edges).len(), 1);
    }

    #[test]
    fn every_crate_of_the_workspace_has_one_row() {
        let metadata = run::metadata().expect("cargo metadata");
        for package in metadata["packages"].as_array().expect("packages") {
            let name = package["name"].as_str().expect("name");
            let rows = ALLOWED.iter().filter(|row| row.from == name).count();
            assert_eq!(rows, 1, "rows of {name} in the table");
        }
    }
}
