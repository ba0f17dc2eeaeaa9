//! Reading and writing.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::{policy, pool, put};
use crate::datastore::{Datastore, Revision, StoreError, Write};
use crate::key::{Key, OwnerType, Scope};
use crate::kind::Kind;

type Store = Arc<dyn Datastore>;

pub(super) async fn reads_what_was_written(store: Store) {
    assert_eq!(
        store.get(&pool("a")).await,
        Err(StoreError::NotFound { key: pool("a") }),
        "an empty store"
    );
    let first = store.create(pool("a"), "{\"n\":1}".into()).await.expect("create");
    let read = store.get(&pool("a")).await.expect("get");
    assert_eq!((&*read.value, read.revision), ("{\"n\":1}", first));

    let second = store.update(pool("a"), "{\"n\":2}".into(), first).await.expect("update");
    assert!(second > first, "revisions grow: {first}, then {second}");
    let gone = store.delete(pool("a"), Some(second)).await.expect("delete");
    assert!(gone > second, "a deletion has a revision of its own");
    assert_eq!(store.find(&pool("a")).await, Ok(None));
    let again = store.create(pool("a"), "{}".into()).await.expect("create again");
    assert!(again > gone);
}

pub(super) async fn refuses_a_write_whose_expectation_fails(store: Store) {
    let key = pool("a");
    let first = put(&*store, key.clone(), "1").await;
    let second = put(&*store, key.clone(), "2").await;
    let absent = pool("b");
    let stale = StoreError::Conflict { key: key.clone(), expected: first, found: second };

    let check = async |write: Write, error: StoreError| {
        let failed = store.write(vec![write]).await.expect_err("a refusal");
        assert_eq!((failed.done, failed.error), (vec![], error));
    };
    check(Write::create(key.clone(), "x"), StoreError::AlreadyExists { key: key.clone() }).await;
    check(Write::update(key.clone(), "x", first), stale.clone()).await;
    check(Write::delete(key.clone(), Some(first)), stale).await;
    check(Write::update(absent.clone(), "x", first), StoreError::NotFound { key: absent.clone() })
        .await;
    check(Write::delete(absent.clone(), None), StoreError::NotFound { key: absent.clone() }).await;
    assert_eq!(store.get(&key).await.map(|e| e.revision), Ok(second), "nothing was changed");
    let listing = store.list(&Scope::All).await.expect("list");
    assert!(listing.revision >= second, "a listing is not older than the last write");
}

pub(super) async fn stops_a_sequence_at_the_first_failure(store: Store) {
    let writes = vec![
        Write::create(pool("a"), "1"),
        Write::create(pool("b"), "1"),
        Write::create(pool("a"), "2"),
        Write::create(pool("c"), "1"),
    ];
    let failed = store.write(writes).await.expect_err("the third exists already");
    assert_eq!(failed.error, StoreError::AlreadyExists { key: pool("a") });
    assert_eq!(failed.done.len(), 2);
    for (key, revision) in [pool("a"), pool("b")].iter().zip(&failed.done) {
        let entry = store.get(key).await.expect("done before the failure");
        assert_eq!((&*entry.value, entry.revision), ("1", *revision));
    }
    assert!(store.get(&pool("c")).await.is_err(), "nothing after the failure is done");

    let all = vec![
        Write::create(pool("d"), "1"),
        Write::put(pool("d"), "2"),
        Write::delete(pool("d"), None),
    ];
    let done = store.write(all).await.expect("each sees what the one before did");
    assert!(done.is_sorted() && done.len() == 3, "{done:?}");
    assert_eq!(store.write(vec![]).await, Ok(vec![]));
}

