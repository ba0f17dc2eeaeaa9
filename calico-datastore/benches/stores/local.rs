//! Stores in this process, against a map of the same entries, a channel, and a file that is
//! appended to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use calico_core::Datastore;
use calico_core::datastore::{Entry, Revision};
use calico_core::key::Scope;
use calico_core::memory::MemoryStore;
use calico_datastore::embedded::{Durability, Options};
use tokio::sync::mpsc;

use super::{Best, ROUNDS, Result, UPDATES, follow, key, value, write};

type Map = BTreeMap<String, Entry>;

fn entry(n: usize, version: usize) -> Entry {
    Entry { key: key(n), value: value(n, version), revision: Revision(version as u64) }
}

pub(crate) async fn memory(objects: usize) -> Result<()> {
    compare("memory", &MemoryStore::with_history(UPDATES * 2), objects, None).await
}

pub(crate) async fn embedded(objects: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options::new().durability(Durability::Process).history(UPDATES * 2);
    let store = options.open(dir.path().join("calico.db"))?;
    let log = File::create(dir.path().join("raw"))?;
    compare("embedded", &store, objects, Some(log)).await
}

async fn compare(
    name: &str,
    store: &dyn Datastore,
    objects: usize,
    mut log: Option<File>,
) -> Result<()> {
    let mut map: Map = (0..objects).map(|n| (key(n).to_string(), entry(n, 0))).collect();
    let mut from = write(store, objects, 0).await?;

    let mut best = Best::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let all: Vec<_> = map.values().cloned().collect();
        best.raw(start);
        assert_eq!(all.len(), objects);
        drop(all);
        let start = Instant::now();
        let all = store.list(&Scope::All).await?;
        best.ours(start);
        assert_eq!(all.entries.len(), objects);
    }
    best.print(&format!("{name}: list of {objects}"));

    let mut best = Best::new();
    for round in 1..=ROUNDS {
        let start = Instant::now();
        raw(&mut map, log.as_mut(), round).await?;
        best.raw(start);
        let start = Instant::now();
        let (written, followed) =
            tokio::join!(write(store, UPDATES, round), follow(store, Scope::All, from, UPDATES));
        followed?;
        best.ours(start);
        from = written?;
    }
    best.print(&format!("{name}: {UPDATES} updates, written and seen"));
    Ok(())
}

/// The same without a store: changes a map, appends to a file, and tells another task.
async fn raw(map: &mut Map, mut log: Option<&mut File>, version: usize) -> Result<()> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let writes = async {
        for from in (0..UPDATES).step_by(100) {
            let mut bytes = Vec::new();
            for n in from..from + 100 {
                let entry = entry(n, version);
                let path = entry.key.to_string();
                bytes.extend_from_slice(path.as_bytes());
                bytes.extend_from_slice(entry.value.as_bytes());
                map.insert(path, entry.clone());
                tell.send(entry)?;
            }
            if let Some(log) = &mut log {
                log.write_all(&bytes)?;
            }
            tokio::task::yield_now().await;
        }
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    let reads = async {
        for _ in 0..UPDATES {
            told.recv().await;
        }
    };
    let (written, ()) = tokio::join!(writes, reads);
    written
}
