//! Options of a peer, as a neighbor, a group or a range of dynamic neighbors has them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use calico_bgp::filter::InterfacePattern;
use calico_bgp::rib::{PrivateAs, SendPaths};
use calico_bgp::speaker::LocalAsMode;
use calico_bgp::wire::{Family, Role};
use ipnet::IpNet;

use super::document::{Located, Table};
use super::values::{AddPathWord, LimitWord, NextHopWord};

/// Declares the options with their keys, and what is common to all: reading, and taking over
/// what a group says.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident = $key:literal: $type:ty,)*) => {
        /// What is said about a peer; what is not said is left to its group or to the defaults.
        #[derive(Debug, Clone)]
        pub(crate) struct Options<'d, 't> {
            $($(#[$doc])* pub(crate) $name: Option<Located<'d, 't, $type>>,)*
            /// Filters of routes from it.
            pub(crate) import: Option<Names<'d, 't>>,
            /// Filters of routes to it.
            pub(crate) export: Option<Names<'d, 't>>,
            /// Families to exchange.
            pub(crate) families: Option<Located<'d, 't, Vec<Located<'d, 't, Family>>>>,
            /// How many prefixes it may tell.
            pub(crate) prefix_limit: Option<Limit<'d, 't>>,
            /// How many paths to a destination go which way.
            pub(crate) add_path: Option<Several<'d, 't>>,
        }

        impl<'d, 't> Options<'d, 't> {
            /// Reads the options of a table.
            pub(crate) fn read(table: &mut Table<'d, 't>) -> Self {
                Self {
                    $($name: table.get($key),)*
                    import: table.list("import"),
                    export: table.list("export"),
                    families: table.list("families"),
                    prefix_limit: Limit::read(table),
                    add_path: Several::read(table),
                }
            }

            /// Takes over from a group what is not said here.
            pub(crate) fn or(self, group: &Self) -> Self {
                Self {
                    $($name: self.$name.or_else(|| group.$name.clone()),)*
                    import: self.import.or_else(|| group.import.clone()),
                    export: self.export.or_else(|| group.export.clone()),
                    families: self.families.or_else(|| group.families.clone()),
                    prefix_limit: self.prefix_limit.or_else(|| group.prefix_limit.clone()),
                    add_path: self.add_path.or_else(|| group.add_path.clone()),
                }
            }
        }
    };
}

/// Names of filters.
pub(crate) type Names<'d, 't> = Located<'d, 't, Vec<Located<'d, 't, String>>>;

options! {
    /// AS number of the peer.
    as_number = "as": u32,
    /// Port that it listens on.
    port = "port": u16,
    /// AS number of this side on the session.
    local_as = "local_as": u32,
    /// What the peer sees of the speaker's own AS number.
    local_as_mode = "local_as_mode": LocalAsMode,
    /// Whether paths that the peer sends show it in front.
    local_as_prepend = "local_as_prepend": bool,
    /// Source address of connections.
    source = "source": IpAddr,
    /// Wait for the peer to connect.
    passive = "passive": bool,
    /// Reflect routes to it.
    client = "client": bool,
    /// Cluster of a client.
    cluster_id = "cluster_id": Ipv4Addr,
    /// Which next hop it is told.
    next_hop = "next_hop": NextHopWord,
    /// Next hops in here are told to external peers as they are.
    next_hop_subnet = "next_hop_subnet": IpNet,
    /// Hold time in seconds.
    hold_time = "hold_time": u16,
    /// Seconds between KEEPALIVEs.
    keepalive_time = "keepalive_time": u16,
    /// Seconds between attempts to connect.
    connect_retry = "connect_retry": u16,
    /// Seconds that the peer keeps our routes over a restart; 0 is off.
    restart_time = "restart_time": u16,
    /// Seconds that it keeps them after that as a last resort.
    long_lived_time = "long_lived_time": u32,
    /// Longest time in seconds that we keep its routes so.
    long_lived_max = "long_lived_max": u32,
    /// Password of the TCP signatures.
    password = "password": String,
    /// File with the password.
    password_file = "password_file": PathBuf,
    /// Most hops to the peer.
    multihop = "multihop": u8,
    /// Most hops to the peer, which the kernel checks.
    ttl_security = "ttl_security": u8,
    /// How often our AS number may be in its paths.
    allow_own_as = "allow_own_as": u8,
    /// Whether its paths must begin with its AS number.
    enforce_first_as = "enforce_first_as": bool,
    /// Whether its AS number is replaced by ours in paths to it.
    override_as = "override_as": bool,
    /// What is done with private AS numbers in paths to it.
    private_as = "private_as": PrivateAs,
    /// What we are to the peer.
    role = "role": Role,
    /// Whether it must tell its role.
    strict_role = "strict_role": bool,
    /// Whether IPv4 routes may have IPv6 next hops.
    extended_next_hop = "extended_next_hop": bool,
    /// Whether it is asked to look for other ways.
    graceful_shutdown = "graceful_shutdown": bool,
    /// Whether we look for other ways when it asks for it.
    honor_graceful_shutdown = "honor_graceful_shutdown": bool,
    /// Interface that it is reached over, for filters.
    interface = "interface": InterfacePattern,
}

/// How many prefixes a peer may tell.
#[derive(Debug, Clone)]
pub(crate) struct Limit<'d, 't> {
    pub(crate) max: Located<'d, 't, u32>,
    pub(crate) warn_at: Option<Located<'d, 't, u32>>,
    pub(crate) action: Option<Located<'d, 't, LimitWord>>,
    pub(crate) idle: Option<Located<'d, 't, u32>>,
}

impl<'d, 't> Limit<'d, 't> {
    /// `prefix_limit = 100`, or a table with more.
    fn read(table: &mut Table<'d, 't>) -> Option<Self> {
        if !table.is_table("prefix_limit") {
            let max = table.get("prefix_limit")?;
            return Some(Self { max, warn_at: None, action: None, idle: None });
        }
        let mut limit = table.table("prefix_limit")?;
        let max = limit.need("max", "1000");
        let (warn_at, action) = (limit.get("warn_at"), limit.get("action"));
        let idle = limit.get("idle");
        limit.finish();
        Some(Self { max: max?, warn_at, action, idle })
    }
}

/// How many paths to a destination go which way (RFC 7911).
#[derive(Debug, Clone)]
pub(crate) struct Several<'d, 't> {
    /// How many the peer may tell; 0 for one without identifier.
    pub(crate) receive: Option<Located<'d, 't, u16>>,
    /// How many it is told.
    pub(crate) send: SendPaths,
}

impl<'d, 't> Several<'d, 't> {
    /// Paths to a destination that a peer may tell, unless said otherwise.
    const RECEIVE: u16 = 64;

    /// `add_path = "both"`, or a table with numbers.
    fn read(table: &mut Table<'d, 't>) -> Option<Self> {
        if !table.is_table("add_path") {
            let word = table.get::<AddPathWord>("add_path")?;
            let send = if word.value.send { SendPaths::All } else { SendPaths::Best };
            let receive = word.with(if word.value.receive { Self::RECEIVE } else { 0 });
            return Some(Self { receive: Some(receive), send });
        }
        let mut several = table.table("add_path")?;
        let receive = several.get::<u16>("receive");
        let send = several.get::<SendPaths>("send");
        several.finish();
        Some(Self { receive, send: send.map_or(SendPaths::Best, |send| send.value) })
    }
}
