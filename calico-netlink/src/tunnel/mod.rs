//! Tunnels to other nodes: `vxlan.calico`, `vxlan-v6.calico` and `tunl0`, named and made as upstream
//! makes them.
//!
//! A VXLAN device learns nothing and floods nothing: each other node is a permanent neighbour (its
//! tunnel address has a hardware address) and an entry of the forwarding table (that hardware
//! address is behind the node). Routes over the device are the business of
//! [`route`](crate::route), with the other node's tunnel address as gateway.
//!
//! [`sync`] compares with the kernel and changes what differs, so that calling it again, or after
//! an earlier run, costs no packet.

mod device;
mod remotes;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address;
use crate::link::{self, MacAddr};
use crate::rtnl::{Connection, RtnlError};

/// Bytes that IP-in-IP adds to a packet.
pub const IPIP_OVERHEAD: u32 = 20;
/// Bytes that VXLAN adds to a packet: Ethernet 14, VXLAN 8, UDP 8, IPv4 20.
pub const VXLAN_OVERHEAD: u32 = 50;
/// Bytes that VXLAN over IPv6 adds to a packet.
pub const VXLAN_V6_OVERHEAD: u32 = 70;

/// A tunnel device, and who is at its other ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Name of the device.
    pub name: String,
    /// How packets are wrapped.
    pub encapsulation: Encapsulation,
    /// The device's own address, which is also the source of what the host itself sends.
    pub address: IpAddr,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// How packets are wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encapsulation {
    /// IP in IP (RFC 2003), over the kernel's fallback device: the gateway of each route is the
    /// other node's address.
    Ipip,
    /// VXLAN (RFC 7348).
    Vxlan(Vxlan),
}

/// What a VXLAN device is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's address, that other nodes send to.
    pub local: IpAddr,
    /// The device's hardware address.
    pub mac: MacAddr,
    /// The other nodes.
    pub remotes: BTreeSet<Remote>,
}

/// Another node's end of a VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Remote {
    /// The node's address.
    pub node: IpAddr,
    /// Address of its device.
    pub address: IpAddr,
    /// Hardware address of its device.
    pub mac: MacAddr,
}

/// Makes the device as it is to be. Returns how many changes that took.
///
/// # Errors
///
/// See [`RtnlError`]. `EOPNOTSUPP` if the kernel has no such devices; `EEXIST` if another device
/// has the identifier and port; `ENODEV` if no interface has the node's address.
pub fn sync(connection: &mut Connection, tunnel: &Tunnel) -> Result<usize, RtnlError> {
    let (index, mut changes) = device::ensure(connection, tunnel)?;
    changes += sync_address(connection, index, tunnel.address)?;
    if let Encapsulation::Vxlan(vxlan) = &tunnel.encapsulation {
        changes += remotes::sync(connection, index, &vxlan.remotes)?;
    }
    Ok(changes)
}

/// Removes a tunnel device; of the kernel's fallback device `tunl0`, which cannot go, the
/// addresses, and sets it down. False if there is nothing to remove.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn remove(connection: &mut Connection, name: &str) -> Result<bool, RtnlError> {
    let Some(found) = link::by_name(connection, name)? else { return Ok(false) };
    if found.kind.as_deref() != Some("ipip") {
        return link::delete(connection, name);
    }
    if !found.up {
        return Ok(false);
    }
    for own in address::list(connection, Some(found.index))? {
        address::delete(connection, found.index, own.address)?;
    }
    link::set_down(connection, name)?;
    Ok(true)
}

/// The address alone: those of former configurations go.
fn sync_address(
    connection: &mut Connection,
    index: u32,
    wanted: IpAddr,
) -> Result<usize, RtnlError> {
    let wanted = IpNet::from(wanted);
    let found = address::list(connection, Some(index))?;
    let mut changes = 0;
    if !found.iter().any(|it| it.address == wanted) {
        address::add(connection, index, wanted)?;
        changes += 1;
    }
    let is_of_link =
        |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    for other in found.iter().filter(|it| it.address != wanted && !is_of_link(&it.address)) {
        address::delete(connection, index, other.address)?;
        changes += 1;
    }
    Ok(changes)
}
