//! `policy`: what may be asked about packets.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::AgentArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what becomes of a packet, which rule decides, and why each earlier one does not match
    #[command(after_help = ENDS)]
    Explain {
        /// Who sends
        #[arg(long, value_name = "END")]
        from: String,
        /// Who receives, on which port
        #[arg(long, value_name = "END[:PORT[/PROTOCOL]]")]
        to: String,
        /// Port that it is sent from
        #[arg(long, value_name = "PORT", default_value_t = 40_000)]
        source_port: u16,
        /// Over IPv6, where both ends have both families
        #[arg(short = '6', long)]
        ipv6: bool,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Say which flows would change their verdict if resources were applied
    Diff {
        /// File or directory with the resources, or `-` for the standard input
        #[arg(short, long, required = true, value_name = "PATH")]
        filename: PathBuf,
        /// Go into directories below the one given
        #[arg(short = 'R', long)]
        recursive: bool,
        /// Namespace of resources that name none
        #[arg(short, long)]
        namespace: Option<String>,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Show which packets this node dropped or logged, who sent them to whom, and by which rule
    #[command(after_help = LOG)]
    Log {
        /// Go on with what happens from now on
        #[arg(short, long)]
        follow: bool,
        /// Only packets from, to, or at this pod; may be repeated
        #[arg(long, value_name = "[NAMESPACE/]POD")]
        pod: Vec<String>,
        /// Only verdicts by rules of this policy or profile; may be repeated
        #[arg(long, value_name = "[NAMESPACE/]NAME")]
        policy: Vec<String>,
        /// Only these verdicts
        #[arg(long, value_enum, value_delimiter = ',')]
        verdict: Vec<VerdictName>,
        /// text, or json: one object in a line
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: String,
        #[command(flatten)]
        agent: AgentArgs,
    },
}

const LOG: &str = "The agent remembers the last 1024 verdicts. What it reports: packets that policy \
drops, and those that a rule of action Log matches; packets that are let through are not reported.";

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum VerdictName {
    Allowed,
    Denied,
    Logged,
}

/// Which cluster is looked at, and how the answer is written.
#[derive(Debug, Clone, Args)]
pub(crate) struct StateArgs {
    /// Take resources, and Kubernetes' own objects, from files in this directory and below, not
    /// from the datastore
    #[arg(long, value_name = "DIR")]
    pub(crate) offline: Option<PathBuf>,
    /// text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: String,
}

const ENDS: &str =
    "An end is [NAMESPACE/]NAME of a pod or its WorkloadEndpoint, an address, or one of
  hep/NAME                   a HostEndpoint: the node itself, behind it
  node/NAME                  a node, by its address
  svc/[NAMESPACE/]NAME       as --to: every backend of a service that is ready
  203.0.113.0/24             all addresses of a network; says where their verdicts part
Examples:
  --to prod/web:80           TCP port 80
  --to prod/web:53/UDP       UDP port 53
  --to prod/web:http         the pod's port of that name
  --to prod/web              a ping
  --to svc/prod/web:http     the backends' port of that name (or number)
  --to '[2001:db8::1]:443'   an IPv6 address outside

Asked are the policies of the workload that sends, of host endpoints whose policy applies to what
their node forwards, and of the workload that receives.";
