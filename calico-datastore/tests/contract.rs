//! Every store keeps the contract of `Datastore`.

use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::memory::MemoryStore;
use calico_core::testing::contract::{self, Case};
use calico_datastore::embedded::Options;

const LIMIT: Duration = Duration::from_secs(30);

async fn check(case: &Case, store: Arc<dyn Datastore>) {
    println!("{case:?}");
    let done = tokio::time::timeout(LIMIT, case.run(store)).await;
    assert!(done.is_ok(), "{case:?} is not done after {LIMIT:?}");
}

#[tokio::test]
async fn memory() {
    for case in contract::CASES {
        check(case, Arc::new(MemoryStore::with_history(contract::HISTORY))).await;
    }
}

#[tokio::test]
async fn embedded() {
    for case in contract::CASES {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().history(contract::HISTORY).compact_from(20_000);
        check(case, Arc::new(options.open(dir.path().join("calico.db")).unwrap())).await;
    }
}
