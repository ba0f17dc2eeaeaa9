//! Requests for, and reports of, the state of nodes.

use super::choices::choices;
use super::object::object;
use super::{Resource, Spec};
use crate::kind::Kind;

/// A request for, and the report of, one node's state.
pub type CalicoNodeStatus = Resource<CalicoNodeStatusSpec>;

object! {
    /// What is asked for.
    pub struct CalicoNodeStatusSpec {
        /// The node.
        pub node: String = "node",
        /// The parts to report.
        pub classes: Vec<NodeStatusClass> = "classes",
        /// Seconds between reports, at most 86400; 0 is never.
        pub update_period_seconds: Option<u32> = "updatePeriodSeconds",
    }

    /// The report.
    pub struct CalicoNodeStatusStatus {
        /// When it was made, RFC 3339.
        pub last_updated: Option<String> = "lastUpdated",
        /// The BGP daemons.
        pub agent: AgentStatus = "agent",
        /// The BGP sessions.
        pub bgp: BgpStatus = "bgp",
        /// The routes.
        pub routes: RouteStatus = "routes",
    }

    /// The BGP daemons of a node.
    pub struct AgentStatus {
        /// For IPv4.
        pub bird_v4: SpeakerStatus = "birdV4",
        /// For IPv6.
        pub bird_v6: SpeakerStatus = "birdV6",
    }

    /// One BGP daemon.
    pub struct SpeakerStatus {
        /// `Ready` or `NotReady`.
        pub state: String = "state",
        /// Its version.
        pub version: String = "version",
        /// Its BGP identifier.
        pub router_id: String = "routerID",
        /// When it started.
        pub last_boot_time: String = "lastBootTime",
        /// When it was last configured.
        pub last_reconfiguration_time: String = "lastReconfigurationTime",
    }

    /// The BGP sessions of a node.
    pub struct BgpStatus {
        /// IPv4 sessions that are up.
        pub number_established_v4: u32 = "numberEstablishedV4" (always),
        /// IPv6 sessions that are up.
        pub number_established_v6: u32 = "numberEstablishedV6" (always),
        /// IPv4 sessions that are not.
        pub number_not_established_v4: u32 = "numberNotEstablishedV4" (always),
        /// IPv6 sessions that are not.
        pub number_not_established_v6: u32 = "numberNotEstablishedV6" (always),
        /// IPv4 sessions.
        pub peers_v4: Vec<PeerStatus> = "peersV4",
        /// IPv6 sessions.
        pub peers_v6: Vec<PeerStatus> = "peersV6",
    }

    /// One BGP session.
    pub struct PeerStatus {
        /// The peer.
        pub peer_ip: String = "peerIP",
        /// `NodeMesh`, `NodePeer` or `GlobalPeer`.
        pub kind: String = "type",
        /// Its state (RFC 4271 section 8), such as `Established`.
        pub state: String = "state",
        /// Since when.
        pub since: String = "since",
    }

    /// The routes of a node.
    pub struct RouteStatus {
        /// IPv4.
        pub routes_v4: Vec<NodeRoute> = "routesV4",
        /// IPv6.
        pub routes_v6: Vec<NodeRoute> = "routesV6",
    }

    /// One route.
    pub struct NodeRoute {
        /// `FIB` if the kernel uses it, else `RIB`.
        pub kind: String = "type",
        /// Where it leads.
        pub destination: String = "destination",
        /// The next hop.
        pub gateway: String = "gateway",
        /// The interface.
        pub interface: String = "interface",
        /// Where it is from.
        pub learned_from: LearnedFrom = "learnedFrom",
    }

    /// Where a route is from.
    pub struct LearnedFrom {
        /// `Kernel`, `Static`, `Direct`, `NodeMesh` or `BGPPeer`.
        pub source_type: String = "sourceType",
        /// The peer that sent it.
        pub peer_ip: String = "peerIP",
    }
}

choices! {
    /// A part of a node's state.
    pub enum NodeStatusClass {
        /// The BGP daemons.
        Agent = "Agent",
        /// The BGP sessions.
        Bgp = "BGP",
        /// The routes.
        Routes = "Routes",
    }
}

impl Spec for CalicoNodeStatusSpec {
    const KIND: Kind = Kind::CalicoNodeStatus;
    type Status = CalicoNodeStatusStatus;
}