pub(super) async fn lists_exactly_the_scope_in_order_of_paths(store: Store) {
    let block: ipnet::IpNet = "10.0.0.0/26".parse().expect("a prefix");
    let affinity =
        |owner: &str| Key::Affinity { owner_type: OwnerType::Host, owner: owner.to_owned(), block };
    let keys = [
        pool("b"),
        pool("a"),
        policy("default", "web"),
        policy("prod", "web"),
        policy("prod-2", "web"),
        Key::Block(block),
        affinity("n1"),
        affinity("n10"),
        Key::Handle("h".into()),
        Key::IpamHost("n1".into()),
        Key::IpamConfig,
    ];
    let mut kept = Vec::new();
    for key in keys {
        match store.put(key.clone(), "{}".into()).await {
            Ok(_) => kept.push(key),
            // Where nodes are somebody else's objects, there is no place to mark them.
            Err(StoreError::Unsupported { .. }) if key == Key::IpamHost("n1".into()) => {}
            Err(error) => panic!("{key}: {error}"),
        }
    }
    let keys = kept;
    let check = async |scope: Scope, expected: &[Key]| {
        let found = store.list(&scope).await.expect("list").entries;
        let mut expected: Vec<String> = expected.iter().map(Key::to_string).collect();
        expected.sort();
        let found: Vec<String> = found.iter().map(|entry| entry.key.to_string()).collect();
        assert_eq!(found, expected, "{scope:?}");
    };
    check(Scope::All, &keys).await;
    check(Scope::Kind(Kind::IpPool), &keys[..2]).await;
    check(Scope::Kind(Kind::NetworkPolicy), &keys[2..5]).await;
    check(Scope::Namespace(Kind::NetworkPolicy, "prod".into()), &keys[3..4]).await;
    check(Scope::Kind(Kind::Tier), &[]).await;
    check(Scope::Blocks, &keys[5..6]).await;
    check(Scope::Affinities, &keys[6..8]).await;
    check(Scope::AffinitiesOf("n1".into()), &keys[6..7]).await;
    check(Scope::Handles, &keys[8..9]).await;
    check(Scope::One(pool("a")), &[pool("a")]).await;
    check(Scope::One(pool("none")), &[]).await;
}

pub(super) async fn lets_one_of_many_concurrent_writers_win(store: Store) {
    let first = put(&*store, pool("a"), "0").await;
    let creates = join_all((0..32).map(|_| store.create(pool("b"), "{}".into()))).await;
    assert_eq!(creates.iter().filter(|r| r.is_ok()).count(), 1, "{creates:?}");
    let updates = join_all((0..32).map(|_| store.update(pool("a"), "1".into(), first))).await;
    assert_eq!(updates.iter().filter(|r| r.is_ok()).count(), 1, "{updates:?}");
    let lost = creates.iter().chain(&updates).filter_map(|r| r.as_ref().err());
    assert!(lost.into_iter().all(StoreError::is_conflict));
}

pub(super) async fn loses_no_increment_of_concurrent_writers(store: Store) {
    put(&*store, pool("counter"), "0").await;
    let writers = (0..8).map(|_| async {
        let mut revisions = Vec::new();
        while revisions.len() < 5 {
            let entry = store.get(&pool("counter")).await.expect("get");
            let count: u32 = entry.value.parse().expect("a number");
            let value = (count + 1).to_string().into();
            match store.update(pool("counter"), value, entry.revision).await {
                Ok(revision) => revisions.push(revision),
                Err(error) => assert!(error.is_conflict(), "{error}"),
            }
        }
        revisions
    });
    let revisions: Vec<Revision> = join_all(writers).await.into_iter().flatten().collect();
    assert_eq!(&*store.get(&pool("counter")).await.expect("get").value, "40");
    assert_eq!(revisions.iter().collect::<BTreeSet<_>>().len(), 40, "each write has its revision");
}

pub(super) async fn refuses_names_that_cannot_be_stored(store: Store) {
    for key in [
        pool("a/b"),
        pool(""),
        Key::Handle("x/y".into()),
        Key::Block("10.0.0.1/26".parse().expect("a prefix with host bits")),
    ] {
        let error = store.put(key.clone(), "{}".into()).await.expect_err("refused");
        assert!(matches!(error, StoreError::BadObject { .. }), "{key}: {error:?}");
    }
    assert_eq!(store.list(&Scope::All).await.expect("list").entries, []);
}

pub(super) async fn keeps_malformed_objects_and_reports_them(store: Store) {
    put(&*store, pool("bad"), "{\"spec\": [not json").await;
    put(&*store, pool("good"), "{\"n\":7}").await;
    let listing = store.list(&Scope::Kind(Kind::IpPool)).await.expect("one bad object is no error");
    let decoded: Vec<_> =
        listing.entries.iter().map(|entry| entry.decode::<serde_json::Value>()).collect();
    assert!(
        matches!(&decoded[0], Err(StoreError::BadObject { path, .. }) if path.ends_with("/bad")),
        "{decoded:?}"
    );
    assert_eq!(decoded[1], Ok(serde_json::json!({"n": 7})));
}

pub(super) async fn keeps_large_and_odd_values(store: Store) {
    let large = "\"é\\\u{1}".repeat(200_000);
    for value in ["", " ", "\u{0}\n\"\\", "日本語", &large] {
        put(&*store, pool("a"), value).await;
        assert_eq!(&*store.get(&pool("a")).await.expect("get").value, value);
    }
}
