//! Keeps resources in one file, serves them on a unix socket, follows changes from the other end
//! of it, and finds everything again after a restart.

use std::error::Error;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::{WatchEvent, WatchStream};
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_core::resource::{IpPool, IpPoolSpec};
use calico_datastore::remote::{LocalListener, Server};
use calico_datastore::{EmbeddedStore, RemoteStore};
use futures_util::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let (file, socket) = (directory.path().join("calico.db"), directory.path().join("calico.sock"));

    // The one process that has the file, such as a node's agent.
    let store = Arc::new(EmbeddedStore::open(&file)?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let server = tokio::spawn(Server::run(LocalListener::bind(&socket)?, store, shutdown));

    // Another one on the same host, such as a command line client. It is a `Datastore`, too.
    // A watch opens with a listing in brackets: there is nothing yet.
    let client = RemoteStore::connect(&socket);
    let mut watch = client.watch(Scope::Kind(Kind::IpPool), None);
    print_events(&mut watch, 2).await;

    let mut pool = IpPool::new("pods", IpPoolSpec::new("10.65.0.0/16".parse()?));
    let first = client.create(pool.key(), pool.to_json()).await?;
    pool.spec.nat_outgoing = true;
    let second = client.update(pool.key(), pool.to_json(), first).await?;
    // Who has read the first version only cannot delete (or overwrite) the second.
    if let Err(error) = client.delete(pool.key(), Some(first)).await {
        println!("refused (a conflict: {}): {error}", error.is_conflict());
    }
    client.delete(pool.key(), Some(second)).await?;
    client.create(pool.key(), pool.to_json()).await?;
    // Read late, and still every change is told.
    print_events(&mut watch, 4).await;

    drop(stop);
    server.await?;
    if let Err(error) = client.list(&Scope::All).await {
        println!("without the server, worth a retry ({})", error.is_retryable());
    }

    let store = EmbeddedStore::open(&file)?;
    let entry = store.get(&pool.key()).await?;
    let read: IpPool = entry.decode()?;
    println!("after a restart: {} {} at revision {}", read.name(), read.spec.cidr, entry.revision);
    Ok(())
}

async fn print_events(watch: &mut WatchStream, count: usize) {
    for event in watch.take(count).collect::<Vec<_>>().await {
        match event {
            WatchEvent::Begin => println!("watch: a listing starts"),
            WatchEvent::Item(entry) => println!("watch: there is {}", entry.key),
            WatchEvent::Ready(at) => println!("watch: that was all, as of revision {at}"),
            WatchEvent::Put(entry) => println!("watch: {}: {}", entry.revision, entry.value),
            WatchEvent::Gone { key, revision } => println!("watch: {revision}: {key} is gone"),
            other => println!("watch: {other:?}"), // a bad object, a broken connection
        }
    }
}
