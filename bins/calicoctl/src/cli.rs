//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use ipnet::IpNet;

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
    /// Compare what is assigned with what is in use
    Check {
        /// Name every address
        #[arg(long)]
        show_all_ips: bool,
        /// Name addresses that do not add up
        #[arg(long)]
        show_problem_ips: bool,
        /// Write a report for `ipam release` into this file
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Accepted for scripts; endpoints are read from the datastore
        #[arg(long, hide = true)]
        kubeconfig: Option<PathBuf>,
    },
    /// Release addresses that nobody uses
    Release {
        /// This address, whoever has it
        #[arg(long, value_name = "IP", required_unless_present = "from_report")]
        ip: Option<IpAddr>,
        /// What this report of `ipam check` calls leaked; of several, what all of them do
        #[arg(long, value_name = "FILE", conflicts_with = "ip")]
        from_report: Vec<PathBuf>,
        /// Also by reports that are old, and while the datastore is not locked
        #[arg(long, requires = "from_report")]
        force: bool,
    },
    /// Free addresses and blocks that nodes have left which are gone
    #[command(long_about = "Free addresses and blocks that nodes have left which are gone.\n\n\
        An address is freed if the Node resource of its node is gone and no workload endpoint has \
        the address, its container or its pod, in three looks over the grace time. Agents do the \
        same by themselves after 15 minutes. Addresses on nodes that are there are left to their \
        agents; `calicoctl ipam check --show-problem-ips` names them.")]
    Gc {
        /// Only say what would be freed and what would stay, and why
        #[arg(long)]
        dry_run: bool,
        /// How long something must be unused, such as 30s or 5m
        #[arg(long, value_name = "TIME", default_value = "30s")]
        grace: String,
    },
    /// Split a pool into smaller ones; the datastore must be locked
    Split {
        /// How many: 2, 4, 8, ...
        number: u32,
        /// The pool, by its range
        #[arg(long, required_unless_present = "name", conflicts_with = "name")]
        cidr: Option<IpNet>,
        /// The pool, by its name
        #[arg(long)]
        name: Option<String>,
    },
    /// Change IPAM's settings
    Configure {
        /// Whether nodes may never take addresses from blocks of others
        #[arg(long, value_name = "true|false")]
        strictaffinity: Option<bool>,
        /// Blocks that a node may own; 0 is no limit
        #[arg(long, value_name = "NUMBER")]
        max_blocks_per_host: Option<u32>,
        /// Whether virtual machines keep their address: Enabled or Disabled
        #[arg(long, value_name = "ENABLED")]
        kubevirt_ip_persistence: Option<String>,
        /// Seconds before a released address is given out again
        #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
        ip_cooldown_seconds: Option<i64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DatastoreCommand {
    /// Move everything from one datastore to another
    Migrate {
        #[command(subcommand)]
        command: MigrateCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Write everything to the standard output; the datastore must be locked
    Export {
        /// For Kubernetes: nodes by their names there, without what Kubernetes knows itself
        #[arg(long)]
        kubernetes: bool,
    },
    /// Fill an empty datastore from a file, and leave it locked
    Import {
        /// File that `export` wrote
        #[arg(short, long, required = true, value_name = "FILE")]
        filename: PathBuf,
    },
    /// Tell agents and controllers to leave the datastore alone
    Lock,
    /// Tell agents and controllers to go on
    Unlock,
}

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
