//! A BGP route reflector (RFC 4456) that runs alone, from a file or from Calico's resources.
//!
//! `calico-rr --config FILE` runs until SIGTERM or SIGINT; its peers then keep the routes for
//! the restart time (RFC 4724). SIGHUP, or a change of the file, has it read again: only sessions
//! that the change concerns are disturbed. `--check` says all that is wrong with a file.

mod config;
mod marker;
mod run;
mod service;
mod watch;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::config::Config;

/// BGP route reflector.
#[derive(Debug, Parser)]
#[command(version, after_help = "The configuration is described in docs/route-reflector.md.")]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "/etc/calico/calico-rr.toml", value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// Serve /metrics, /healthz and /readyz here, whatever the configuration says.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    calico_router::program::run("calico-rr", || run(&arguments))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut config = Config::read(&arguments.config)?;
    if arguments.check {
        println!("{} is valid: {}", arguments.config.display(), config.summary());
        return Ok(());
    }
    config.service.metrics = arguments.metrics.or(config.service.metrics);
    // One thread is all that a speaker can use, and the cheapest to wait in.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(run::serve(&arguments.config, config))
}
