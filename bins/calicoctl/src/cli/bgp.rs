//! `bgp`: what may be asked about sessions and routes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Whom to ask about BGP, and how to show the answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct BgpArgs {
    /// Unix socket of the control service [default: /var/run/calico/control.sock or
    /// /run/calico-rr/control.sock, whichever is there]
    #[arg(long, env = "CALICO_CONTROL_SOCKET", value_name = "PATH")]
    pub(crate) control_socket: Option<PathBuf>,
    /// text or json
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BgpCommand {
    /// List the neighbors and their sessions
    Peers {
        #[command(flatten)]
        args: BgpArgs,
    },
    /// List the routes with all their paths
    Routes {
        /// Only destinations inside of this prefix
        prefix: Option<String>,
        #[command(flatten)]
        args: BgpArgs,
    },
    /// Tell why a route is the best, why others are not, and which neighbors hear of it
    Explain {
        /// The destination, or an address in it
        prefix: String,
        #[command(flatten)]
        args: BgpArgs,
    },
    /// Show a neighbor, or the routes that it was told or told itself
    Neighbor {
        /// Its address, with the port if there are several
        #[arg(value_name = "ADDRESS")]
        neighbor: String,
        /// Which routes
        #[arg(value_enum)]
        routes: Option<NeighborRoutes>,
        #[command(flatten)]
        args: BgpArgs,
    },
}

/// Which routes of a neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NeighborRoutes {
    /// What it has been told
    Advertised,
    /// What it told, and what became of it
    Received,
}
