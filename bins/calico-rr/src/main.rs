//! A BGP route reflector (RFC 4456) that runs alone, from a file or from Calico's resources.
//!
//! `calico-rr --config FILE` runs until SIGTERM or SIGINT; its peers then keep the routes for
//! the restart time (RFC 4724). SIGHUP, or a change of the file, has it read again: only sessions
//! that the change concerns are disturbed. `--check` says all that is wrong with a file.

mod config;
mod datastore;
mod marker;
mod reflector;
mod run;
mod service;
mod watch;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::config::{Config, Service};

/// BGP route reflector.
#[derive(Debug, Parser)]
#[command(version, after_help = "docs/route-reflector.md describes the configuration.")]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "/etc/calico/calico-rr.toml", value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// Take the neighbors from Calico's resources instead: the socket of an agent that serves
    /// its store, URLs of etcd with commas between, a settings file of calicoctl, or `env` for
    /// the environment variables of calicoctl.
    #[arg(long, value_name = "WHERE", conflicts_with_all = ["config", "check"])]
    datastore: Option<String>,
    /// With a datastore: the Node that this is [default: NODENAME, else the host's name].
    #[arg(long, value_name = "NAME", requires = "datastore")]
    node: Option<String>,
    /// With a datastore: passwords of sessions, as files SECRET/KEY.
    #[arg(long, value_name = "DIR", default_value = "/etc/calico/secrets")]
    secrets: PathBuf,
    /// Directory of the control socket [default: that of the configuration, else /run/calico-rr].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz here, whatever the configuration says.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
}

impl Arguments {
    /// What the command line says counts more.
    fn overrule(&self, service: &mut Service) {
        service.metrics = self.metrics.or(service.metrics);
        if let Some(run_dir) = &self.run_dir {
            service.run_dir.clone_from(run_dir);
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    calico_router::program::run("calico-rr", || run(&arguments))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    // One thread is all that a speaker can use, and the cheapest to wait in.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all();
    if let Some(place) = &arguments.datastore {
        let mut service = Service::default();
        arguments.overrule(&mut service);
        let node = datastore::node_name(arguments.node.as_deref())?;
        let secrets = arguments.secrets.clone();
        let source = datastore::Source { place: datastore::place(place)?, node, secrets };
        return runtime.build()?.block_on(source.serve(&service));
    }
    let config = Config::read(&arguments.config)?;
    if arguments.check {
        println!("{} is valid: {}", arguments.config.display(), config.summary());
        return Ok(());
    }
    let overrule = |service: &mut Service| arguments.overrule(service);
    runtime.build()?.block_on(run::serve(&arguments.config, config, overrule))
}
