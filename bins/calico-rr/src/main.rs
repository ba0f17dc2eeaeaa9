//! A BGP route reflector (RFC 4456) that runs alone, from a file.
//!
//! `calico-rr --config FILE` runs until SIGTERM or SIGINT; its peers then keep the routes for
//! the restart time (RFC 4724). SIGHUP reads the file again: only sessions that it changes are
//! disturbed. `--check` reads the file and says what is wrong with it.

mod config;

use std::error::Error;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use calico_bgp::runtime::{Shutdown, SpeakerHandle};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::Config;

/// BGP route reflector.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "/etc/calico/calico-rr.toml", value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("calico-rr: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let config = Config::read(&arguments.config)?;
    if arguments.check {
        println!("{} is valid: {} neighbors", arguments.config.display(), config.neighbors.len());
        return Ok(());
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all();
    runtime.build()?.block_on(serve(&arguments.config, config))
}

async fn serve(path: &Path, mut config: Config) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let marker = config.run_dir.join("running");
    let mut speaker_config = config.speaker();
    speaker_config.restarting = marker.exists();
    let speaker = SpeakerHandle::spawn(speaker_config)?;
    if let Err(error) = leave(&marker) {
        warn!(%error, marker = %marker.display(), "peers will drop the routes at a restart");
    }
    speaker.set_peers(config.peers()).await??;
    info!(
        as_number = config.as_number, router_id = %config.router_id,
        neighbors = config.neighbors.len(), listening = ?speaker.listening(),
        "reflecting routes"
    );
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => match Config::read(path) {
                Ok(new) if new.speaker() != config.speaker() => {
                    error!("as, router_id, cluster_id and listen need a restart; nothing changed");
                }
                Ok(new) => {
                    let changes = speaker.set_peers(new.peers()).await??;
                    info!(
                        added = ?changes.added, removed = ?changes.removed,
                        restarted = ?changes.restarted, "read the configuration again"
                    );
                    config = new;
                }
                Err(error) => error!(error = &error as &dyn Error, "the configuration stays"),
            },
        }
    }
    info!("stopping; peers keep the routes for the restart time");
    speaker.shutdown(Shutdown::GracefulRestart).await;
    Ok(())
}

/// Leaves the mark that tells a successor that peers may still have our routes.
fn leave(marker: &Path) -> std::io::Result<()> {
    if let Some(directory) = marker.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(marker, [])
}
