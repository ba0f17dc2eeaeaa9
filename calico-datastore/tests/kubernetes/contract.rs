//! The Kubernetes backend keeps the contract of `Datastore`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchEvent, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::testing::contract;
use calico_datastore::conversion::ApiGroup;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::{Etcd, Turn};

const LIMIT: Duration = Duration::from_secs(180);

/// Cases about texts that are no objects at all: the API server keeps objects only. What it says
/// to them is tested on its own.
const TEXTS: [&str; 2] = ["keeps_malformed_objects_and_reports_them", "keeps_large_and_odd_values"];

/// The contract writes short texts; a custom resource must be a valid object. Each text travels
/// in an annotation of one, and views of what every cluster has are left out.
#[derive(Debug)]
struct Carrier<S>(S);

const TEXT: &str = "contract/text";

fn carried(key: &Key) -> bool {
    matches!(key, Key::Resource { kind: Kind::IpPool | Kind::NetworkPolicy, .. })
}

fn wrap(write: Write) -> Write {
    let Some(text) = write.value.as_deref() else { return write };
    let object = match &write.key {
        Key::Resource { kind, namespace, name } => json!({
            "kind": kind, "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": name, "namespace": namespace, "annotations": {TEXT: text}},
            "spec": if *kind == Kind::IpPool { json!({"cidr": "10.0.0.0/16"}) } else { json!({}) },
        }),
        Key::Block(net) => json!({"cidr": net, "affinity": null, "allocations": [],
            "unallocated": [], "attributes": [], "sequenceNumber": 1,
            "sequenceNumberForAllocation": {}, "deleted": false}),
        Key::Affinity { .. } => json!({"state": "confirmed", "deleted": false}),
        Key::Handle(_) => json!({"block": {}, "deleted": false}),
        _ => json!({"strict_affinity": false}),
    };
    Write { value: Some(object.to_string().into()), ..write }
}

fn unwrap(mut entry: Entry) -> Entry {
    if carried(&entry.key) {
        let object: Value = serde_json::from_str(&entry.value).unwrap();
        assert_eq!(object["metadata"]["resourceVersion"], entry.revision.to_string());
        entry.value = object["metadata"]["annotations"][TEXT].as_str().unwrap().into();
    }
    entry
}

fn own(key: &Key) -> bool {
    let views = [Kind::Profile, Kind::Node, Kind::WorkloadEndpoint];
    key.kind().is_none_or(|kind| !views.contains(&kind) && !kind.is_internal())
}

#[async_trait]
impl<S: Datastore> Datastore for Carrier<S> {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.0.get(key).await.map(unwrap)
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        let listing = self.0.list(scope).await?;
        let entries = listing.entries.into_iter().filter(|entry| own(&entry.key)).map(unwrap);
        Ok(Listing { entries: entries.collect(), revision: listing.revision })
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        self.0.write(writes.into_iter().map(wrap).collect()).await
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        let events = self.0.watch(scope, from).map(|event| match event {
            WatchEvent::Item(entry) => WatchEvent::Item(unwrap(entry)),
            WatchEvent::Put(entry) => WatchEvent::Put(unwrap(entry)),
            other => other,
        });
        Box::pin(events)
    }
}

async fn check(group: ApiGroup, etcd: Etcd) {
    let Some(turn) = Turn::take(etcd) else { return };
    for case in contract::CASES.iter().filter(|case| !TEXTS.contains(&case.name)) {
        turn.clear().await;
        let start = std::time::Instant::now();
        let store = Arc::new(Carrier(turn.store(group)));
        let done = tokio::time::timeout(LIMIT, case.run(store)).await;
        assert!(done.is_ok(), "{case:?} is not done after {LIMIT:?}");
        println!("{group}: {case:?} after {:?}", start.elapsed());
    }
    turn.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_group_in_pages() {
    check(ApiGroup::Crd, Etcd::Debian).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_group_in_streams() {
    check(ApiGroup::V3, Etcd::Current).await;
}
