//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    /// Accepted for scripts; versions are not compared
    #[arg(long, global = true, hide = true)]
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
    },
    /// Create resources, or replace those that exist
    Apply {
        #[command(flatten)]
        input: InputArgs,
    },
    /// Replace resources that exist
    Replace {
        #[command(flatten)]
        input: InputArgs,
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
    },
    /// Show resources
    #[command(after_help = KINDS)]
    Get {
        #[command(flatten)]
        select: SelectArgs,
        /// Show resources of every namespace
        #[arg(short = 'A', long, short_alias = 'a', conflicts_with = "namespace")]
        all_namespaces: bool,
        /// ps, wide, yaml or json
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
    /// This node
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Show the version of this program and of the cluster
    Version {
        /// Only that of this program
        #[arg(long)]
        client: bool,
    },
}

const KINDS: &str = "Kinds (also in the plural and in short, in any case):
  BGPConfiguration (bgpconfig), BGPFilter (bgpf), BGPPeer (bgpp), BlockAffinity,
  CalicoNodeStatus (nodestatus), ClusterInformation (clusterinfo), FelixConfiguration (felixconfig),
  GlobalNetworkPolicy (gnp), GlobalNetworkSet (gns), HostEndpoint (hep), IPAMConfiguration,
  IPPool (pool), IPReservation, KubeControllersConfiguration (kcc), NetworkPolicy (np),
  NetworkSet (netsets), Node (no), Profile (pro), StagedGlobalNetworkPolicy (sgnp),
  StagedKubernetesNetworkPolicy (sknp), StagedNetworkPolicy (snp), Tier, WorkloadEndpoint (wep)";

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

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Show how full the pools are, or who has an address
    Show {
        /// Who has this address
        #[arg(long, value_name = "IP")]
        ip: Option<IpAddr>,
        /// With the blocks of each pool
        #[arg(long)]
        show_blocks: bool,
        /// Addresses that nodes took from blocks of others
        #[arg(long)]
        show_borrowed: bool,
        /// IPAM's settings
        #[arg(long)]
        show_configuration: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what becomes of a packet, which rule decides, and why each earlier one does not match
    #[command(after_help = ENDS)]
    Explain {
        /// Who sends
        #[arg(long, value_name = "POD|IP")]
        from: String,
        /// Who receives, on which port
        #[arg(long, value_name = "POD|IP[:PORT[/PROTOCOL]]")]
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
}

/// Which cluster is looked at, and how the answer is written.
#[derive(Debug, Clone, Args)]
pub(crate) struct StateArgs {
    /// Take resources from files in this directory and below, not from the datastore
    #[arg(long, value_name = "DIR")]
    pub(crate) offline: Option<PathBuf>,
    /// text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: String,
}

const ENDS: &str = "An end is NAMESPACE/NAME (of a pod or its WorkloadEndpoint) or an address:
  --to prod/web:80           TCP port 80
  --to prod/web:53/UDP       UDP port 53
  --to prod/web:http         the pod's port of that name
  --to prod/web              a ping
  --to '[2001:db8::1]:443'   an IPv6 address outside";

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show the agent and the BGP sessions of this node
    Status {
        /// Unix socket of the agent's control service
        #[arg(
            long,
            env = "CALICO_CONTROL_SOCKET",
            value_name = "PATH",
            default_value = "/var/run/calico/control.sock"
        )]
        control_socket: PathBuf,
    },
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
        assert!(Cli::try_parse_from(["calicoctl", "get", "np", "-a", "-owide"]).is_ok());
    }
}
