//! Whatever happens to the bytes of a store, it shows a state that it once had, or refuses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use calico_core::Datastore;
use calico_core::datastore::{StoreError, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::embedded::{Durability, EmbeddedStore, Options};
use proptest::prelude::*;

/// Name and value of a write; no value deletes.
type Op = (u8, Option<String>);
type State = BTreeMap<String, String>;

/// Small enough for some of the histories to be compacted on the way.
const OPTIONS: fn() -> Options =
    || Options::new().durability(Durability::Process).compact_from(1500);

/// What a history left behind.
struct Written {
    bytes: Vec<u8>,
    /// Every state the store had, the latest last.
    states: Vec<State>,
}

fn ops() -> impl Strategy<Value = Vec<Vec<Op>>> {
    let op = (0..6u8, proptest::option::weighted(0.8, "[ -~é]{0,40}"));
    proptest::collection::vec(proptest::collection::vec(op, 1..4), 1..12)
}

async fn state(store: &EmbeddedStore) -> State {
    let entries = store.list(&Scope::All).await.unwrap().entries;
    entries.into_iter().map(|entry| (entry.key.name(), entry.value.to_string())).collect()
}

async fn write(path: &Path, calls: Vec<Vec<Op>>) -> Written {
    let store = OPTIONS().open(path).unwrap();
    let mut states = vec![State::new()];
    for call in calls {
        for (name, value) in call {
            let key = Key::resource(Kind::Node, None, &format!("n{name}"));
            let write = match value {
                Some(value) => Write::put(key, value),
                None => Write::delete(key, None),
            };
            // Deleting what is not there changes nothing.
            let _ = store.write(vec![write]).await;
        }
        states.push(state(&store).await);
    }
    drop(store);
    Written { bytes: fs::read(path).unwrap(), states }
}

/// Opens `bytes` as a store: the state it shows, or `None` if it is refused as damaged.
async fn reopen(path: &Path, bytes: &[u8]) -> Option<State> {
    fs::write(path, bytes).unwrap();
    match OPTIONS().open(path) {
        Ok(store) => {
            let shown = state(&store).await;
            store.put(Key::IpamConfig, "{}".into()).await.expect("it takes writes");
            drop(store);
            let again = OPTIONS().open(path).expect("and opens once more");
            assert!(again.get(&Key::IpamConfig).await.is_ok());
            Some(shown)
        }
        Err(StoreError::Corrupt { .. }) => {
            assert_eq!(fs::read(path).unwrap(), bytes, "a refused file is left alone");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn run(test: impl AsyncFn(PathBuf)) {
    // In memory if possible: this is about bytes, and a disk makes it slow.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(test(dir.path().join("calico.db")));
}

/// States between those after each call: a call may be cut in two.
fn every_state(calls: &[Vec<Op>]) -> Vec<State> {
    let mut states = vec![State::new()];
    for (name, value) in calls.iter().flatten() {
        let mut next = states[states.len() - 1].clone();
        match value {
            Some(value) => next.insert(format!("n{name}"), value.clone()),
            None => next.remove(&format!("n{name}")),
        };
        states.push(next);
    }
    states
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn cut_anywhere_it_shows_an_earlier_state_or_refuses(calls in ops()) {
        run(async |path| {
            let known = every_state(&calls);
            let written = write(&path, calls.clone()).await;
            prop_assert_state(&known, written.states.last());
            let mut refused = 0;
            for length in 0..=written.bytes.len() {
                match reopen(&path, &written.bytes[..length]).await {
                    Some(shown) => prop_assert_state(&known, Some(&shown)),
                    None => refused += 1,
                }
            }
            assert_eq!(reopen(&path, &written.bytes).await.as_ref(), written.states.last());
            assert!(refused >= 32, "a header that is cut is no store");
        });
    }

    #[test]
    fn with_flipped_bytes_it_shows_an_earlier_state_or_refuses(
        calls in ops(),
        flips in proptest::collection::vec(
            proptest::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..5),
            64,
        ),
    ) {
        run(async |path| {
            let known = every_state(&calls);
            let written = write(&path, calls.clone()).await;
            for flips in &flips {
                let mut bytes = written.bytes.clone();
                for (at, mask) in flips {
                    let at = at.index(bytes.len());
                    bytes[at] ^= mask;
                }
                if let Some(shown) = reopen(&path, &bytes).await {
                    prop_assert_state(&known, Some(&shown));
                }
            }
        });
    }

    #[test]
    fn noise_at_the_end_is_cut_off(
        calls in ops(),
        noise in proptest::collection::vec(any::<u8>(), 1..200),
    ) {
        run(async |path| {
            let written = write(&path, calls.clone()).await;
            let bytes = [&written.bytes[..], &noise].concat();
            assert_eq!(reopen(&path, &bytes).await.as_ref(), written.states.last());
        });
    }
}

fn prop_assert_state(known: &[State], shown: Option<&State>) {
    assert!(known.iter().any(|state| Some(state) == shown), "{shown:?} was never stored");
}
