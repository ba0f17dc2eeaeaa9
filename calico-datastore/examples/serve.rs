//! Serves a store file on a unix socket: `cargo run -p calico-datastore --example serve FILE SOCKET`.
//!
//! Then, in another terminal: `CALICO_DATASTORE_SOCKET=SOCKET calicoctl get nodes`.

use std::error::Error;
use std::sync::Arc;

use calico_datastore::EmbeddedStore;
use calico_datastore::remote::{LocalListener, Server};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(file), Some(socket)) = (args.next(), args.next()) else {
        return Err("usage: serve FILE SOCKET".into());
    };
    let store = Arc::new(EmbeddedStore::open(file)?);
    let listener = LocalListener::bind(socket)?;
    println!("serving {} until Ctrl-C", store.path().display());
    Server::run(listener, store, async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            eprintln!("cannot wait for Ctrl-C: {error}");
        }
    })
    .await;
    Ok(())
}
