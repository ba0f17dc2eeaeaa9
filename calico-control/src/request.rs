//! What may be asked, and what is answered.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Explanation, NeighborRoute, Peers, Route};

/// A question about BGP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Request {
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

/// An answer about BGP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reply {
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
