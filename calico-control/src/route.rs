//! Routes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A destination with its paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The destination.
    pub prefix: IpNet,
    /// Its paths, best first.
    pub paths: Vec<Path>,
}

/// One path of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// The peer that it came from; absent for the speaker's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The peer's identifier of the path (RFC 7911), with ADD-PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// Its attributes after import policy.
    pub attributes: Attributes,
    /// It is the best path.
    pub best: bool,
    /// It carries traffic: the best path, or one that is equal to it.
    pub used: bool,
    /// It is left over from before a restart of its peer (RFC 4724).
    pub stale: bool,
    /// The step of the decision that put it behind the best path; of the best path, the step
    /// that put the next one behind it.
    pub decided_by: String,
    /// Why it is not used, if it is not even considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Attributes of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    /// Next hop; absent for the speaker's own routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<IpAddr>,
    /// AS path, such as `65001 65002 {65003}`.
    pub as_path: String,
    /// `igp`, `egp` or `incomplete`.
    pub origin: String,
    /// LOCAL_PREF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Communities of all sizes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// ORIGINATOR_ID (RFC 4456).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456), nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_list: Vec<Ipv4Addr>,
    /// ONLY_TO_CUSTOMER (RFC 9234).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_to_customer: Option<u32>,
}

/// Everything about one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What was asked about.
    pub asked: IpNet,
    /// The destination with its paths; another than was asked about if that has no route of its
    /// own.
    pub route: Route,
    /// What each peer hears of the best path.
    pub told: Vec<Told>,
}

/// What a peer hears of the best path to a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Address of the peer.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// What it is told; absent if it is told nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
    /// Why it is told nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// That is still to be sent.
    pub pending: bool,
}

/// A route of one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighborRoute {
    /// The destination.
    pub prefix: IpNet,
    /// Identifier of the path (RFC 7911), with ADD-PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// The attributes: as received, or as sent.
    pub attributes: Attributes,
    /// Of a received route, what becomes of it: `best`, `used`, `rejected` by import policy, or
    /// the step of the decision that put it behind the best path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<String>,
    /// Of a received route: it is left over from before a restart of the peer (RFC 4724).
    #[serde(default, skip_serializing_if = "is_false")]
    pub stale: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}
