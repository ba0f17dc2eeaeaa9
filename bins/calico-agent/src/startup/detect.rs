//! Which address of this host is the node's. Pure, but for [`Method::CanReach`]'s question to the
//! kernel's routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _, UdpSocket};

use ipnet::IpNet;
use regex::Regex;

/// What names of interfaces begin with that never have the node's address: those of containers,
/// tunnels and service proxies. Upstream's list.
const EXCLUDED: &[&str] = &[
    "docker",
    "cbr",
    "dummy",
    "podman",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "br-",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
];

/// How to find it, as `IP_AUTODETECTION_METHOD` says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Method {
    /// The first usable one.
    FirstFound,
    /// The one that packets to this host or address have.
    CanReach(String),
    /// One of an interface whose name matches one of these; the first that has any.
    Interfaces(Vec<Regex>),
    /// One of an interface whose name matches none of these.
    SkipInterfaces(Vec<Regex>),
    /// One within these.
    Cidrs(Vec<IpNet>),
    /// The internal address that Kubernetes knows.
    KubernetesInternal,
}

/// An interface of this host that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses, with the lengths of their networks.
    pub addresses: Vec<IpNet>,
}

impl Method {
    /// Reads what the variable says; empty: the first usable one.
    ///
    /// # Errors
    ///
    /// What makes no sense, and what would.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        let expressions = || {
            let parts = argument.split(',').filter(|part| !part.is_empty());
            let all: Result<Vec<Regex>, _> = parts.map(Regex::new).collect();
            match all {
                Ok(all) if !all.is_empty() => Ok(all),
                Ok(_) => Err(format!("{text}: no expression follows")),
                Err(error) => Err(format!("{text}: {error}")),
            }
        };
        match name {
            "" | "first-found" => Ok(Self::FirstFound),
            "can-reach" if !argument.is_empty() => Ok(Self::CanReach(argument.to_owned())),
            "interface" => Ok(Self::Interfaces(expressions()?)),
            "skip-interface" => Ok(Self::SkipInterfaces(expressions()?)),
            "cidr" => {
                let cidrs: Result<Vec<IpNet>, _> = argument.split(',').map(str::parse).collect();
                cidrs.map(Self::Cidrs).map_err(|error| format!("{text}: {error}"))
            }
            "kubernetes-internal-ip" => Ok(Self::KubernetesInternal),
            _ => Err(format!(
                "{text:?} is no way to find an address; use first-found, can-reach=HOST, \
                 interface=EXPRESSIONS, skip-interface=EXPRESSIONS, cidr=CIDRS or \
                 kubernetes-internal-ip"
            )),
        }
    }

    /// The node's address of a family, with its network. `internal` is what Kubernetes knows.
    #[must_use]
    pub fn find(&self, v6: bool, interfaces: &[Interface], internal: &[IpAddr]) -> Option<IpNet> {
        match self {
            Self::FirstFound => first(v6, interfaces, |name, _| !is_excluded(name)),
            Self::CanReach(to) => with_network(source_of(to, v6)?, interfaces),
            Self::Interfaces(wanted) => wanted
                .iter()
                .find_map(|expression| first(v6, interfaces, |name, _| expression.is_match(name))),
            Self::SkipInterfaces(others) => first(v6, interfaces, |name, _| {
                !is_excluded(name) && !others.iter().any(|it| it.is_match(name))
            }),
            Self::Cidrs(cidrs) => first(v6, interfaces, |name, address| {
                !is_excluded(name) && cidrs.iter().any(|cidr| cidr.contains(&address))
            }),
            Self::KubernetesInternal => {
                let address = *internal.iter().find(|address| address.is_ipv6() == v6)?;
                with_network(address, interfaces).or_else(|| Some(address.into()))
            }
        }
    }
}

/// An address with the network that an interface has it in.
pub fn with_network(address: IpAddr, interfaces: &[Interface]) -> Option<IpNet> {
    let mut all = interfaces.iter().flat_map(|interface| &interface.addresses);
    all.find(|net| net.addr() == address).copied()
}

/// The kernel's list is read backwards, as upstream does: what was plugged in last is first.
fn first(v6: bool, interfaces: &[Interface], fits: impl Fn(&str, IpAddr) -> bool) -> Option<IpNet> {
    interfaces.iter().rev().find_map(|interface| {
        let mut addresses = interface.addresses.iter();
        let usable = addresses.find(|net| {
            let address = net.addr();
            address.is_ipv6() == v6 && is_global(address) && fits(&interface.name, address)
        });
        usable.copied()
    })
}

fn is_excluded(name: &str) -> bool {
    EXCLUDED.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether other hosts may send to it.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => {
            !it.is_unspecified()
                && !it.is_loopback()
                && !it.is_link_local()
                && !it.is_multicast()
                && it != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(it) => {
            it != Ipv6Addr::UNSPECIFIED
                && !it.is_loopback()
                && !it.is_unicast_link_local()
                && !it.is_multicast()
        }
    }
}

/// The address that packets to a host have. Nothing is sent.
fn source_of(host: &str, v6: bool) -> Option<IpAddr> {
    let mut targets = (host, 80).to_socket_addrs().ok()?;
    let target = targets.find(|target| target.is_ipv6() == v6)?;
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> Vec<Interface> {
        let interface = |name: &str, addresses: &[&str]| Interface {
            name: name.to_owned(),
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
        };
        vec![
            interface("lo", &["127.0.0.1/8", "::1/128"]),
            interface("eth0", &["192.0.2.7/24", "fe80::1/64", "2001:db8::7/64"]),
            interface("eth1", &["169.254.3.4/16", "198.51.100.7/25"]),
            interface("docker0", &["172.17.0.1/16"]),
            interface("cali123", &["10.0.0.1/32"]),
        ]
    }

    #[test]
    fn ways_to_an_address() {
        let internal = ["192.0.2.7".parse().unwrap(), "203.0.113.9".parse().unwrap()];
        for (method, v6, expected) in [
            ("", false, Some("198.51.100.7/25")),
            ("first-found", true, Some("2001:db8::7/64")),
            ("interface=eth0", false, Some("192.0.2.7/24")),
            ("interface=ens.*,eth[0]", false, Some("192.0.2.7/24")),
            ("interface=docker0", false, Some("172.17.0.1/16")),
            ("interface=ens.*", false, None),
            ("skip-interface=eth1", false, Some("192.0.2.7/24")),
            ("cidr=203.0.113.0/24,192.0.2.0/24", false, Some("192.0.2.7/24")),
            ("cidr=10.0.0.0/8", false, None),
            ("can-reach=127.0.0.1", false, Some("127.0.0.1/8")),
            ("kubernetes-internal-ip", false, Some("192.0.2.7/24")),
            ("kubernetes-internal-ip", true, None),
        ] {
            let found = Method::parse(method).unwrap().find(v6, &interfaces(), &internal);
            assert_eq!(found, expected.map(|it| it.parse().unwrap()), "{method} v6={v6}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for bad in ["fastest", "can-reach=", "interface=", "interface=(", "cidr=10"] {
            assert!(Method::parse(bad).is_err(), "{bad}");
        }
    }
}
