//! The speaker and its peers.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// A speaker and its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peers {
    /// AS number of the speaker.
    pub as_number: u32,
    /// BGP identifier of the speaker.
    pub router_id: Ipv4Addr,
    /// Cluster of the route reflector; its BGP identifier unless it was configured.
    pub cluster_id: Ipv4Addr,
    /// Whether the table is complete; false only for a while after a restart.
    pub converged: bool,
    /// Destinations in the table.
    pub destinations: u64,
    /// The peers, sorted by address.
    pub peers: Vec<PeerInfo>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerInfo {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its AS number.
    pub as_number: u32,
    /// What the operator calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Relation to the speaker: `client`, `internal` or `external`.
    pub relation: String,
    /// It came by itself, from a prefix of dynamic neighbors.
    pub dynamic: bool,
    /// State of RFC 4271, such as `Established`.
    pub state: String,
    /// Seconds since the state was entered.
    pub since_seconds: u64,
    /// Prefixes that it told and that are held.
    pub received: u64,
    /// Prefixes that it has been told.
    pub advertised: u64,
    /// Its routes are kept over its restart (RFC 4724).
    pub restarting: bool,
    /// Sessions that were established, since the program started.
    pub established: u64,
    /// Established sessions that were lost.
    pub lost: u64,
    /// UPDATEs that it sent.
    pub updates_received: u64,
    /// Faults in its UPDATEs that did not end the session (RFC 7606).
    pub update_errors: u64,
    /// Why the last session or attempt ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What was agreed with it, while the session is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

/// What a session agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// BGP identifier of the peer.
    pub router_id: Ipv4Addr,
    /// Address of this side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
    /// Families that are exchanged, such as `ipv4-unicast`.
    pub families: Vec<String>,
    /// Seconds without a word after which the session ends; 0 is never.
    pub hold_time: u64,
    /// Seconds that the peer asks to keep its routes over a restart; absent without graceful
    /// restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_time: Option<u16>,
    /// What was agreed on besides, such as `add-path` and `extended-next-hop`.
    pub features: Vec<String>,
}
