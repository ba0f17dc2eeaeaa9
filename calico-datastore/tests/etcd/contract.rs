//! The contract of `Datastore`.

use std::sync::Arc;

use calico_core::testing::contract;

use super::LIMIT;
use super::server::Cluster;

#[tokio::test]
async fn one_server_keeps_the_contract() {
    check(1).await;
}

#[tokio::test]
async fn three_servers_keep_the_contract() {
    check(3).await;
}

async fn check(size: usize) {
    let cluster = Cluster::start(size).await;
    for case in contract::CASES {
        println!("{case:?}");
        let done = tokio::time::timeout(LIMIT, case.run(Arc::new(cluster.store()))).await;
        assert!(done.is_ok(), "{case:?} is not done after {LIMIT:?}");
        cluster.clear();
    }
}
