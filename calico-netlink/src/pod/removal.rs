//! Removal in steps: what must be done at once, and what takes long.
//!
//! A request to remove interfaces keeps its caller for some 20 ms, however many interfaces it is
//! about: they are out of sight after 2 ms, then the kernel waits for all processors before it frees
//! their memory (`netdev_run_todo`). So a pod is cut off first, which is quick and after which no
//! packet passes; all that are cut off are removed in one request, by a thread that has the time;
//! and whoever wants to know when they are gone looks.

use std::thread;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::LinkUnspec;

use super::PodError;
use super::error::Step as _;
use crate::link;
use crate::qos;
use crate::rtnl::{Connection, Request, RtnlError};

/// Group (`IFLA_GROUP`, what `ip link` calls `group`) of interfaces that are cut off and wait for
/// [`remove_cut_off`]: `cali` in ASCII. Whatever is in this group gets removed.
pub const CUT_OFF: u32 = u32::from_be_bytes(*b"cali");

/// Between two looks. A look waits for a removal under way, since both need the kernel's lock.
const LOOK: Duration = Duration::from_micros(100);

/// Cuts a pod off: sets the host's end down, with which its routes go, and marks it for removal.
/// From then on nothing of the pod is sent or received. The mark is the kernel's and outlives this
/// program. False if there is no such interface.
///
/// # Errors
///
/// [`PodError::Kernel`].
pub fn cut_off(host_ifname: &str) -> Result<bool, PodError> {
    let mut host = Connection::open().step(|| format!("cut off {host_ifname}"))?;
    cut_off_by(&mut host, host_ifname)
}

pub(super) fn cut_off_by(host: &mut Connection, host_ifname: &str) -> Result<bool, PodError> {
    let step = || format!("cut off {host_ifname}");
    let cut = |name: &str| {
        let which = LinkUnspec::new_with_name(name)
            .down()
            .append_extra_attribute(LinkAttribute::Group(CUT_OFF));
        link::set_request(which)
    };
    // The device of its bandwidth, if it has one, goes the same way.
    let requests = [cut(&qos::ifb_name(host_ifname)), cut(host_ifname)];
    let mut outcomes = host.exchange(&requests).step(step)?.into_iter();
    let device = outcomes.next().unwrap_or(Ok(None)).map_err(RtnlError::from);
    match device {
        Err(error) if !error.is_absent() => return Err(error).step(step),
        _ => {}
    }
    match outcomes.next().unwrap_or(Ok(None)).map_err(RtnlError::from) {
        Ok(_) => Ok(true),
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

/// Waits until the host has none of these interfaces, which a [`remove_cut_off`] on another thread
/// is about to remove. False if they are still there once that has `ended`.
///
/// # Errors
///
/// [`PodError::Kernel`].
pub fn wait_removed(names: &[String], ended: impl Fn() -> bool) -> Result<bool, PodError> {
    let mut host = Connection::open().step(|| "reach the kernel".into())?;
    for name in names {
        loop {
            // Asked in this order: what ended before the look shows in it.
            let last = ended();
            if link::by_name(&mut host, name).step(|| format!("look at {name}"))?.is_none() {
                break;
            }
            if last {
                return Ok(false);
            }
            thread::sleep(LOOK);
        }
    }
    Ok(true)
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
