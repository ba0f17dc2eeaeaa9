//! Our graph asks for what Felix' graph asked for, in every recording.

use calico_felix_tests::canonical::Counts;
use calico_felix_tests::{play, recorded};

/// What must have come up in Felix' words, or in what both were told.
const FEATURES: [&str; 48] = [
    "in allow",
    "in deny",
    "in pass",
    "in log",
    "out allow",
    "out deny",
    "out pass",
    "out log",
    " ip=4",
    " ip=6",
    " proto=",
    " !proto=",
    " icmp=",
    " !icmp=",
    "src.net=",
    "src.!net=",
    "dst.net=",
    "dst.!net=",
    "src.set=",
    "src.!set=",
    "dst.set=",
    "dst.!set=",
    "src.port=",
    "src.!port=",
    "dst.port=",
    "dst.!port=",
    "src.portset=",
    "src.!portset=",
    "dst.portset=",
    "dst.!portset=",
    "| tier ",
    "| forward ",
    "| untracked ",
    "| preDNAT ",
    " Pass in=",
    " Deny in=",
    "sources=2",
    "profile extra: in",
    "host h4: *",
    "delete NetworkPolicy",
    "delete WorkloadEndpoint",
    "delete GlobalNetworkSet",
    "\nStaged",
    "services:",
    "serviceAccounts:",
    "global()",
    "AssumeNeededOnEveryNode",
    "kubernetes {",
];

#[test]
fn our_graph_asks_for_what_felix_asked_for() {
    let mut paths: Vec<_> = std::fs::read_dir(recorded::directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let (mut counts, mut lines, mut differences) = (Counts::default(), 0, String::new());
    let mut all = String::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).unwrap();
        let (story, felix) =
            recorded::read(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let ours = play::ours(&story, &felix.refused).unwrap();
        let compared = play::compare(&story, &ours, &felix);
        if !compared.is_empty() {
            differences.push_str(&format!("{}:\n{compared}\n", path.display()));
        }
        lines += story.lines.len();
        all += &text;
        felix.states.iter().for_each(|state| counts += state.counts());
    }
    println!("{} recordings, {lines} changes, {counts:?}", paths.len());
    assert!(differences.is_empty(), "- is ours, + is Felix'\n{differences}");
    let missing: Vec<&str> = FEATURES.into_iter().filter(|part| !all.contains(part)).collect();
    assert!(missing.is_empty(), "no recording has {missing:?}");
    assert!(counts.rules > 500 && counts.sets > 200, "{counts:?}");
}
