//! A store over a socket, when things go wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;
mod link;
mod sharing;
mod silence;
mod strangers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{StoreError, WatchEvent, WatchStream};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_datastore::remote::{LocalListener, Server};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

fn node(name: &str) -> Key {
    Key::resource(Kind::Node, None, name)
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datastore.sock");
    (dir, path)
}

/// A server, and what ends it in good order.
fn serve(socket: &Path, store: Arc<dyn Datastore>) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let listener = LocalListener::bind(socket).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::run(listener, store, async {
        let _ = stopped.await;
    });
    (stop, tokio::spawn(server))
}

async fn next(watch: &mut WatchStream) -> WatchEvent {
    timeout(Duration::from_secs(10), watch.next()).await.expect("an event in 10 s").unwrap()
}

fn reason(error: StoreError) -> String {
    match error {
        StoreError::Unavailable { reason } => reason,
        other => panic!("{other:?}"),
    }
}
