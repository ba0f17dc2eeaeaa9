//! What the tests of labs share.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

pub(crate) mod continuity;
pub(crate) mod image;
pub(crate) mod inside;
pub(crate) mod plugin;
pub(crate) mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use calico_lab::{netns, record};

/// Labs are heavy on two cores, so the tests of one program take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Lasts while this lives. Every test has a runtime of its own, so holding it blocks no other task.
pub(crate) struct Turn {
    _guard: MutexGuard<'static, ()>,
}

/// This test's turn; none (with the reason printed) if privileged tests are not wanted.
///
/// # Panics
///
/// Without root.
pub(crate) fn turn() -> Option<Turn> {
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|value| value == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1): makes network namespaces");
        return None;
    }
    assert!(
        nix::unistd::Uid::effective().is_root(),
        "this test makes network namespaces; run it as root, or set CALICO_SKIP_PRIVILEGED=1"
    );
    Some(Turn { _guard: TURN.lock().unwrap_or_else(PoisonError::into_inner) })
}

/// A name for a lab that no other test has.
pub(crate) fn lab_name(test: &str) -> String {
    format!("t{}_{test}", std::process::id())
}

/// A topology that comes with the program, under another name for its lab.
pub(crate) fn topology(file: &str, name: &str) -> (calico_lab::topology::Topology, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let own = format!("name: {}\n", path.file_stem().unwrap().to_str().unwrap());
    assert!(text.contains(&own), "{file} is called otherwise");
    let text = text.replace(&own, &format!("name: {name}\n"));
    (calico_lab::topology::Topology::parse(file, &text).unwrap(), text)
}

/// Waits until `holds`, at most 20 s.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn namespaces(lab: &str) -> Vec<String> {
    netns::list().into_iter().filter(|name| netns::lab_of(name) == Some(lab)).collect()
}

/// Nothing of the lab exists: no namespace, no directory, and no process that has its name on
/// the command line.
pub(crate) fn assert_gone(lab: &str) {
    assert_eq!(namespaces(lab), [""; 0], "namespaces of {lab}");
    assert!(!record::directory(lab).exists(), "directory of {lab}");
    let directory = format!("{}/", record::directory(lab).display());
    assert_eq!(processes_with(&directory), [""; 0], "processes of {lab}");
}

/// Command lines that hold `text`.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(line);
        }
    }
    found
}

/// Names of the interfaces of the machine itself.
pub(crate) fn host_links() -> Vec<String> {
    let output = Command::new("ip").args(["-brief", "link"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    names.sort();
    names
}

/// A directory that is removed with its contents.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cr-test-{name}"));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
