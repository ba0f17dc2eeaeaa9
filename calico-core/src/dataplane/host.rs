use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::endpoint::TierPolicies;

/// Which of the host's interfaces a host endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HostInterface {
    /// The one of this name.
    Named(Arc<str>),
    /// The one that has one of these addresses. Never empty.
    Addressed(Vec<IpAddr>),
    /// Every one that leads to no workload, and that no other host endpoint is.
    All,
}

/// An interface of this host, with the policies that protect the host and what is behind it.
///
/// A packet meets [`untracked`](Self::untracked) policies first, then
/// [`pre_dnat`](Self::pre_dnat) ones, then [`local`](Self::local) ones if it is from or to the
/// host itself, or [`forward`](Self::forward) ones if the host forwards it. What one of the first
/// two kinds allows meets none of the later ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostEndpoint {
    /// Name of its HostEndpoint resource.
    pub name: Arc<str>,
    /// Which interface.
    pub interface: HostInterface,
    /// For packets from and to the host itself; then the profiles decide.
    pub local: Vec<TierPolicies>,
    /// For packets that the host forwards; what no policy decides about is let through.
    pub forward: Vec<TierPolicies>,
    /// For packets that come in, before their destination is translated; ingress only. What no
    /// rule matches goes on, at the end of a tier too.
    pub pre_dnat: Vec<TierPolicies>,
    /// For packets before connection tracking. What no rule matches goes on, at the end of a tier
    /// too; what is allowed is not tracked.
    pub untracked: Vec<TierPolicies>,
    /// Profiles in order of evaluation.
    pub profiles: Vec<Arc<str>>,
}

impl HostEndpoint {
    /// The policies of every kind.
    pub fn tiers(&self) -> impl Iterator<Item = &TierPolicies> {
        [&self.untracked, &self.pre_dnat, &self.local, &self.forward].into_iter().flatten()
    }
}

/// A port that stays open on host endpoints whatever policy says, so that nobody locks a host up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// IANA protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// Only for packets from (inbound) or to (outbound) this prefix.
    pub net: Option<IpNet>,
}

impl Failsafe {
    /// Upstream's default for what comes in: SSH, DHCP, BGP, etcd, Typha, the API server.
    pub const INBOUND: [Self; 9] = [
        Self::tcp(22),
        Self::udp(68),
        Self::tcp(179),
        Self::tcp(2379),
        Self::tcp(2380),
        Self::tcp(5473),
        Self::tcp(6443),
        Self::tcp(6666),
        Self::tcp(6667),
    ];

    /// Upstream's default for what goes out: DNS, DHCP, BGP, etcd, Typha, the API server.
    pub const OUTBOUND: [Self; 9] = [
        Self::udp(53),
        Self::udp(67),
        Self::tcp(179),
        Self::tcp(2379),
        Self::tcp(2380),
        Self::tcp(5473),
        Self::tcp(6443),
        Self::tcp(6666),
        Self::tcp(6667),
    ];

    const fn tcp(port: u16) -> Self {
        Self { protocol: 6, port, net: None }
    }

    const fn udp(port: u16) -> Self {
        Self { protocol: 17, port, net: None }
    }
}

impl fmt::Display for HostInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Addressed(addresses) => {
                let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "the interface with {}", texts.join(" or "))
            }
            Self::All => f.write_str("all interfaces"),
        }
    }
}
