//! Every store keeps the contract of `Datastore`.

use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::memory::MemoryStore;
use calico_core::testing::contract::{self, Case};
use calico_datastore::embedded::Options;
use calico_datastore::remote::{LocalListener, RemoteStore, Server};

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

#[tokio::test]
async fn remote_over_memory() {
    for case in contract::CASES {
        over_a_socket(case, Arc::new(MemoryStore::with_history(contract::HISTORY))).await;
    }
}

#[tokio::test]
async fn remote_over_embedded() {
    for case in contract::CASES {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().history(contract::HISTORY).compact_from(20_000);
        over_a_socket(case, Arc::new(options.open(dir.path().join("calico.db")).unwrap())).await;
    }
}

async fn over_a_socket(case: &Case, store: Arc<dyn Datastore>) {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("datastore.sock");
    let listener = LocalListener::bind(&socket).expect("a socket");
    let server = tokio::spawn(Server::run(listener, store, std::future::pending()));
    check(case, Arc::new(RemoteStore::connect(&socket))).await;
    server.abort();
}
