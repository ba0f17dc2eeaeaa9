//! `ipam` and `datastore`: addresses, and the store as a whole.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Subcommand;
use ipnet::IpNet;

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
