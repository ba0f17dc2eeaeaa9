//! Stores in this process, against a map of the same entries, a channel, and a file that is
//! appended to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use calico_core::Datastore;
use calico_core::datastore::{Entry, Revision, Write};
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use calico_datastore::embedded::{Durability, Options};
use tokio::sync::mpsc;

use super::pace::{self, Pace, Run, Seen};
use super::{AT_ONCE, Best, HELD, ROUNDS, Result, UPDATES, Writes, follow, key, value, write};

type Map = BTreeMap<String, Entry>;

pub(crate) async fn memory(objects: usize) -> Result<()> {
    let store = MemoryStore::with_history(UPDATES * 2);
    compare("memory", Arc::new(store), objects, None).await
}

pub(crate) async fn embedded(objects: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options::new().durability(Durability::Process).history(UPDATES * 2);
    let store = options.open(dir.path().join("calico.db"))?;
    let log = File::create(dir.path().join("raw"))?;
    compare("embedded", Arc::new(store), objects, Some(log)).await
}

async fn compare(
    name: &str,
    store: Arc<dyn Datastore>,
    objects: usize,
    log: Option<File>,
) -> Result<()> {
    let entry = |n| Entry { key: key(n), value: value(n, 0), revision: Revision(0) };
    let map = (0..objects).map(|n| (key(n).to_string(), entry(n))).collect();
    let mut raw = Raw { map, log };
    write(&*store, objects, 0).await?;

    let mut best = Best::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let all: Vec<_> = raw.map.values().cloned().collect();
        best.raw(start);
        assert_eq!(all.len(), objects);
        drop(all);
        let start = Instant::now();
        let all = store.list(&Scope::All).await?;
        best.ours(start);
        assert_eq!(all.entries.len(), objects);
    }
    best.print(&format!("{name}: list of {objects}"));

    let (mut time, mut cpu) = (Best::new(), Best::new());
    for round in 1..=ROUNDS {
        let runs = both(&store, &mut raw, AT_ONCE, round).await?;
        time.runs(&runs, |run| run.time);
        cpu.runs(&runs, |run| run.process);
    }
    time.print(&format!("{name}: {UPDATES} updates, written and seen"));
    cpu.print(&format!("{name}: {UPDATES} updates, CPU of writer and watcher"));
    let runs = both(&store, &mut raw, HELD, 0).await?;
    pace::print(&format!("{name}: paced"), &runs, |run| run.process);
    Ok(())
}

/// The raw way, then the store's.
async fn both(
    store: &Arc<dyn Datastore>,
    raw: &mut Raw,
    pace: Pace,
    version: usize,
) -> Result<[Run; 2]> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let watch = async move |seen: &mut Seen| {
        while let Some(entry) = told.recv().await {
            drop::<Entry>(entry);
            if seen.saw(1) {
                break;
            }
        }
        Ok(())
    };
    let mut writes = Writes::new(pace, version);
    let first = pace::run(pace, watch, async |n| raw.write(writes.take(n), &tell)).await?;
    let (from, follows) = (store.list(&Scope::One(Key::IpamConfig)).await?, Arc::clone(store));
    let watch =
        async move |seen: &mut Seen| follow(&*follows, Scope::All, from.revision, seen).await;
    let mut writes = Writes::new(pace, version);
    let second = pace::run(pace, watch, async |n| {
        store.write(writes.take(n)).await?;
        Ok(())
    });
    Ok([first, second.await?])
}

/// The same without a store: changes a map, appends to a file, and tells another thread.
struct Raw {
    map: Map,
    log: Option<File>,
}

impl Raw {
    fn write(&mut self, writes: Vec<Write>, tell: &mpsc::UnboundedSender<Entry>) -> Result<()> {
        let mut bytes = Vec::new();
        for Write { key, value, .. } in writes {
            let value = value.ok_or("a deletion")?;
            let path = key.to_string();
            bytes.extend_from_slice(path.as_bytes());
            bytes.extend_from_slice(value.as_bytes());
            let entry = Entry { key, value, revision: Revision(0) };
            self.map.insert(path, entry.clone());
            tell.send(entry)?;
        }
        if let Some(log) = &mut self.log {
            log.write_all(&bytes)?;
        }
        Ok(())
    }
}
