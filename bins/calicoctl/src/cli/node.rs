//! `node`, `endpoint` and `cluster`: what concerns one node's agent, or all of them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Wait for endpoints of this node
    #[command(after_help = WAIT)]
    Wait {
        /// Pods or WorkloadEndpoints; one that the datastore does not have yet is waited for
        #[arg(value_name = "[NAMESPACE/]NAME", required_unless_present = "all")]
        names: Vec<String>,
        /// Every endpoint that the datastore has on this node
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Until the kernel enforces their policy, as the datastore has it when this starts
        #[arg(long, required = true)]
        programmed: bool,
        /// Namespace of names without one [default: default]
        #[arg(short, long)]
        namespace: Option<String>,
        /// The longest time, as 90s or 2m
        #[arg(long, value_name = "TIME", default_value = "60s")]
        timeout: String,
        /// Do not say on the standard error what is waited for
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        agent: AgentArgs,
    },
}

const WAIT: &str =
    "Exit code: 0 the policy of all of them is in force; 2 it was not in time; 1 the \
question makes no sense, as for an endpoint of another node, or the agent may not be asked.

What has been written to the datastore before is waited for, what has been deleted is not.";

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Collect what others need to find a fault, in one file: needs kubectl for what Kubernetes knows
    Diags(crate::cluster_diags::DiagsArgs),
}

/// How this host's agent is asked.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Unix socket of the agent's control service
    #[arg(
        long,
        env = "CALICO_CONTROL_SOCKET",
        value_name = "PATH",
        default_value = crate::node::CONTROL_SOCKET
    )]
    pub(crate) control_socket: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Run the agent of this host in the foreground, by upstream's flags
    Run(Box<crate::node::run::RunArgs>),
    /// Show the agent and the BGP sessions of this node
    Status {
        #[command(flatten)]
        agent: AgentArgs,
    },
    /// Check that the kernel has what Calico needs
    Checksystem {
        /// The kernel's configuration, if it is not in a usual place
        #[arg(short = 'f', long, value_name = "FILE")]
        kernel_config: Option<PathBuf>,
    },
    /// Collect what others need to find a fault, in one file
    Diags {
        /// Where the logs are
        #[arg(long, value_name = "DIR", default_value = "/var/log/calico")]
        log_dir: PathBuf,
        /// Where the file goes [default: the directory for temporary files]
        #[arg(short, long, value_name = "DIR")]
        output_dir: Option<PathBuf>,
    },
}
