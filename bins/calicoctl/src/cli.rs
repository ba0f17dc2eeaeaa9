//! The command line.

mod bgp;
mod ipam;
mod node;
mod policy;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use self::bgp::{BgpArgs, BgpCommand, NeighborRoutes};
pub(crate) use self::ipam::{DatastoreCommand, IpamCommand, MigrateCommand};
pub(crate) use self::node::{AgentArgs, ClusterCommand, EndpointCommand, NodeCommand};
pub(crate) use self::policy::{PolicyCommand, StateArgs, VerdictName};
use crate::patch::PatchType;

/// Manages Calico's resources, shows what IPAM gave out, and how this node is.
#[derive(Debug, Parser)]
#[command(name = "calicoctl", version, propagate_version = false, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the datastore is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StoreArgs {
    /// Unix socket of the agent that serves the datastore [default: $CALICO_DATASTORE_SOCKET, else
    /// /var/run/calico/datastore.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// File that says how to reach the datastore [default: /etc/calico/calicoctl.cfg, if it exists]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Accepted for scripts; nothing is logged
    #[arg(short, long, global = true, hide = true)]
    pub(crate) log_level: Option<String>,
    /// Accepted for scripts; there is no kubeconfig
    #[arg(long, global = true, hide = true)]
    pub(crate) context: Option<String>,
    /// Work on a cluster of another version, too
    #[arg(long, global = true)]
    pub(crate) allow_version_mismatch: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create resources that do not exist yet
    Create {
        #[command(flatten)]
        input: InputArgs,
        /// Pass over resources that exist already
        #[arg(long)]
        skip_exists: bool,
        #[command(flatten)]
        dry: DryArgs,
    },
    /// Create resources, or replace those that exist
    Apply {
        #[command(flatten)]
        input: InputArgs,
        #[command(flatten)]
        dry: DryArgs,
    },
    /// Replace resources that exist
    Replace {
        #[command(flatten)]
        input: InputArgs,
        #[command(flatten)]
        dry: DryArgs,
    },
    /// Show what apply would change; exit code 0: nothing, 1: something, 2: it failed
    Diff {
        #[command(flatten)]
        input: InputArgs,
    },
    /// Change a part of a resource
    #[command(after_help = PATCHES)]
    Patch {
        /// Kind of the resource
        kind: String,
        /// Name of the resource
        name: String,
        /// The patch, in JSON or YAML
        #[arg(short, long, required = true, value_name = "PATCH")]
        patch: String,
        /// How the patch is to be read
        #[arg(short = 't', long = "type", value_enum, default_value = "strategic")]
        how: PatchType,
        /// Namespace [default: default]
        #[arg(short, long)]
        namespace: Option<String>,
        #[command(flatten)]
        dry: DryArgs,
    },
    /// Delete resources
    Delete {
        #[command(flatten)]
        select: SelectArgs,
        /// Accept files without any resource
        #[arg(long)]
        skip_empty: bool,
        /// Pass over resources that do not exist
        #[arg(short, long)]
        skip_not_exists: bool,
        #[command(flatten)]
        dry: DryArgs,
    },
    /// Show resources
    #[command(after_long_help = GET_MORE, after_help = KINDS)]
    Get {
        #[command(flatten)]
        select: SelectArgs,
        /// Show resources of every namespace
        #[arg(short = 'A', long, short_alias = 'a', conflicts_with = "namespace")]
        all_namespaces: bool,
        /// ps, wide, yaml, json, custom-columns=A,B, go-template=TEXT or go-template-file=FILE
        #[arg(short, long, value_name = "FORMAT", default_value = "ps")]
        output: String,
        /// Leave out what belongs to this cluster alone, for resources given by name
        #[arg(long)]
        export: bool,
    },
    /// Set or remove a label of a resource
    Label {
        /// Kind of resource
        kind: String,
        /// Name of the resource
        name: String,
        /// `key=value`, or only `key` with --remove
        label: String,
        /// Change a label that has another value
        #[arg(long, conflicts_with = "remove")]
        overwrite: bool,
        /// Remove the label
        #[arg(long)]
        remove: bool,
        /// Namespace [default: default]
        #[arg(short, long)]
        namespace: Option<String>,
        #[command(flatten)]
        dry: DryArgs,
    },
    /// Check files without a datastore
    Validate {
        #[command(flatten)]
        input: InputArgs,
    },
    /// IP address management
    Ipam {
        #[command(subcommand)]
        command: IpamCommand,
    },
    /// What policy does with packets, and why
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Workload endpoints of this node
    Endpoint {
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// The BGP speaker of this host: calico-agent's or calico-rr's
    Bgp {
        #[command(subcommand)]
        command: BgpCommand,
    },
    /// This node
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// The whole cluster
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// The datastore as a whole
    Datastore {
        #[command(subcommand)]
        command: DatastoreCommand,
    },
    /// Show the version of this program and of the cluster
    Version {
        /// Only that of this program
        #[arg(long)]
        client: bool,
        /// Ask again and again, this many seconds apart, until the cluster tells
        #[arg(short, long, value_name = "SECONDS", conflicts_with = "client")]
        poll: Option<u64>,
    },
    /// Write completions for a shell: `source <(calicoctl completion bash)`
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        /// The directory
        directory: PathBuf,
    },
}

