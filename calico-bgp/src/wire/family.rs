//! Address families (RFC 4760): what kind of destination a route is for.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// An AFI/SAFI pair.
///
/// IPv4 and IPv6 unicast are understood; any other pair is carried through unread, so that a
/// peer that offers more families than we know is no error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Family {
    /// Address family identifier (IANA): 1 IPv4, 2 IPv6.
    pub afi: u16,
    /// Subsequent address family identifier (IANA): 1 unicast.
    pub safi: u8,
}

impl Family {
    /// IPv4 unicast, the family that RFC 4271 carries without any capability.
    pub const IPV4_UNICAST: Self = Self { afi: 1, safi: 1 };
    /// IPv6 unicast.
    pub const IPV6_UNICAST: Self = Self { afi: 2, safi: 1 };
    /// Ethernet VPN (RFC 7432): agreed and carried, not read.
    pub const L2VPN_EVPN: Self = Self { afi: 25, safi: 70 };

    /// The unicast family that an address belongs to.
    pub const fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::IPV4_UNICAST,
            IpAddr::V6(_) => Self::IPV6_UNICAST,
        }
    }

    /// The unicast family that a prefix belongs to.
    pub const fn of_prefix(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::IPV4_UNICAST,
            IpNet::V6(_) => Self::IPV6_UNICAST,
        }
    }

    /// Longest prefix of the family in bits, or `None` if the family is not one we read.
    pub(super) const fn max_prefix_len(self) -> Option<u8> {
        match (self.afi, self.safi) {
            (1, 1) => Some(32),
            (2, 1) => Some(128),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4_UNICAST => f.write_str("ipv4-unicast"),
            Self::IPV6_UNICAST => f.write_str("ipv6-unicast"),
            Self::L2VPN_EVPN => f.write_str("l2vpn-evpn"),
            Self { afi, safi } => write!(f, "afi {afi} safi {safi}"),
        }
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
