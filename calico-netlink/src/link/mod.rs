//! Interfaces: make, list, change, remove.
//!
//! Functions work in the namespace of the [`Connection`] they are given.

mod conf;
mod fabric;
mod mac;
mod veth;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use crate::netns::Netns;
use crate::rtnl::{CREATE, Connection, Refusal, Request, RtnlError};

pub use fabric::{fabric_mtu, least_mtu};
pub use mac::{MacAddr, MacAddrError};
pub use veth::{VethEnd, create_veth};

pub(crate) use conf::{Ipv4Conf, conf_request, proxy_at_once_request};
pub(crate) use veth::veth_request;

/// The longest name of an interface, in bytes (`IFNAMSIZ` less the closing zero).
pub const NAME_MAX: usize = 15;

/// The other end of an interface that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its index in its namespace.
    pub index: u32,
    /// The number of that namespace as seen from here; absent if it is this one.
    pub nsid: Option<i32>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it is like Ethernet.
    pub mac: Option<MacAddr>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether it was set up (`IFF_UP`).
    pub up: bool,
    /// Whether it can carry packets (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Whether it is a loopback.
    pub loopback: bool,
    /// What it is, such as `veth` or `bridge`; absent for hardware.
    pub kind: Option<String>,
    /// The index of the bridge it is a port of.
    pub master: Option<u32>,
    /// The other end of a veth.
    pub peer: Option<Peer>,
    /// Its settings.
    pub settings: LinkSettings,
}

/// Settings of an interface, as the kernel tells them along with it. Absent where it does not: on
/// notifications, or without IPv6. See [`Setting`](crate::sysctl::Setting) for their meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkSettings {
    /// `net.ipv4.conf.*.forwarding`
    pub ipv4_forwarding: Option<i32>,
    /// `net.ipv4.conf.*.proxy_arp`
    pub proxy_arp: Option<i32>,
    /// `net.ipv4.conf.*.route_localnet`
    pub route_localnet: Option<i32>,
    /// `net.ipv4.conf.*.rp_filter`
    pub rp_filter: Option<i32>,
    /// `net.ipv6.conf.*.forwarding`
    pub ipv6_forwarding: Option<i32>,
    /// `net.ipv6.conf.*.accept_dad`
    pub accept_dad: Option<i32>,
    /// `net.ipv6.conf.*.accept_ra`
    pub accept_ra: Option<i32>,
    /// `net.ipv6.conf.*.disable_ipv6`
    pub disable_ipv6: Option<i32>,
    /// `net.ipv6.conf.*.proxy_ndp`
    pub proxy_ndp: Option<i32>,
}

