//! A connection in memory that can be cut, or fall silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use calico_core::Datastore;
use calico_datastore::remote::{Connect, Listen, RemoteStore, Server, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, oneshot};

/// Connections in memory that the test can cut.
#[derive(Debug)]
pub(crate) struct Cuttable {
    accept: mpsc::UnboundedSender<DuplexStream>,
    links: std::sync::Mutex<Vec<oneshot::Sender<()>>>,
    /// Bytes that each connection brings from the server before it brings nothing any more.
    most: Arc<AtomicUsize>,
}

struct Accepting(mpsc::UnboundedReceiver<DuplexStream>);

#[async_trait]
impl Listen for Accepting {
    type Io = DuplexStream;
    async fn accept(&mut self) -> std::io::Result<DuplexStream> {
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Connect for Cuttable {
    async fn connect(&self) -> std::io::Result<Box<dyn Transport>> {
        let (client, near) = tokio::io::duplex(1024);
        let (far, server) = tokio::io::duplex(1024);
        let (cut, is_cut) = oneshot::channel();
        self.links.lock().unwrap().push(cut);
        self.accept.send(server).unwrap();
        let most = Arc::clone(&self.most);
        tokio::spawn(async move {
            let (mut from_client, to_client) = tokio::io::split(near);
            let (from_server, mut to_server) = tokio::io::split(far);
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                () = bring(from_server, to_client, &most) => {}
                _ = is_cut => {}
            }
        });
        Ok(Box::new(client))
    }
    fn describe(&self) -> String {
        "a test".into()
    }
    fn advice(&self, _: &std::io::Error) -> Option<&'static str> {
        None
    }
}

pub(crate) fn over_cuttable(store: Arc<dyn Datastore>) -> (RemoteStore, Arc<Cuttable>) {
    let (accept, accepted) = mpsc::unbounded_channel();
    tokio::spawn(Server::run(Accepting(accepted), store, std::future::pending()));
    let most = Arc::new(AtomicUsize::new(usize::MAX));
    let link = Arc::new(Cuttable { accept, links: std::sync::Mutex::default(), most });
    (RemoteStore::over(Arc::clone(&link)), link)
}

async fn bring(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    most: &AtomicUsize,
) {
    let (mut brought, mut buffer) = (0, [0; 256]);
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        brought += length;
        if brought > most.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

impl Cuttable {
    /// The server falls silent on each connection, as if it were stopped, after that many bytes.
    pub(crate) fn silent_after(&self, bytes: usize) {
        self.most.store(bytes, Ordering::Relaxed);
    }
    pub(crate) fn cut(&self) {
        self.links.lock().unwrap().drain(..).for_each(drop);
    }
    pub(crate) fn connections(&self) -> usize {
        self.links.lock().unwrap().len()
    }
}
