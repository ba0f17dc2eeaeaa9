//! Labs of network namespaces that run the programs of this workspace.

mod commands;

use std::process::ExitCode;

use calico_lab::error::describe;
use calico_lab::topology::StoreKind;
use calico_lab::{LabError, bench, cleanup, demo};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Builds labs of nodes, pods and routers from network namespaces, and runs the real programs
/// in them. Needs root; leaves the network of this machine alone.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show nodes, sessions, pods, routes, traffic and a policy at work, and remove all of it.
    Demo {
        /// A topology file, or one of the program: mesh, rr, rr2, bird, racks, nodes_as, downward,
        /// leaves, bigip, vxlan, ipip.
        #[arg(long, default_value = "mesh")]
        topology: String,
        /// Where the resources are kept [default: as the topology says, else embedded].
        #[arg(long, value_enum)]
        store: Option<StoreKind>,
        /// Leave the lab running.
        #[arg(long)]
        keep: bool,
    },
    /// Measure what a pod's network costs, against a peer and the bare kernel calls.
    Bench {
        /// How many pods.
        #[arg(long, default_value_t = 100)]
        pods: usize,
    },
    /// Build a lab and leave it running.
    Up {
        /// A topology file, or one of the program: mesh, rr, rr2, bird, racks, nodes_as, downward,
        /// leaves, bigip, vxlan, ipip.
        topology: String,
        /// Where the resources are kept [default: as the topology says, else embedded].
        #[arg(long, value_enum)]
        store: Option<StoreKind>,
    },
    /// Remove a lab, also while it is being built.
    Down {
        /// Its name; may be left out if there is one lab only.
        lab: Option<String>,
    },
    /// Run a command inside a node, router or pod (NAME or NAMESPACE/NAME).
    Exec {
        /// The lab; may be left out if there is one lab only.
        #[arg(long)]
        lab: Option<String>,
        /// Where.
        member: String,
        /// What.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// List the labs of this machine.
    List,
    /// Remove what labs left that were killed. Running labs stay.
    Clean,
    /// Check a topology file.
    Check {
        /// The file.
        topology: String,
    },
    /// Listen on ports and answer with a name (runs inside of pods).
    #[command(hide = true)]
    Serve {
        /// The answer.
        name: String,
        #[arg(long)]
        tcp: Vec<u16>,
        #[arg(long)]
        udp: Vec<u16>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Demo { topology, store, keep } => interruptible(async || {
            let (mut topology, text) = calico_lab::builtin::find(&topology)?;
            topology.store = store.unwrap_or(topology.store);
            demo::run(topology, &text, keep).await
        }),
        Command::Bench { pods } => interruptible(async || bench::run(pods).await),
        Command::Up { topology, store } => {
            interruptible(async || commands::up(&topology, store).await)
        }
        Command::Down { lab } => commands::down(lab),
        Command::Exec { lab, member, command } => commands::exec(lab, &member, &command),
        Command::List => commands::list(),
        Command::Clean => commands::clean(),
        Command::Check { topology } => commands::check(&topology),
        Command::Serve { name, tcp, udp } => commands::serve(&name, &tcp, &udp),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("calico-lab: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs work that builds a lab. Ctrl-C, SIGTERM and SIGHUP drop it, and with it the lab; a panic
/// removes the lab also where panics do not unwind.
fn interruptible(work: impl AsyncFnOnce() -> Result<(), LabError>) -> Result<ExitCode, LabError> {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        cleanup::remove_own();
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| LabError::Machine(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(async {
        let handler = |kind| {
            signal(kind)
                .map_err(|error| LabError::Machine(format!("cannot handle signals: {error}")))
        };
        let mut interrupt = handler(SignalKind::interrupt())?;
        let mut terminate = handler(SignalKind::terminate())?;
        let mut hang_up = handler(SignalKind::hangup())?;
        tokio::select! {
            outcome = work() => outcome.map(|()| ExitCode::SUCCESS),
            _ = interrupt.recv() => Ok(interrupted(SignalKind::interrupt())),
            _ = terminate.recv() => Ok(interrupted(SignalKind::terminate())),
            _ = hang_up.recv() => Ok(interrupted(SignalKind::hangup())),
        }
    })
}

/// 128 and the signal's number, as shells report it.
fn interrupted(kind: SignalKind) -> ExitCode {
    eprintln!("\ncalico-lab: interrupted, removing the lab");
    let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
    ExitCode::from(128 + number)
}
