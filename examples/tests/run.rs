//! Runs every example: its output must be word for word what README.md shows, and must contain
//! what the example is about. `CALICO_BLESS=1 cargo test -p calico-examples` writes new output
//! into README.md.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const PATIENCE: Duration = Duration::from_secs(60);

/// Tests run side by side; only one at a time may rewrite the file.
static FILE: Mutex<()> = Mutex::new(());

/// Runs a program and returns what it printed. `hint` helps who sees it fail.
fn run(program: &str, hint: &str) -> String {
    let child = Command::new(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        sleep(Duration::from_millis(5));
    };
    let (output, errors) = streams(&mut child);
    assert!(status.success(), "{program}: {status} {hint}\n{output}\n{errors}");
    assert!(errors.is_empty(), "{program} complains: {errors}");
    output
}

/// Both fit into a pipe, so reading them at the end is soon enough.
fn streams(child: &mut Child) -> (String, String) {
    let (mut output, mut errors) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    (output, errors)
}

/// Compares output with README.md, and looks for `facts` in it, in this order.
fn check(name: &str, output: &str, facts: &[&str]) {
    let mut rest = output;
    for fact in facts {
        let found = rest.find(fact);
        let at = found
            .unwrap_or_else(|| panic!("{name} does not say (or too early) {fact:?}:\n{output}"));
        rest = &rest[at + fact.len()..];
    }

    let _alone = FILE.lock().unwrap();
    let readme = fs::read_to_string(README).unwrap();
    let command = format!("cargo run -q -p calico-examples --bin {name}\n");
    let parts = readme.split_once(&command);
    let (before, after) = parts.unwrap_or_else(|| panic!("README.md has no {command:?}"));
    let (shown, after) = after.split_once("```").unwrap();
    if std::env::var_os("CALICO_BLESS").is_some_and(|value| value == "1") {
        fs::write(README, format!("{before}{command}{output}```{after}")).unwrap();
    } else {
        assert_eq!(
            shown, output,
            "README.md shows something else of {name}; see the top of run.rs"
        );
    }
}

macro_rules! examples {
    ($($test:ident $name:literal: $facts:expr;)*) => {
        $(#[test]
        fn $test() {
            let output = run(env!(concat!("CARGO_BIN_EXE_", $name)), "");
            check($name, &output, &$facts);
        })*

        #[test]
        fn every_program_is_here() {
            let tested = [$($name,)* "pod-network"];
            for line in include_str!("../Cargo.toml").lines() {
                if let Some(path) = line.strip_prefix("path = ") {
                    let name = path.trim_matches('"').trim_end_matches(".rs");
                    assert!(tested.contains(&name), "{name} is not run by any test");
                }
            }
        }
    };
}

examples! {
    assign_addresses "assign-addresses": [
        "web-0 on node1 has 10.65.", " and fd00:65:",
        "db-0 on node2 has 10.65.",
        "/26 of host:node1: 62 free", "/26 of host:node2: 63 free", "/122 of host:node1: 62 free",
        "again, by mistake: []",
        "there is no IPv4 pool public",
        "inconsistencies in the store: 0",
    ];
    durable_store "durable-store": [
        "as of revision 0",
        "refused (a conflict: true)", "expected revision 1, found 2",
        "watch: 1: {", "watch: 2: {", "\"natOutgoing\":true", "watch: 3: /calico/", "watch: 4: {",
        "worth a retry (true)",
        "after a restart: pods 10.65.0.0/16 at revision 4",
    ];
    policy_graph "policy-graph": [
        "= 10.65.1.2\n",
        "endpoint shop/db-0 on cali-db-0, ingress by NetworkPolicy shop/db",
        ": +10.65.1.4\n\nthe batch job has a new address, which nobody here cares about:\n\n",
        "10.65.1.4 -> 10.65.0.2 TCP/5432: allowed",
        "10.65.1.9 -> 10.65.0.2 TCP/5432: denied", "=> denied by the end of tier default",
        "rules of NetworkPolicy shop/db removed\n  set s:", " removed\n",
    ];
    own_datastore "own-datastore": [
        "= 10.65.",
        "... and the answer is lost\n= failed, worth a retry (true)",
        "the same again:", "write refused: /calico/ipam/v2/handle/web-1 exists already",
        "= 10.65.",
        "addresses of web-1: [10.65.",
    ];
    own_dataplane "own-dataplane": [
        "set s:", "rules of NetworkPolicy shop/db: 1 ingress", "endpoint shop/db-0 on cali-db",
        "FORGET", "= 1 endpoints, 1 lists of rules", "in force: 1",
        "CLOSE endpoint shop/db-0", "= 0 endpoints, 0 lists of rules", "in force: 2",
    ];
    bgp_speaker "bgp-speaker": [
        "node:\n", "* 0.0.0.0/0 ", "from AS 65001 via 127.0.0.1", "(only path)",
        "* 198.51.100.53/32  own", "(local route)",
        "* ::/0 ", "from AS 65001 via 2001:db8::254",
        "rack:\n", "* 10.65.0.0/26 ", "from AS 64512 via 127.0.0.2",
        "* fd00:65::/122 ", "from AS 64512 via 2001:db8::1",
        "administrative shutdown (this node is being replaced)",
    ];
    route_reflector "route-reflector": [
        "node 1 reaches 10.65.2.0/26 via 127.0.0.3",
        "originator: 127.0.0.3", "cluster list: [10.255.0.1]",
        "via 127.0.0.2: carries traffic, told to clients (router identifier)",
        "via 127.0.0.3: carries traffic, not told",
        "0 ways left",
    ];
}

#[test]
fn pod_network() {
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|value| value == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1): pod-network makes network namespaces");
        return;
    }
    let hint = "(makes network namespaces: run it as root, or set CALICO_SKIP_PRIVILEGED=1)";
    let output = run(env!("CARGO_BIN_EXE_pod-network"), hint);
    let facts = [
        "before there is a policy: timed out",
        "port 5432: connected",
        "port 22: timed out",
        "port 80: connection refused",
        "NetworkPolicy shop/db ingress rule 0",
        "without rules, web -> db port 22: connected",
        "repaired: table calico was missing",
        "then, web -> db port 22: timed out",
        "without cali-db, web -> db port 5432: network unreachable",
    ];
    check("pod-network", &output, &facts);
}
