//! Programs of the system, run inside of a lab.

use std::io::Write as _;
use std::process::{Command, Stdio};

use calico_lab::Lab;

/// Runs a program in the namespace of a member, with `input`; an error is what it said.
pub(crate) fn run(lab: &Lab, member: &str, words: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.namespace(member)])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// What `nft` answers, which must succeed.
pub(crate) fn nft(lab: &Lab, member: &str, words: &[&str]) -> String {
    let all = [&["nft"], words].concat();
    run(lab, member, &all, "").unwrap_or_else(|error| panic!("nft {words:?}: {error}"))
}

/// A ruleset for `nft`, in one transaction.
pub(crate) fn nft_file(lab: &Lab, member: &str, ruleset: &str) {
    let loaded = run(lab, member, &["nft", "-f", "-"], ruleset);
    loaded.unwrap_or_else(|error| panic!("nft -f: {error}\n{ruleset}"));
}

/// Our table, without what is counted.
pub(crate) fn own_table(lab: &Lab, node: &str) -> String {
    nft(lab, node, &["--stateless", "list", "table", "inet", "calico"])
}

/// The sum of all counters in a listing.
pub(crate) fn packets(listing: &str) -> u64 {
    let numbers = listing.split("counter packets ").skip(1);
    numbers.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// No agent had to repair its table.
pub(crate) fn assert_undisturbed(lab: &Lab) {
    for node in &lab.topology().nodes {
        let log = std::fs::read_to_string(lab.run_dir(&node.name).join("agent.log")).unwrap();
        assert!(!log.contains("another program changed"), "{log}");
    }
}
