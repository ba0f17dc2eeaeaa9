use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use calico_core::dataplane::Limits;
use ipnet::IpNet;

use super::PodError;
use crate::link::{self, MacAddr};

/// What pods see as their IPv4 router. It is on no interface: the pod is told its hardware
/// address, and the host answers ARP for it (`proxy_arp`), as upstream does.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The hardware address of the host's end of every pod's veth.
pub const HOST_MAC: MacAddr = MacAddr([0xee; 6]);
/// What pods see as their IPv6 router: the link-local address of the host's end, made of
/// [`HOST_MAC`] by the rule of RFC 4291 appendix A. Fixed, so that nobody waits for it.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// Which destinations a pod reaches over this interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PodRoutes {
    /// Everything: a default route for each family it has an address of.
    #[default]
    Default,
    /// Only these, and no default route.
    Only(Vec<IpNet>),
}

/// The network of one pod to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Name of the interface inside, usually `eth0`; at most 15 bytes.
    pub ifname: String,
    /// Name of the host's end, such as `cali1234567890a`; at most 15 bytes.
    pub host_ifname: String,
    /// The pod's addresses, of either family.
    pub addresses: Vec<IpAddr>,
    /// Largest packet, in bytes; 0: as [`link::fabric_mtu`] finds.
    pub mtu: u32,
    /// Hardware address inside; chosen by the kernel if absent.
    pub mac: Option<MacAddr>,
    /// Where packets may go.
    pub routes: PodRoutes,
    /// Whether the pod itself forwards packets between its interfaces.
    pub allow_ip_forwarding: bool,
    /// Whether the pod may send from addresses that are not its own: switches the host's reverse
    /// path check off for it. Otherwise the host's default value holds.
    pub allow_spoofing: bool,
    /// Number of transmit and receive queues of both ends; 0: the kernel's choice.
    pub queues: u32,
    /// Whether its addresses are used elsewhere yet, by a virtual machine that is about to move
    /// here: the host gets no routes to them.
    pub arriving: bool,
    /// Limits of its traffic. Only bandwidths concern the interface; one that the kernel cannot
    /// limit is logged.
    pub limits: Limits,
}

impl PodSpec {
    pub(super) fn validate(&self) -> Result<(), PodError> {
        for name in [&self.ifname, &self.host_ifname] {
            if !link::is_valid_name(name) {
                return Err(PodError::InterfaceName { name: name.clone() });
            }
        }
        if self.addresses.is_empty() {
            return Err(PodError::NoAddress);
        }
        for address in &self.addresses {
            let unusable = match address {
                IpAddr::V4(address) => address.is_broadcast() || address.is_multicast(),
                IpAddr::V6(address) => address.is_multicast(),
            };
            if unusable || address.is_unspecified() || address.is_loopback() {
                return Err(PodError::Address { address: *address });
            }
        }
        Ok(())
    }

    /// Addresses that the host has a route to.
    pub(super) fn routed(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(|_| !self.arriving)
    }

    pub(super) fn has_v4(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4)
    }

    pub(super) fn has_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// The routers of the families it has addresses of.
    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.has_v4().then_some(IpAddr::V4(GATEWAY_V4));
        let v6 = self.has_v6().then_some(IpAddr::V6(GATEWAY_V6));
        v4.into_iter().chain(v6)
    }

    /// Destinations that the pod reaches over the gateway of their family.
    pub(super) fn destinations(&self) -> Vec<IpNet> {
        match &self.routes {
            PodRoutes::Only(destinations) => destinations.clone(),
            PodRoutes::Default => {
                let mut all = Vec::with_capacity(2);
                if self.has_v4() {
                    all.push(IpNet::from(ipnet::Ipv4Net::default()));
                }
                if self.has_v6() {
                    all.push(IpNet::from(ipnet::Ipv6Net::default()));
                }
                all
            }
        }
    }
}

/// One end of a pod's veth as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    /// Its name.
    pub name: String,
    /// Its index in its namespace.
    pub index: u32,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

/// Both ends of a pod's veth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterfaces {
    /// The host's end.
    pub host: PodInterface,
    /// The pod's end.
    pub container: PodInterface,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> PodSpec {
        PodSpec {
            netns: "/run/netns/none".into(),
            ifname: "eth0".into(),
            host_ifname: "cali0".into(),
            addresses: vec!["10.65.0.2".parse().unwrap()],
            ..PodSpec::default()
        }
    }

    #[test]
    fn the_gateway_follows_from_the_hardware_address() {
        let mac = HOST_MAC.0;
        let eui = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
        assert_eq!(GATEWAY_V6.octets()[8..], eui);
    }

    #[test]
    fn wrong_specs_are_told() {
        assert!(spec().validate().is_ok());
        let long = PodSpec { host_ifname: "cali0123456789ab".into(), ..spec() };
        assert!(
            matches!(long.validate(), Err(PodError::InterfaceName { name }) if name.len() == 16)
        );
        let bare = PodSpec { addresses: vec![], ..spec() };
        assert!(matches!(bare.validate(), Err(PodError::NoAddress)));
        for text in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "::1", "ff02::1"] {
            let wrong = PodSpec { addresses: vec![text.parse().unwrap()], ..spec() };
            assert!(matches!(wrong.validate(), Err(PodError::Address { .. })), "{text}");
        }
    }

    #[test]
    fn default_routes_follow_the_families() {
        assert_eq!(spec().destinations(), ["0.0.0.0/0".parse::<IpNet>().unwrap()]);
    }
}
