//! A store survives the sudden death of its process, and a full disk.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{StoreError, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::embedded::{EmbeddedStore, Options};

const CHILD: &str = "CALICO_TEST_KILL_STORE";

fn node(name: &str) -> Key {
    Key::resource(Kind::Node, None, name)
}

fn open(path: &Path) -> EmbeddedStore {
    Options::new().compact_from(30_000).open(path).unwrap()
}

/// Not a test of its own: what the child does. It writes without end, and prints the number of
/// each write that was acknowledged.
#[tokio::test]
async fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = open(&PathBuf::from(path));
    let start = store.list(&Scope::All).await.unwrap().revision.0;
    for n in start.. {
        // Three per call, two of them always of the same objects: much garbage to compact.
        let writes = vec![
            Write::put(node(&format!("n{}", n % 50)), format!("{n:0100}")),
            Write::put(node("latest"), n.to_string()),
            Write::put(node("again"), n.to_string()),
        ];
        store.write(writes).await.unwrap();
        println!("acknowledged {n}");
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calico.db");
    let (mut total, mut torn) = (0, 0);
    for round in 0..15u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = thread::spawn(move || {
            let numbers = output.lines().map_while(Result::ok).filter_map(|line| {
                line.strip_prefix("acknowledged ").and_then(|number| number.parse::<u64>().ok())
            });
            numbers.collect::<Vec<_>>()
        });
        // Spread over the first writes, the steady state, and compactions.
        thread::sleep(Duration::from_millis(20 + round * 17));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = reader.join().unwrap();
        total += acknowledged.len();

        let store = open(&path);
        if let Some(&last) = acknowledged.last() {
            let latest = store.get(&node("latest")).await.expect("an acknowledged write");
            let latest: u64 = latest.value.parse().unwrap();
            assert!(latest == last || latest == last + 1, "{latest} after {last}");
            for n in acknowledged.iter().rev().take(50) {
                let entry = store.get(&node(&format!("n{}", n % 50))).await.unwrap();
                assert!(entry.value.parse::<u64>().unwrap() >= *n);
            }
        }
        torn += usize::from(dir.path().join("calico.db.torn").exists());
    }
    println!("{total} acknowledged writes, {torn} starts with a torn end on record");
    assert!(total > 100, "only {total} writes: the test tested nothing");
}

/// Needs root, for a file system of its own in a mount namespace of its own.
#[test]
fn a_full_disk_refuses_writes_and_loses_none() {
    use nix::mount::{MsFlags, mount};
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|value| value == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("this test needs root; set CALICO_SKIP_PRIVILEGED=1 to skip it");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(none, dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(fill_up(&dir.path().join("calico.db")));
        });
        work.join().unwrap();
    });
}

async fn fill_up(path: &Path) {
    let store = EmbeddedStore::open(path).unwrap();
    let value = "x".repeat(10_000);
    let mut stored = 0;
    let error = loop {
        match store.put(node(&format!("n{stored}")), value.as_str().into()).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 10, "the disk does not fill up");
    };
    assert!(
        matches!(&error, StoreError::Unavailable { reason } if reason.contains("space")),
        "{error}"
    );
    assert!(store.get(&node(&format!("n{stored}"))).await.unwrap_err().is_not_found());
    store.put(node("small"), "{}".into()).await.expect("what still fits is stored");
    let before = store.list(&Scope::All).await.unwrap();
    assert_eq!(before.entries.len(), stored + 1);
    drop(store);
    let store = EmbeddedStore::open(path).unwrap();
    assert_eq!(store.list(&Scope::All).await.unwrap(), before);
}
