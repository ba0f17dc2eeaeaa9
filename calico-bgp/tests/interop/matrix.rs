//! The matrix in `docs/bgp-interop.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::daemons::Kind;
use super::feature::{Feature, Support};
use super::runner::{Results, results};

const UPDATE: &str = "UPDATE=1 cargo test -p calico-bgp --test interop";

/// What no test holds, and who sets up such sessions wants to know.
const ALSO_SEEN: &str = "
## Also seen

- When both sides connect at once, FRR 8 may drop the session that has just come up, because of its
  own other attempt; it is back within a second or two. With `neighbor ... passive` at FRR it does
  not happen. In these tests one side waits for the other.
- GoBGP 3 and OpenBGPD 7 refuse new connections while one that died without a word is in
  OpenConfirm, until the hold time is over. With TTL security on one side only they get into it.
";

/// Compares the file with what was just seen, or writes it.
pub(crate) fn check() {
    let seen: Vec<(Kind, &Results)> = std::thread::scope(|scope| {
        let threads = Kind::ALL.map(|kind| scope.spawn(move || (kind, results(kind))));
        threads.into_iter().map(|t| t.join().expect("failures are results")).collect()
    });
    let text = render(&seen);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bgp-interop.md");
    if std::env::var_os("UPDATE").is_some_and(|v| v == "1") {
        assert!(std::env::var_os("SCENARIO").is_none(), "a matrix needs all scenarios");
        fs::write(&path, text).expect("write the matrix");
        return;
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "docs/bgp-interop.md is not what was seen just now; if that is as it should be:\n  \
         {UPDATE}\nseen:\n{text}"
    );
}

fn render(seen: &[(Kind, &Results)]) -> String {
    let mut out = String::from(
        "# BGP interoperability\n\n\
         What `calico-bgp` was seen to do with other daemons, as Debian packages them. Every *yes* is a\n\
         test that runs in network namespaces and looks at both sides; what a daemon is said to lack is\n\
         seen to be absent from its OPEN where a capability stands for it. This file is written by these\n\
         tests (`calico-bgp/tests/interop`), and they fail when it is not true:\n\n",
    );
    let _ = writeln!(out, "```console\n# {UPDATE}\n```\n");
    out += "| Feature |";
    for (kind, results) in seen {
        let _ = write!(out, " {} {} |", kind.name(), results.version);
    }
    out += "\n| --- |";
    out += &" --- |".repeat(seen.len());
    out += "\n";
    let mut notes: Vec<&str> = Vec::new();
    for feature in Feature::ALL {
        let _ = write!(out, "| {} |", feature.title());
        for (kind, results) in seen {
            let (word, reason) = match kind.support(feature) {
                _ if results.failed(feature) => ("FAILED", None),
                Support::Yes => ("yes", None),
                Support::Within(limits) => ("yes", Some(limits)),
                Support::Lacks(reason) => ("not in the peer", Some(reason)),
                Support::Broken(reason) => ("broken in the peer", Some(reason)),
                Support::Gap(reason) => ("gap", Some(reason)),
            };
            let _ = write!(out, " {word}");
            if let Some(reason) = reason {
                let at = notes.iter().position(|n| *n == reason).unwrap_or_else(|| {
                    notes.push(reason);
                    notes.len() - 1
                });
                let _ = write!(out, " [{}](#reasons)", at + 1);
            }
            out += " |";
        }
        out += "\n";
    }
    out += "\n## Reasons\n\n";
    for (at, note) in notes.iter().enumerate() {
        let _ = writeln!(out, "{}. {note}", at + 1);
    }
    out + ALSO_SEEN
}
