//! The control service: what `calicoctl` and the lab ask of a running agent.
//!
//! One JSON request per line on a unix socket; one JSON answer per line. `Verdicts` keeps
//! answering until the client hangs up. Example: `{"ask":"status"}`. Questions about BGP, and their
//! answers, are those of [`calico_control`].

mod server;

pub use server::Control;

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::dataplane::VerdictEvent;
use calico_peering::PeerType;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// How the agent is: answered by one [`Reply::Status`].
    Status,
    /// What happens to packets from now on: answered by [`Reply::Verdict`]s without end, after a
    /// first [`Reply::Listening`].
    Verdicts,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Verdicts`], once: from here on, none is missed for lack of a listener.
    Listening,
    /// To [`Request::Verdicts`].
    Verdict(VerdictEvent),
    /// The request was not understood, or could not be answered.
    Error {
        /// Why.
        reason: String,
    },
}

/// How an agent is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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

/// The BGP speaker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// Where the session comes from.
    pub peer_type: PeerType,
    /// State of RFC 4271, such as `Established`.
    pub state: String,
    /// Seconds since the state was entered.
    pub since_seconds: u64,
    /// Prefixes received and kept.
    pub received: u64,
    /// The latest error, in words.
    pub last_error: Option<String>,
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
