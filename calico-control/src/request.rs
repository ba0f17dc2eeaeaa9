//! What may be asked, and what is answered.

use std::net::IpAddr;

use calico_core::dataplane::EndpointId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Explanation, NeighborRoute, Peers, Recorded, Route, Status};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Request {
    /// How the agent is: answered by [`Reply::Status`].
    Status,
    /// What becomes of packets: answered by [`Reply::Listening`], and from then on by
    /// [`Reply::Verdict`] and [`Reply::Missed`] without end.
    Verdicts {
        /// First, before [`Reply::Listening`], those that the agent remembers.
        #[serde(default)]
        recent: bool,
    },
    /// Wait until the policy of an endpoint of this node is in force: answered by
    /// [`Reply::Programmed`], and before by [`Reply::Waiting`] as often as that changes.
    EndpointWait {
        /// The endpoint.
        endpoint: EndpointId,
        /// As the datastore says at this revision, or later.
        written: u64,
    },
    /// The speaker and its peers: answered by [`Reply::Peers`].
    BgpPeers,
    /// The table: answered by [`Reply::Routes`] in pages and [`Reply::End`].
    BgpRoutes {
        /// Only destinations inside of this prefix, itself included.
        #[serde(default)]
        within: Option<IpNet>,
    },
    /// Everything about one destination: answered by [`Reply::Explanation`].
    BgpExplain {
        /// The destination. The longest prefix that has a route counts, if it has none itself.
        prefix: IpNet,
    },
    /// Routes of one peer: answered by [`Reply::Neighbor`] in pages and [`Reply::End`].
    BgpNeighbor {
        /// Address of the peer.
        address: IpAddr,
        /// Its port, if there are several peers with that address.
        #[serde(default)]
        port: Option<u16>,
        /// Which routes.
        direction: Direction,
    },
}

/// Which routes of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// What it has been told.
    Advertised,
    /// What it told, before and after import policy.
    Received,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Verdicts`], once: from here on, none is missed for lack of a listener.
    Listening,
    /// To [`Request::Verdicts`].
    Verdict(Box<Recorded>),
    /// To [`Request::Verdicts`]: they came faster than they were read.
    Missed {
        /// So many were not told.
        count: u64,
    },
    /// To [`Request::EndpointWait`], not yet.
    Waiting {
        /// What is missing, in words.
        reason: String,
    },
    /// To [`Request::EndpointWait`]: it is in force.
    Programmed,
    /// To [`Request::BgpPeers`].
    Peers(Box<Peers>),
    /// To [`Request::BgpRoutes`]: a page, in no order.
    Routes {
        /// The destinations.
        routes: Vec<Route>,
    },
    /// To [`Request::BgpExplain`].
    Explanation(Box<Explanation>),
    /// To [`Request::BgpNeighbor`]: a page.
    Neighbor(NeighborRoutes),
    /// All pages have been sent.
    End,
    /// There is no answer.
    Error {
        /// Why, and what to do.
        reason: String,
    },
}

/// Some routes of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NeighborRoutes {
    /// The routes, sorted.
    pub routes: Vec<NeighborRoute>,
}
