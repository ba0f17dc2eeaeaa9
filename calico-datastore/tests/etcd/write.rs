//! Writes and their conditions.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::{Expect, Revision, StoreError, Write};
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::server::Cluster;
use super::{pool, pools, state};

#[tokio::test]
async fn writes_made_together_are_one_transaction() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    let before = store.revision().await.unwrap();
    let writes = vec![
        Write::create(pool("a"), "1"),
        Write::put(pool("b"), "1"),
        Write::create(pool("c"), "1"),
    ];
    let done = store.write(writes).await.unwrap();
    assert_eq!(done, vec![Revision(before.0 + 1); 3]);

    // Two transactions: up to the one that fails, under the condition that it still fails.
    let writes = vec![
        Write::update(pool("a"), "2", done[0]),
        Write::delete(pool("b"), None),
        Write::update(pool("c"), "2", before),
        Write::put(pool("d"), "2"),
    ];
    let failed = store.write(writes).await.unwrap_err();
    assert_eq!(failed.done, vec![Revision(before.0 + 2); 2]);
    let conflict = StoreError::Conflict { key: pool("c"), expected: before, found: done[2] };
    assert_eq!(failed.error, conflict);
    let names: Vec<String> = state(&store).await.keys().map(Key::name).collect();
    assert_eq!(names, ["a", "c"]);
}

#[tokio::test]
async fn the_limits_of_etcd_are_kept() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    let many: Vec<Write> =
        (0..1000).map(|n| Write::create(Key::Handle(n.to_string()), "{}")).collect();
    assert_eq!(store.write(many).await.unwrap().len(), 1000);
    assert_eq!(store.list(&Scope::Handles).await.unwrap().entries.len(), 1000);

    let large = "x".repeat(600 << 10);
    let writes = (0..5).map(|n| Write::put(pool(&n.to_string()), large.as_str()));
    assert_eq!(store.write(writes.collect()).await.unwrap().len(), 5);

    let writes = vec![
        Write::put(pool("small"), "1"),
        Write::put(pool("too-large"), "x".repeat(2 << 20)),
        Write::put(pool("after"), "1"),
    ];
    let failed = store.write(writes).await.unwrap_err();
    assert_eq!(failed.done.len(), 1, "{:?}", failed.error);
    let text = failed.error.to_string();
    assert!(matches!(failed.error, StoreError::BadObject { .. }), "{text}");
    assert!(text.contains("too-large") && text.contains("--max-request-bytes"), "{text}");
    assert!(store.get(&pool("after")).await.unwrap_err().is_not_found());

    let bad = vec![Write::put(pool("good"), "1"), Write::put(pool("a/b"), "1")];
    assert_eq!(store.write(bad).await.unwrap_err().done.len(), 1);
}

#[tokio::test]
async fn a_server_with_smaller_limits_is_served_one_by_one() {
    let args = ["--max-txn-ops=2".to_owned()];
    let cluster = Cluster::start_with(1, &args, None).await;
    let store = cluster.store();
    let writes = (0..5).map(|n| Write::create(pool(&n.to_string()), "1"));
    assert_eq!(store.write(writes.collect()).await.unwrap().len(), 5);
}

#[tokio::test]
async fn concurrent_writers_of_several_objects_lose_nothing() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    let zero = [pool("a"), pool("b")].map(|key| Write::put(key, "0"));
    store.write(zero.into()).await.unwrap();
    let writers = (0..8).map(|_| async {
        // A client each: nothing but etcd keeps them apart.
        let store = cluster.store();
        let mut conflicts = 0;
        for _ in 0..10 {
            loop {
                let both = store.list(&pools()).await.unwrap().entries;
                assert_eq!(both[0].value, both[1].value, "a listing is of one moment");
                let count = both[0].value.parse::<u32>().unwrap() + 1;
                let writes = both.iter().map(|entry| {
                    Write::update(entry.key.clone(), count.to_string(), entry.revision)
                });
                match store.write(writes.collect()).await {
                    Ok(_) => break,
                    Err(failed) => {
                        assert!(failed.error.is_conflict(), "{failed:?}");
                        assert_eq!(failed.done, [], "all or nothing, here");
                        conflicts += 1;
                    }
                }
            }
        }
        conflicts
    });
    let conflicts: u32 = join_all(writers).await.into_iter().sum();
    println!("{conflicts} conflicts");
    assert!(conflicts > 0, "the writers never met: nothing was tested");
    let values: Vec<Arc<str>> = state(&store).await.into_values().collect();
    assert_eq!(values, ["80".into(), "80".into()]);
}

/// What a batch of random writes expects, in terms of what the model holds.
#[derive(Debug, Clone, Copy)]
enum Hope {
    Any,
    Absent,
    Present,
    Current,
    Stale,
}

#[tokio::test]
async fn sequences_are_those_of_the_model() {
    let cluster = Cluster::start(1).await;
    let (store, model) = (cluster.store(), MemoryStore::new());
    let hope = prop_oneof![
        4 => Just(Hope::Any),
        2 => Just(Hope::Absent),
        2 => Just(Hope::Present),
        4 => Just(Hope::Current),
        1 => Just(Hope::Stale),
    ];
    let write = (0..4_u8, any::<bool>(), hope);
    let batch = prop::collection::vec(write, 1..6);
    let mut runner = TestRunner::deterministic();
    let (mut stopped, mut complete) = (0, 0);
    for round in 0..400 {
        let batch = batch.new_tree(&mut runner).unwrap().current();
        let here = revisions(&store).await;
        let there = revisions(&model).await;
        let writes = |revisions: &BTreeMap<Key, Revision>| -> Vec<Write> {
            let write = |(index, &(name, delete, hope)): (usize, &(u8, bool, Hope))| {
                let key = pool(&name.to_string());
                let current = revisions.get(&key).copied().unwrap_or(Revision(1 << 40));
                let expect = match hope {
                    Hope::Any => Expect::Any,
                    Hope::Absent => Expect::Absent,
                    Hope::Present => Expect::Present,
                    Hope::Current => Expect::At(current),
                    Hope::Stale => Expect::At(Revision(0)),
                };
                let value = (!delete).then(|| format!("{round}.{index}").into());
                Write { key, value, expect }
            };
            batch.iter().enumerate().map(write).collect()
        };
        let result = store.write(writes(&here)).await;
        let expected = model.write(writes(&there)).await;
        match (&result, &expected) {
            (Ok(done), Ok(model)) => {
                assert_eq!(done.len(), model.len());
                assert!(done.is_sorted());
                complete += 1;
            }
            (Err(failed), Err(model)) => {
                assert_eq!(failed.done.len(), model.done.len(), "{batch:?}: {failed}, {model}");
                let kind = std::mem::discriminant::<StoreError>;
                assert_eq!(kind(&failed.error), kind(&model.error), "{batch:?}: {failed}, {model}");
                stopped += 1;
            }
            _ => panic!("{batch:?}: {result:?}, the model {expected:?}"),
        }
        assert_eq!(state(&store).await, state(&model).await, "{batch:?}");
    }
    println!("{complete} complete, {stopped} stopped");
    assert!(complete > 50 && stopped > 50, "{complete} complete, {stopped} stopped");
}

async fn revisions(store: &dyn Datastore) -> BTreeMap<Key, Revision> {
    let listing = store.list(&pools()).await.unwrap();
    listing.entries.into_iter().map(|entry| (entry.key, entry.revision)).collect()
}
