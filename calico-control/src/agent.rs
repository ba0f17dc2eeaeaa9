//! How an agent is, and what it saw.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::dataplane::VerdictEvent;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How an agent is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Whether the datastore was listed and the kernel is as the datastore says.
    pub ready: bool,
    /// What is missing for [`ready`](Self::ready), in words.
    pub waiting_for: Vec<String>,
    /// Latest dataplane revision in force.
    pub revision: u64,
    /// Endpoints of this node: key is namespace/name, value says what keeps one from service.
    pub endpoints: BTreeMap<String, EndpointStatus>,
    /// Objects of the datastore that have mistakes: key is where it is stored, value what is wrong.
    pub mistakes: BTreeMap<String, String>,
    /// BGP; absent if the agent runs none.
    pub bgp: Option<BgpStatus>,
}

/// One endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointStatus {
    /// Whether its policy is in force.
    pub programmed: bool,
    /// Why not, if the dataplane failed on it.
    pub error: Option<String>,
}

/// The BGP speaker of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpStatus {
    /// AS number of this node.
    pub as_number: u32,
    /// Router id.
    pub router_id: String,
    /// Sessions.
    pub peers: Vec<PeerStatus>,
    /// Prefixes that are announced.
    pub announced: Vec<IpNet>,
    /// Best paths learned from others.
    pub learned: Vec<LearnedStatus>,
}

/// One BGP session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Address of the peer.
    pub address: IpAddr,
    /// Its AS.
    pub as_number: u32,
    /// Where the session comes from: `NodeMesh`, `NodePeer`, `GlobalPeer` or `LocalWorkload`.
    pub peer_type: String,
    /// State of RFC 4271, such as `Established`.
    pub state: String,
    /// Seconds since the state was entered.
    pub since_seconds: u64,
    /// Prefixes received and kept.
    pub received: u64,
    /// The latest error, in words.
    pub last_error: Option<String>,
}

impl PeerStatus {
    /// Whether routes are exchanged.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.state == "Established"
    }
}

/// A best path learned from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearnedStatus {
    /// The prefix.
    pub prefix: IpNet,
    /// Its next hops.
    pub next_hops: Vec<IpAddr>,
}

/// A verdict, and when the agent heard of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// Milliseconds since the beginning of 1970, UTC.
    #[serde(default)]
    pub at: u64,
    /// What became of a packet, and why.
    #[serde(flatten)]
    pub event: VerdictEvent,
}