impl LinkSettings {
    fn read(&mut self, families: &[AfSpecUnspec]) {
        for family in families {
            match family {
                AfSpecUnspec::Inet(parts) => {
                    for part in parts {
                        let AfSpecInet::DevConf(values) = part else { continue };
                        self.ipv4_forwarding = Some(values.forwarding);
                        self.proxy_arp = Some(values.proxy_arp);
                        self.route_localnet = Some(values.route_localnet);
                        self.rp_filter = Some(values.rp_filter);
                    }
                }
                AfSpecUnspec::Inet6(parts) => {
                    for part in parts {
                        let AfSpecInet6::DevConf(values) = part else { continue };
                        self.ipv6_forwarding = Some(values.forwarding);
                        self.accept_dad = Some(values.accept_dad);
                        self.accept_ra = Some(values.accept_ra);
                        self.disable_ipv6 = Some(values.disable_ipv6);
                        self.proxy_ndp = Some(values.proxy_ndp);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Link {
    /// Reads the kernel's description. `None` if it has no name, which no interface lacks.
    pub(crate) fn from_message(message: &LinkMessage) -> Option<Self> {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            loopback: flags.contains(LinkFlags::Loopback),
            kind: None,
            master: None,
            peer: None,
            settings: LinkSettings::default(),
        };
        let (mut peer_index, mut nsid) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.as_slice().try_into().ok().map(MacAddr);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::AfSpecUnspec(families) => link.settings.read(families),
                LinkAttribute::Link(index) => peer_index = Some(*index),
                LinkAttribute::LinkNetNsId(id) => nsid = Some(*id),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        if link.kind.as_deref() == Some("veth") {
            link.peer = peer_index.map(|index| Peer { index, nsid });
        }
        (!link.name.is_empty()).then_some(link)
    }
}

/// Which interfaces to list; the empty filter selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkFilter {
    /// Only of this kind, such as `veth`.
    pub kind: Option<String>,
    /// Only with names that start so.
    pub name_prefix: Option<String>,
    /// Only ports of the bridge of this index.
    pub master: Option<u32>,
}

impl LinkFilter {
    fn selects(&self, link: &Link) -> bool {
        self.kind.as_ref().is_none_or(|kind| link.kind.as_ref() == Some(kind))
            && self.name_prefix.as_ref().is_none_or(|prefix| link.name.starts_with(prefix.as_str()))
            && self.master.is_none_or(|master| link.master == Some(master))
    }
}

/// Lists interfaces.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn list(connection: &mut Connection, filter: &LinkFilter) -> Result<Vec<Link>, RtnlError> {
    let query = LinkMessageBuilder::<LinkUnspec>::default()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    let answers = connection.dump(&RouteNetlinkMessage::GetLink(query))?;
    Ok(answers.iter().filter_map(link_of).filter(|link| filter.selects(link)).collect())
}

/// The interface of a name, if there is one.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn by_name(connection: &mut Connection, name: &str) -> Result<Option<Link>, RtnlError> {
    found(connection.query(get_request(LinkUnspec::new_with_name(name))))
}

/// The interface of an index, if there is one.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn by_index(connection: &mut Connection, index: u32) -> Result<Option<Link>, RtnlError> {
    found(connection.query(get_request(LinkUnspec::new_with_index(index))))
}

/// Makes a bridge, up.
///
/// # Errors
///
/// [`RtnlError::Refused`] with `EEXIST` if the name is taken.
pub fn create_bridge(connection: &mut Connection, name: &str) -> Result<(), RtnlError> {
    let message = LinkBridge::new(name).up().build();
    connection.execute(Request::new(RouteNetlinkMessage::NewLink(message), CREATE))
}

/// Sets an interface up.
///
/// # Errors
///
/// See [`RtnlError`]; `ENODEV` if there is none of this name.
pub fn set_up(connection: &mut Connection, name: &str) -> Result<(), RtnlError> {
    change(connection, LinkUnspec::new_with_name(name).up())
}

/// Sets an interface down.
///
/// # Errors
///
/// See [`set_up`].
pub fn set_down(connection: &mut Connection, name: &str) -> Result<(), RtnlError> {
    change(connection, LinkUnspec::new_with_name(name).down())
}

/// Changes the largest packet, in bytes.
///
/// # Errors
///
/// See [`set_up`]; `EINVAL` for a value that the device cannot do.
pub fn set_mtu(connection: &mut Connection, name: &str, mtu: u32) -> Result<(), RtnlError> {
    change(connection, LinkUnspec::new_with_name(name).mtu(mtu))
}

/// Makes an interface a port of a bridge (by the bridge's index), or of none.
///
/// # Errors
///
/// See [`set_up`].
pub fn set_master(
    connection: &mut Connection,
    name: &str,
    bridge: Option<u32>,
) -> Result<(), RtnlError> {
    change(connection, LinkUnspec::new_with_name(name).controller(bridge.unwrap_or(0)))
}

/// Moves an interface to another namespace, under another name if one is given.
///
/// The kernel takes it down, with its addresses and routes; making a veth in place
/// ([`create_veth`]) is quicker.
///
/// # Errors
///
/// See [`set_up`]; `EEXIST` if the name is taken there.
pub fn move_to(
    connection: &mut Connection,
    name: &str,
    netns: &Netns,
    new_name: Option<&str>,
) -> Result<(), RtnlError> {
    let Some(link) = by_name(connection, name)? else {
        return Err(Refusal { errno: Errno::ENODEV, text: None }.into());
    };
    let mut which = LinkUnspec::new_with_index(link.index).setns_by_fd(netns.raw_fd());
    if let Some(new_name) = new_name {
        which = which.name(new_name);
    }
    change(connection, which)
}

/// Removes an interface (and the other end of a veth). False if there was none.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn delete(connection: &mut Connection, name: &str) -> Result<bool, RtnlError> {
    let message = LinkUnspec::new_with_name(name).build();
    match connection.execute(Request::new(RouteNetlinkMessage::DelLink(message), 0)) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn link_of(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message) => {
            Link::from_message(message)
        }
        _ => None,
    }
}

/// Asks for one interface. The kernel also settles a pending change of carrier before it answers
/// (`linkwatch_sync_dev` in `rtnl_getlink`, Linux 6.8), so that packets can pass afterwards.
pub(crate) fn get_request(which: LinkMessageBuilder<LinkUnspec>) -> Request {
    let message = which
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    Request::new(RouteNetlinkMessage::GetLink(message), 0)
}

pub(crate) fn set_request(which: LinkMessageBuilder<LinkUnspec>) -> Request {
    Request::new(RouteNetlinkMessage::SetLink(which.build()), 0)
}

fn change(
    connection: &mut Connection,
    which: LinkMessageBuilder<LinkUnspec>,
) -> Result<(), RtnlError> {
    connection.execute(set_request(which))
}

fn found(
    answer: Result<Option<RouteNetlinkMessage>, RtnlError>,
) -> Result<Option<Link>, RtnlError> {
    match answer {
        Ok(message) => Ok(message.as_ref().and_then(link_of)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether this is a name the kernel takes (`dev_valid_name`).
pub(crate) fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| byte == b'/' || byte == b':' || byte == 0)
        && !name.chars().any(char::is_whitespace)
}

#[cfg(test)]
mod tests;
