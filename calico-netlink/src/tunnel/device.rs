//! The device itself.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use nix::errno::Errno;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::{Encapsulation, Tunnel, Vxlan};
use crate::address;
use crate::link::{self, Link};
use crate::rtnl::{CREATE, Connection, Refusal, Request, RtnlError};

/// Makes the device, or changes the one that there is; one that cannot be changed into it is
/// replaced. Returns its index and the number of changes.
pub(super) fn ensure(
    connection: &mut Connection,
    tunnel: &Tunnel,
) -> Result<(u32, usize), RtnlError> {
    let mut changes = 0;
    let query = link::get_request(LinkUnspec::new_with_name(&tunnel.name));
    let found = match connection.query(query) {
        Ok(Some(RouteNetlinkMessage::NewLink(message))) => Some(message),
        Ok(_) => None,
        Err(error) if error.is_absent() => None,
        Err(error) => return Err(error),
    };
    let parent = match &tunnel.encapsulation {
        Encapsulation::Vxlan(vxlan) => Some(parent(connection, vxlan.local)?),
        Encapsulation::Ipip => None,
    };
    let fits = found.as_ref().is_some_and(|message| fits(message, tunnel, parent));
    if !fits {
        if found.is_some() {
            link::delete(connection, &tunnel.name)?;
        }
        create(connection, tunnel, parent)?;
        changes += 1;
    }
    let device = link::by_name(connection, &tunnel.name)?.ok_or_else(gone)?;
    changes += adjust(connection, tunnel, &device)?;
    Ok((device.index, changes))
}

/// What can be changed while packets flow.
fn adjust(connection: &mut Connection, tunnel: &Tunnel, device: &Link) -> Result<usize, RtnlError> {
    let mut changes = 0;
    if let Encapsulation::Vxlan(vxlan) = &tunnel.encapsulation
        && device.mac != Some(vxlan.mac)
    {
        let which = LinkUnspec::new_with_name(&tunnel.name).address(vxlan.mac.0.to_vec());
        connection.execute(link::set_request(which))?;
        changes += 1;
    }
    if device.mtu != tunnel.mtu {
        link::set_mtu(connection, &tunnel.name, tunnel.mtu)?;
        changes += 1;
    }
    if !device.up {
        link::set_up(connection, &tunnel.name)?;
        changes += 1;
    }
    Ok(changes)
}

/// The interface that has the node's address.
fn parent(connection: &mut Connection, local: IpAddr) -> Result<u32, RtnlError> {
    let addresses = address::list(connection, None)?;
    let found = addresses.iter().find(|it| it.address.addr() == local);
    found.map(|it| it.index).ok_or_else(gone)
}

fn gone() -> RtnlError {
    Refusal { errno: Errno::ENODEV, text: None }.into()
}

fn create(
    connection: &mut Connection,
    tunnel: &Tunnel,
    parent: Option<u32>,
) -> Result<(), RtnlError> {
    let message = match &tunnel.encapsulation {
        Encapsulation::Vxlan(vxlan) => vxlan_message(tunnel, vxlan, parent.unwrap_or(0)),
        // Asking for one loads the module, which makes it; then it is there already.
        Encapsulation::Ipip => LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::IpIp)
            .name(tunnel.name.clone())
            .build(),
    };
    match connection.execute(Request::new(RouteNetlinkMessage::NewLink(message), CREATE)) {
        Err(RtnlError::Refused(refusal))
            if refusal.errno == Errno::EEXIST
                && tunnel.encapsulation == Encapsulation::Ipip
                && link::by_name(connection, &tunnel.name)?.is_some() =>
        {
            Ok(())
        }
        outcome => outcome,
    }
}

fn vxlan_message(tunnel: &Tunnel, vxlan: &Vxlan, parent: u32) -> LinkMessage {
    let builder = LinkVxlan::new(&tunnel.name, vxlan.vni)
        .dev(parent)
        .port(vxlan.port)
        .learning(false)
        .address(vxlan.mac.0.to_vec())
        .mtu(tunnel.mtu);
    match vxlan.local {
        IpAddr::V4(local) => builder.local(local).build(),
        IpAddr::V6(local) => builder.local6(local).build(),
    }
}

/// Whether a device is of the right kind, with the right settings of those that never change.
fn fits(message: &LinkMessage, tunnel: &Tunnel, parent: Option<u32>) -> bool {
    let infos = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let infos = infos.map(Vec::as_slice).unwrap_or_default();
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match (&tunnel.encapsulation, kind) {
        (Encapsulation::Ipip, Some(InfoKind::IpIp)) => true,
        (Encapsulation::Vxlan(vxlan), Some(InfoKind::Vxlan)) => {
            let data = infos.iter().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(data)) => Some(data.as_slice()),
                _ => None,
            });
            let has = |wanted: InfoVxlan| data.unwrap_or_default().contains(&wanted);
            has(InfoVxlan::Id(vxlan.vni))
                && has(InfoVxlan::Port(vxlan.port))
                && has(InfoVxlan::Learning(false))
                && parent.is_some_and(|index| has(InfoVxlan::Link(index)))
                && match vxlan.local {
                    IpAddr::V4(local) => has(InfoVxlan::Local(local)),
                    IpAddr::V6(local) => has(InfoVxlan::Local6(local)),
                }
        }
        _ => false,
    }
}
