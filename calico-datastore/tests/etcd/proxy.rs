//! A TCP proxy that can be cut, and counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Stands between a client and a server.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) url: String,
    open: watch::Sender<bool>,
    target: watch::Sender<SocketAddr>,
    /// Bytes that went from the server to the client.
    down: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(url: &str) -> Self {
        let (target, current) = watch::channel(address(url));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (open, state) = watch::channel(true);
        let down = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(listener, current, state, Arc::clone(&down)));
        Self { url, open, target, down, task }
    }

    /// Ends every connection, and those that are made from now on.
    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn restore(&self) {
        self.open.send_replace(true);
    }

    /// Leads new connections to another server.
    pub(crate) fn lead_to(&self, url: &str) {
        self.target.send_replace(address(url));
    }

    /// Bytes sent to the client so far.
    pub(crate) fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").expect("a plain URL").parse().expect("an address")
}

async fn serve(
    listener: TcpListener,
    target: watch::Receiver<SocketAddr>,
    open: watch::Receiver<bool>,
    down: Arc<AtomicU64>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if *open.borrow() {
            let target = *target.borrow();
            tokio::spawn(forward(client, target, open.clone(), Arc::clone(&down)));
        }
    }
}

async fn forward(
    client: TcpStream,
    target: SocketAddr,
    mut open: watch::Receiver<bool>,
    down: Arc<AtomicU64>,
) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
            down.fetch_add(length as u64, Ordering::Relaxed);
        }
    };
    tokio::select! {
        _ = up => {}
        () = back => {}
        _ = open.wait_for(|open| !open) => {}
    }
}
