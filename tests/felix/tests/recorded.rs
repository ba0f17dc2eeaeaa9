//! Our graph asks for what Felix' graph asked for, in every recording.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calico_felix_tests::canonical::Counts;
use calico_felix_tests::{play, recorded};

#[test]
fn our_graph_asks_for_what_felix_asked_for() {
    let mut paths: Vec<_> = std::fs::read_dir(recorded::directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let (mut counts, mut lines, mut differences) = (Counts::default(), 0, String::new());
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
        felix.states.iter().for_each(|state| counts += state.counts());
    }
    println!("{} recordings, {lines} changes, {counts:?}", paths.len());
    assert!(differences.is_empty(), "- is ours, + is Felix'\n{differences}");
    assert!(counts.rules > 1000 && counts.sets > 1000, "{counts:?}");
}
