use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::MacAddr;
use crate::netns::Netns;
use crate::rtnl::{CREATE, Connection, Request, RtnlError};

/// One end of a veth pair to make.
#[derive(Debug, Clone, Default)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it shall be; absent: the namespace of the connection.
    pub netns: Option<&'a Netns>,
    /// Its hardware address; chosen by the kernel if absent.
    pub mac: Option<MacAddr>,
    /// Largest packet, in bytes; 0: the kernel's default of 1500.
    pub mtu: u32,
    /// Number of transmit and receive queues; 0: the kernel's choice.
    pub queues: u32,
    /// Whether it is set up at once. The kernel can do this for the near end only.
    pub up: bool,
}

/// Makes a pair of interfaces in one step, each end in its namespace.
///
/// # Errors
///
/// [`RtnlError::Refused`] with `EEXIST` if one of the names is taken.
pub fn create_veth(
    connection: &mut Connection,
    near: &VethEnd<'_>,
    far: &VethEnd<'_>,
) -> Result<(), RtnlError> {
    connection.execute(veth_request(near, far))
}

pub(crate) fn veth_request(near: &VethEnd<'_>, far: &VethEnd<'_>) -> Request {
    let mut message = end_message(near);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end_message(far)))),
    ]));
    Request::new(RouteNetlinkMessage::NewLink(message), CREATE)
}

fn end_message(end: &VethEnd<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    if end.up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    let attributes = &mut message.attributes;
    attributes.push(LinkAttribute::IfName(end.name.to_owned()));
    if let Some(netns) = end.netns {
        attributes.push(LinkAttribute::NetNsFd(netns.raw_fd()));
    }
    if let Some(mac) = end.mac {
        attributes.push(LinkAttribute::Address(mac.0.to_vec()));
    }
    if end.mtu != 0 {
        attributes.push(LinkAttribute::Mtu(end.mtu));
    }
    if end.queues != 0 {
        attributes.push(LinkAttribute::NumTxQueues(end.queues));
        attributes.push(LinkAttribute::NumRxQueues(end.queues));
    }
    message
}
