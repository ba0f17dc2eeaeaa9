//! Removal in two steps: what must be done at once, and what takes long.
//!
//! The kernel waits for all processors before an interface is gone, for some 20 ms, once for each
//! request and however many interfaces the request names. So a pod is cut off first, which is quick
//! and after which no packet passes, and removed together with others.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::LinkUnspec;

use super::PodError;
use super::error::Step as _;
use crate::link;
use crate::rtnl::{Connection, Request, RtnlError};

/// Group (`IFLA_GROUP`, what `ip link` calls `group`) of interfaces that are cut off and wait for
/// [`remove_cut_off`]: `cali` in ASCII. Whatever is in this group gets removed.
pub const CUT_OFF: u32 = u32::from_be_bytes(*b"cali");

/// Cuts a pod off: sets the host's end down, with which its routes go, and marks it for removal.
/// From then on nothing of the pod is sent or received. The mark is the kernel's and outlives this
/// program. False if there is no such interface.
///
/// # Errors
///
/// [`PodError::Kernel`].
pub fn cut_off(host_ifname: &str) -> Result<bool, PodError> {
    let step = || format!("cut off {host_ifname}");
    let mut host = Connection::open().step(step)?;
    let which = LinkUnspec::new_with_name(host_ifname)
        .down()
        .append_extra_attribute(LinkAttribute::Group(CUT_OFF));
    match host.execute(link::set_request(which)) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error).step(step),
    }
}

/// Removes every interface that is cut off, with its end in the pod, in one request. False if there
/// was none.
///
/// # Errors
///
/// [`PodError::Kernel`].
pub fn remove_cut_off() -> Result<bool, PodError> {
    let step = || "remove interfaces that are cut off".into();
    let mut host = Connection::open().step(step)?;
    remove_group(&mut host).step(step)
}

pub(super) fn remove_group(host: &mut Connection) -> Result<bool, RtnlError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(CUT_OFF));
    match host.execute(Request::new(RouteNetlinkMessage::DelLink(message), 0)) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}
