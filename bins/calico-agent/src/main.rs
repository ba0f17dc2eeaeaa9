//! The node agent of Calico in Rust; see the library `calico_agent` for what it does.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use calico_agent::config::Config;
use calico_agent::run::run;
use calico_router::program;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

const DEFAULT_FILE: &str = "/etc/calico/agent.toml";

/// Node agent: policy, routes, BGP and the CNI service of this host.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration. Default: /etc/calico/agent.toml if it is there, else the variables that
    /// upstream's node reads.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::run("calico-agent", || start(&arguments))
}

fn start(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (config, origin) = match &arguments.config {
        Some(path) => (Config::read(path)?, path.display().to_string()),
        None if Path::new(DEFAULT_FILE).exists() => {
            (Config::read(Path::new(DEFAULT_FILE))?, DEFAULT_FILE.to_owned())
        }
        None => (Config::from_env(), "the environment".to_owned()),
    };
    if arguments.check {
        let node = config.node_name()?;
        config.store()?;
        println!("{origin} is valid: node {node}");
        return Ok(());
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // The agent waits for the kernel and the network, not for processors.
    runtime.worker_threads(2).max_blocking_threads(16).enable_all();
    runtime.build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(run(config, shutdown).await?)
    })
}
