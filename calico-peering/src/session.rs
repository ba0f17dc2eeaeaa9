//! One session to have, and what a speaker is told of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_bgp::filter::Filter;
use calico_bgp::rib::{self, AddPathFamily, Policy};
use calico_bgp::speaker::{Distance, Password, PeerConfig};
use calico_core::resource::NextHopMode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where a session comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PeerType {
    /// The full mesh of nodes.
    #[default]
    NodeMesh,
    /// A BGPPeer for some nodes.
    NodePeer,
    /// A BGPPeer for every node.
    GlobalPeer,
    /// A workload of this node.
    LocalWorkload,
}

impl PeerType {
    /// As agents tell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NodeMesh => "NodeMesh",
            Self::NodePeer => "NodePeer",
            Self::GlobalPeer => "GlobalPeer",
            Self::LocalWorkload => "LocalWorkload",
        }
    }

    /// The words of `calicoctl node status`.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::NodeMesh => "node-to-node mesh",
            Self::NodePeer => "node specific",
            Self::GlobalPeer => "global",
            Self::LocalWorkload => "local workload",
        }
    }
}

/// One session to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The peer.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Its AS.
    pub remote_as: u32,
    /// Our AS on this session.
    pub local_as: u32,
    /// Our address on this session; the kernel's choice if absent.
    pub local_address: Option<IpAddr>,
    /// Whether we wait for the peer to connect.
    pub passive: bool,
    /// Whether the peer is a client of ours (RFC 4456).
    pub reflector_client: bool,
    /// Next hop of the routes we send.
    pub next_hop: NextHopMode,
    /// The subnet that we share with the peer, if so.
    pub subnet: Option<IpNet>,
    /// Time between keepalives; the hold time is three times this.
    pub keepalive: Option<Duration>,
    /// Restart time that we ask for (RFC 4724).
    pub restart_time: Option<Duration>,
    /// How often our AS may be in a path that the peer sends.
    pub allowed_own_as: u8,
    /// How many hops away the peer is, if packets from further away are to be dropped.
    pub secured_hops: Option<u8>,
    /// Password of the signatures (RFC 2385).
    pub password: Option<Password>,
    /// Which routes of the peer are used, and how they are changed; all if absent.
    pub import: Option<Arc<Filter>>,
    /// Which routes the peer is told, and how they are changed.
    pub export: Arc<Filter>,
    /// Where the session comes from.
    pub peer_type: PeerType,
}

impl Session {
    /// Whether both ends are of one AS.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        self.remote_as == self.local_as
    }

    /// What the speaker is told.
    #[must_use]
    pub fn peer_config(&self) -> PeerConfig {
        let mut peer = PeerConfig::new(self.address, self.remote_as);
        peer.port = self.port;
        peer.local_as = Some(self.local_as);
        peer.local_address = self.local_address;
        peer.passive = self.passive;
        peer.rr_client = self.reflector_client;
        peer.next_hop = match self.next_hop {
            NextHopMode::Auto => {
                self.subnet.map_or(rib::NextHopMode::Auto, rib::NextHopMode::AutoOnSubnet)
            }
            NextHopMode::SelfNextHop => rib::NextHopMode::OwnAddressAlways,
            NextHopMode::Keep => rib::NextHopMode::Keep,
        };
        let seconds = |time: Duration| {
            // As upstream: to the nearest second.
            let rounded = (time + Duration::from_millis(500)).as_secs();
            u16::try_from(rounded).unwrap_or(u16::MAX)
        };
        if let Some(time) = self.restart_time {
            // 12 bits on the wire (RFC 4724, section 3).
            peer.graceful_restart = Some(seconds(time).min(0x0FFF));
        }
        peer.allow_own_as = self.allowed_own_as;
        peer.distance = self.secured_hops.map_or(Distance::Anywhere, Distance::Secured);
        // As upstream: nodes behind a reflector share traffic among all who announce a service.
        peer.add_path =
            vec![AddPathFamily::both(calico_bgp::wire::Family::of_address(self.address))];
        peer.password.clone_from(&self.password);
        if let Some(import) = &self.import {
            peer.import = Policy::Filter(Arc::clone(import));
        }
        peer.export = Policy::Filter(Arc::clone(&self.export));
        if let Some(time) = self.keepalive {
            let keepalive = seconds(time).max(1);
            peer.keepalive_time = Some(keepalive);
            peer.hold_time = keepalive.saturating_mul(3);
        }
        peer
    }
}