const PATCHES: &str = "Examples:
  calicoctl patch ippool main -p '{\"spec\": {\"natOutgoing\": true}}'
  calicoctl patch node n1 -t json -p '[{\"op\": \"remove\", \"path\": \"/spec/bgp\"}]'

Strategic merge knows $patch (replace, delete), $retainKeys and $deleteFromPrimitiveList.";

const KINDS: &str = "Kinds (also in the plural and in short, in any case):
  BGPConfiguration (bgpconfig), BGPFilter (bgpf), BGPPeer (bgpp), BlockAffinity,
  CalicoNodeStatus (nodestatus), ClusterInformation (clusterinfo), FelixConfiguration (felixconfig),
  GlobalNetworkPolicy (gnp), GlobalNetworkSet (gns), HostEndpoint (hep), IPAMConfiguration,
  IPPool (pool), IPReservation, KubeControllersConfiguration (kcc), NetworkPolicy (np),
  NetworkSet (netsets), Node (no), Profile (pro), StagedGlobalNetworkPolicy (sgnp),
  StagedKubernetesNetworkPolicy (sknp), StagedNetworkPolicy (snp), Tier, WorkloadEndpoint (wep)";

const GET_MORE: &str = "Kinds (also in the plural and in short, in any case):
  BGPConfiguration (bgpconfig), BGPFilter (bgpf), BGPPeer (bgpp), BlockAffinity,
  CalicoNodeStatus (nodestatus), ClusterInformation (clusterinfo), FelixConfiguration (felixconfig),
  GlobalNetworkPolicy (gnp), GlobalNetworkSet (gns), HostEndpoint (hep), IPAMConfiguration,
  IPPool (pool), IPReservation, KubeControllersConfiguration (kcc), NetworkPolicy (np),
  NetworkSet (netsets), Node (no), Profile (pro), StagedGlobalNetworkPolicy (sgnp),
  StagedKubernetesNetworkPolicy (sknp), StagedNetworkPolicy (snp), Tier, WorkloadEndpoint (wep)

Columns (-o custom-columns=NAME,CIDR): those of -o wide, NAMESPACE, or HEADING:.path.of.field

Templates (-o go-template=TEXT): `.` is the list of resources, with fields as .ObjectMeta.Name and
.Spec.CIDR or as .metadata.name and .spec.cidr.
  calicoctl get nodes -o go-template='{{range .}}{{.ObjectMeta.Name}} {{end}}'
There are if, else, range, with, variables, comments, and the functions and, config, eq, ge, gt,
index, join, joinAndTruncate, le, len, lt, ne, not, or, print, printf, println.
config \"asNumber\" is the cluster's AS number.";

/// Whether it is done for real.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DryArgs {
    /// Check everything against the datastore, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Files with resources.
#[derive(Debug, Clone, Args)]
pub(crate) struct InputArgs {
    /// File, directory, or `-` for the standard input
    #[arg(short, long, required = true, value_name = "PATH")]
    pub(crate) filename: PathBuf,
    /// Go into directories below the one given
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Accept files without any resource
    #[arg(long)]
    pub(crate) skip_empty: bool,
    /// Namespace of resources that name none
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

/// Resources by kind and name, or as named in files.
#[derive(Debug, Clone, Args)]
pub(crate) struct SelectArgs {
    /// Kind of resource
    #[arg(required_unless_present = "filename", conflicts_with = "filename")]
    pub(crate) kind: Option<String>,
    /// Names of resources
    pub(crate) names: Vec<String>,
    /// File, directory, or `-` for the standard input
    #[arg(short, long, value_name = "PATH")]
    pub(crate) filename: Option<PathBuf>,
    /// Go into directories below the one given
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Namespace [default: default]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        let fails = |line: &str| {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        };
        fails("calicoctl get np -n a -A");
        fails("calicoctl get");
        fails("calicoctl get np -f x");
        fails("calicoctl apply");
        fails("calicoctl ipam release");
        fails("calicoctl ipam release --ip 10.0.0.1 --from-report x");
        fails("calicoctl ipam split 2 --name a --cidr 10.0.0.0/8");
        fails("calicoctl patch ippool main");
        fails("calicoctl completion tcl");
        fails("calicoctl endpoint wait web");
        fails("calicoctl endpoint wait --programmed");
        fails("calicoctl endpoint wait --programmed web --all");
        assert!(Cli::try_parse_from(["calicoctl", "get", "np", "-a", "-owide"]).is_ok());
    }
}
