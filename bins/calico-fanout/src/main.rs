//! Serves a datastore to many agents: one watch on the store, any number here.

mod config;
mod figures;
mod pages;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use calico_datastore::fanout::Fanout;
use calico_datastore::remote::{Counters, Server, TlsListener};
use calico_observe::program;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::config::Config;
use crate::pages::Pages;

/// Serves a datastore to many agents over TLS, at the cost of one watch on it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "/etc/calico/fanout.toml", value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and its certificates, and exit.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::run("calico-fanout", || start(&arguments))
}

fn start(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let config = Config::read(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(config, arguments))
}

async fn run(config: Config, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let listen = if arguments.check { "127.0.0.1:0" } else { config.listen.as_str() };
    let socket = TcpListener::bind(listen)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let address = socket.local_addr()?;
    let listener = TlsListener::new(socket, config.tls)?;
    let store = calico_datastore::open(&config.datastore)?;
    if arguments.check {
        println!("{} is valid", arguments.config.display());
        return Ok(());
    }
    let fanout = Arc::new(Fanout::start(store));
    let counters = Arc::<Counters>::default();
    let pages =
        config.pages.map(|place| Pages::new(Arc::clone(&fanout), Arc::clone(&counters), place));
    let pages = tokio::spawn(async move {
        match pages {
            Some(pages) => pages.serve().await,
            None => std::future::pending().await,
        }
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    info!(%address, "serves the datastore");
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Server::run_counted(config.clients, counters, listener, fanout, shutdown).await;
    info!("stops; clients go on with what they know and look for another server");
    pages.abort();
    Ok(())
}
