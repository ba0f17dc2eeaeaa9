//! The embedded store on good and bad days.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::{Revision, StoreError, WatchEvent, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::embedded::{Durability, EmbeddedStore, MAX_VALUE, Options};
use futures_util::StreamExt;
use futures_util::future::join_all;

fn pool(name: &str) -> Key {
    Key::resource(Kind::IpPool, None, name)
}

/// A directory and the path of a store in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calico.db");
    (dir, path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}.{suffix}", path.display()))
}

/// Writes `count` objects one after the other; returns the lengths of the file on the way.
async fn fill(path: &Path, count: usize) -> Vec<u64> {
    let store = EmbeddedStore::open(path).unwrap();
    let mut lengths = vec![fs::metadata(path).unwrap().len()];
    for n in 0..count {
        store.put(pool(&format!("p{n}")), "{}".into()).await.unwrap();
        lengths.push(fs::metadata(path).unwrap().len());
    }
    lengths
}

fn message(path: &Path) -> String {
    EmbeddedStore::open(path).expect_err("an error").to_string()
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let (_dir, path) = place();
    let store = EmbeddedStore::open(&path).unwrap();
    let first = store.put(pool("a"), "1".into()).await.unwrap();
    store.put(pool("b"), "2".into()).await.unwrap();
    store.delete(pool("b"), None).await.unwrap();
    let before = store.list(&Scope::All).await.unwrap();
    drop(store);

    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.list(&Scope::All).await.unwrap(), before);
    assert_eq!(before.revision, Revision(3));
    let mut watch = store.watch(Scope::All, Some(first));
    assert!(matches!(watch.next().await, Some(WatchEvent::Put(e)) if e.key == pool("b")));
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_file() {
    let (_dir, path) = place();
    let store = EmbeddedStore::open(&path).unwrap();
    let text = message(&path);
    let pid = std::process::id().to_string();
    assert!(text.contains(&pid) && text.contains("socket"), "{text}");
    drop(store);
    EmbeddedStore::open(&path).unwrap();
}

#[tokio::test]
async fn an_unfinished_write_is_cut_off_and_kept() {
    let (_dir, path) = place();
    let lengths = fill(&path, 3).await;
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();

    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.list(&Scope::All).await.unwrap().entries.len(), 2);
    assert_eq!(fs::metadata(&path).unwrap().len(), lengths[2]);
    let torn = fs::read(beside(&path, "torn")).unwrap();
    assert_eq!(torn, bytes[lengths[2] as usize..bytes.len() - 3]);
    assert_eq!(store.put(pool("x"), "{}".into()).await, Ok(Revision(3)));
}

#[tokio::test]
async fn damage_in_the_middle_is_refused_and_left_alone() {
    let (_dir, path) = place();
    let lengths = fill(&path, 3).await;
    let mut bytes = fs::read(&path).unwrap();
    bytes[lengths[1] as usize + 12] ^= 0x40;
    fs::write(&path, &bytes).unwrap();

    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let text = error.to_string();
    for part in [path.to_str().unwrap(), &format!("offset {}", lengths[1]), "backup"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(!beside(&path, "torn").exists());
}

#[tokio::test]
async fn other_files_and_newer_versions_are_refused() {
    let (_dir, path) = place();
    for content in ["", "kind: IPPool\n", "CALICODB"] {
        fs::write(&path, content).unwrap();
        assert!(matches!(EmbeddedStore::open(&path), Err(StoreError::Corrupt { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    drop(EmbeddedStore::open(&path).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert!(message(&path).contains("format version 2"), "{}", message(&path));

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(message(&path).contains("path of a file"), "{}", message(&path));
}

#[tokio::test]
async fn garbage_is_compacted_away() {
    let (_dir, path) = place();
    let options = Options::new().compact_from(10_000).durability(Durability::Process);
    let store = options.open(&path).unwrap();
    let watch = store.watch(Scope::One(pool("p3")), None);
    for round in 0..200 {
        let writes = (0..10).map(|n| Write::put(pool(&format!("p{n}")), format!("{round:060}")));
        store.write(writes.collect()).await.unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 20_000, "round {round}");
    }
    store.delete(pool("p9"), None).await.unwrap();
    let before = store.list(&Scope::All).await.unwrap();
    assert_eq!(before.revision, Revision(2001));
    drop(store);
    let last = watch.filter_map(async |event| match event {
        WatchEvent::Item(entry) | WatchEvent::Put(entry) => Some(entry.value),
        _ => None,
    });
    let values: Vec<_> = last.collect().await;
    assert_eq!(values.last(), Some(&format!("{:060}", 199).into()), "a watcher sees the end");

    let store = options.open(&path).unwrap();
    assert_eq!(store.list(&Scope::All).await.unwrap(), before);
    assert!(!beside(&path, "new").exists());
    let mut watch = store.watch(Scope::All, Some(Revision(1)));
    assert_eq!(watch.next().await, Some(WatchEvent::Begin), "history before it is forgotten");
    assert_eq!(store.put(pool("z"), "{}".into()).await, Ok(Revision(2002)));
}

#[tokio::test]
async fn a_crash_while_compacting_changes_nothing() {
    let (_dir, path) = place();
    fill(&path, 3).await;
    let bytes = fs::read(&path).unwrap();
    for left_over in [&b""[..], &bytes[..20], &bytes] {
        fs::write(beside(&path, "new"), left_over).unwrap();
        let store = EmbeddedStore::open(&path).unwrap();
        assert_eq!(store.list(&Scope::All).await.unwrap().entries.len(), 3);
        assert!(!beside(&path, "new").exists());
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_alone() {
    let (_dir, path) = place();
    let store = EmbeddedStore::open(&path).unwrap();
    let large: Arc<str> = "x".repeat(MAX_VALUE + 1).into();
    let writes = vec![
        Write::put(pool("a"), "1"),
        Write::put(pool("b"), Arc::clone(&large)),
        Write::put(pool("c"), "1"),
    ];
    let failed = store.write(writes).await.unwrap_err();
    assert_eq!(failed.done, [Revision(1)]);
    assert!(matches!(failed.error, StoreError::BadObject { .. }), "{:?}", failed.error);
    assert!(store.get(&pool("c")).await.is_err());
    store.put(pool("b"), large[1..].into()).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.get(&pool("b")).await.unwrap().value.len(), MAX_VALUE);
}

#[tokio::test]
async fn concurrent_writers_are_answered_each() {
    let (_dir, path) = place();
    let store = EmbeddedStore::open(&path).unwrap();
    let results =
        join_all((0..500).map(|n| store.create(pool(&format!("p{}", n % 250)), "{}".into())));
    let results = results.await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 250);
    drop(store);
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.list(&Scope::All).await.unwrap().entries.len(), 250);
}
