//! Puts a layer of one's own around a datastore: it writes down each call, and loses one answer
//! on purpose. IPAM on top of it does not notice, but for one error.
//!
//! A backend for another database is the same four methods.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use calico_core::resource::{IpPool, IpPoolSpec};
use calico_ipam::{AssignRequest, Ipam, Options};

#[derive(Debug)]
struct Tapped {
    inner: MemoryStore,
    /// Whether the answer to the next write is lost.
    lose: AtomicBool,
}

#[async_trait]
impl Datastore for Tapped {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        println!("  get {key}");
        self.inner.get(key).await
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        println!("  list {scope}");
        self.inner.list(scope).await
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let result = self.inner.write(writes).await;
        let (done, error) = match &result {
            Ok(done) => (done, None),
            Err(failed) => (&failed.done, Some(&failed.error)),
        };
        keys.iter().zip(done).for_each(|(key, revision)| println!("  write {key} = {revision}"));
        error.iter().for_each(|error| println!("  write refused: {error}"));
        if self.lose.swap(false, Ordering::Relaxed) {
            println!("  ... and the answer is lost");
            return Err(StoreError::Unavailable { reason: "the line is dead".to_owned() }.into());
        }
        result
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        println!("  watch {scope}");
        self.inner.watch(scope, from)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = Arc::new(Tapped { inner: MemoryStore::new(), lose: AtomicBool::new(false) });
    println!("a pool:");
    let pool = IpPool::new("pods", IpPoolSpec::new("10.65.0.0/16".parse()?));
    store.create(pool.key(), pool.to_json()).await?;

    let ipam = Ipam::new(store.clone(), Options::default());
    // `reuse`: addresses that the handle has already count. So the request can be repeated.
    let request = |pod: &str| AssignRequest::new("node1").handle(pod).v4(1).reuse();
    println!("the first address of a node:");
    let first = ipam.auto_assign(request("web-0")).await?.complete()?;
    println!("= {}", first.v4[0].ip);

    println!("the next one, over a bad line:");
    store.lose.store(true, Ordering::Relaxed);
    if let Err(error) = ipam.auto_assign(request("web-1")).await {
        println!("= failed, worth a retry ({}): {error}", error.is_retryable());
    }
    println!("the same again:");
    let second = ipam.auto_assign(request("web-1")).await?.complete()?;
    println!("= {}", second.v4[0].ip);
    println!("addresses of web-1: {:?}", ipam.addresses_by_handle("web-1").await?);
    Ok(())
}
