//! Bandwidth of workloads, by token buckets of the kernel (`tbf`), as upstream's Felix limits it.
//!
//! What goes *to* a workload passes a bucket on the host's end of its veth. What comes *from* it is
//! sent through an `ifb` device of its own, which has the other bucket: the kernel only queues what
//! it sends. The device has the name that upstream gives it.
//!
//! [`apply`] compares with the kernel and changes what differs, so that calling it again, or after
//! an earlier run, disturbs no packet. [`Shaper`] follows endpoints and interfaces. Limits of
//! packets and connections are rules of the [`dataplane`](crate::dataplane).
//!
//! ```no_run
//! use calico_core::dataplane::{Bandwidth, Limits};
//! use calico_netlink::qos;
//! use calico_netlink::rtnl::{Connection, RtnlError};
//!
//! # fn main() -> Result<(), RtnlError> {
//! let ten_megabits = Bandwidth { rate: 10_000_000, burst: 1 << 20, peak_rate: 0, peak_burst: 0 };
//! let mut limits = Limits::default();
//! limits.egress.bandwidth = Some(ten_megabits);
//! qos::apply(&mut Connection::open()?, "cali1234567890a", &limits)?;
//! # Ok(())
//! # }
//! ```

mod bucket;
mod kernel;
mod shaper;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use calico_core::dataplane::{Bandwidth, Limits};
use nix::errno::Errno;
use sha2::{Digest as _, Sha512};

use crate::link::{self, Link, LinkFilter, NAME_MAX};
use crate::rtnl::{Connection, RtnlError};

use bucket::Bucket;

pub use shaper::Shaper;

/// How the names of the devices for packets from workloads begin.
const IFB_PREFIX: &str = "bwcali";

/// Several steps make a queue: those who make the pod and those who follow it take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Name of the device that packets from this interface are sent through.
#[must_use]
pub fn ifb_name(interface: &str) -> String {
    let digest = Sha512::digest(interface.as_bytes());
    let mut name = IFB_PREFIX.to_owned();
    for byte in digest {
        name.push_str(&format!("{byte:02x}"));
        if name.len() >= NAME_MAX {
            break;
        }
    }
    name.truncate(NAME_MAX);
    name
}

/// Brings the bandwidths among the limits into force at the host's end of a workload's veth, and
/// removes those that are not wanted any more. False if there is no such interface.
///
/// # Errors
///
/// [`RtnlError::Refused`] if the kernel lacks `tbf`, `ifb`, `u32` or `mirred`, among others.
pub fn apply(
    connection: &mut Connection,
    interface: &str,
    limits: &Limits,
) -> Result<bool, RtnlError> {
    let _turn = turn();
    let Some(link) = link::by_name(connection, interface)? else {
        link::delete(connection, &ifb_name(interface))?;
        return Ok(false);
    };
    set_bucket(connection, &link, limits.ingress.bandwidth.as_ref())?;
    match &limits.egress.bandwidth {
        Some(bandwidth) => shape_egress(connection, &link, bandwidth)?,
        None => release_egress(connection, &link)?,
    }
    Ok(true)
}

/// Sees whether the bandwidths among the limits are in force, and no others of ours; says what is
/// not. Changes nothing.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn check(
    connection: &mut Connection,
    interface: &str,
    limits: &Limits,
) -> Result<Option<String>, RtnlError> {
    let _turn = turn();
    let Some(link) = link::by_name(connection, interface)? else {
        return Ok(Some(format!("there is no interface {interface}")));
    };
    let different = |what: &str, wanted: Option<&Bandwidth>| {
        let wanted = wanted.map_or_else(|| "unlimited".into(), |b| format!("{} bit/s", b.rate));
        Ok(Some(format!("the bandwidth {what} {interface} is not as wanted ({wanted})")))
    };
    if !has_bucket(connection, &link, limits.ingress.bandwidth.as_ref())? {
        return different("to the workload behind", limits.ingress.bandwidth.as_ref());
    }
    let wanted = limits.egress.bandwidth.as_ref();
    let redirected = kernel::redirections(connection, link.index)?;
    let device = link::by_name(connection, &ifb_name(interface))?;
    let there = match (wanted, device) {
        (None, device) => !device.is_some_and(|device| redirected.contains(&device.index)),
        (Some(_), None) => false,
        (Some(_), Some(device)) => {
            device.up && redirected == [device.index] && has_bucket(connection, &device, wanted)?
        }
    };
    if there { Ok(None) } else { different("from the workload behind", wanted) }
}

/// Removes what an interface that is gone has left.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn forget(connection: &mut Connection, interface: &str) -> Result<(), RtnlError> {
    let _turn = turn();
    link::delete(connection, &ifb_name(interface)).map(drop)
}

/// Removes the devices of interfaces that are gone; returns their names.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn sweep(connection: &mut Connection) -> Result<Vec<String>, RtnlError> {
    let _turn = turn();
    let links = link::list(connection, &LinkFilter::default())?;
    let is_ours =
        |link: &&Link| link.kind.as_deref() == Some("ifb") && link.name.starts_with(IFB_PREFIX);
    let devices: Vec<&Link> = links.iter().filter(is_ours).collect();
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let used: BTreeSet<String> = links.iter().map(|link| ifb_name(&link.name)).collect();
    let mut removed = Vec::new();
    for device in devices.into_iter().filter(|device| !used.contains(&device.name)) {
        link::delete(connection, &device.name)?;
        removed.push(device.name.clone());
    }
    Ok(removed)
}

fn has_bucket(
    connection: &mut Connection,
    link: &Link,
    wanted: Option<&Bandwidth>,
) -> Result<bool, RtnlError> {
    let seen = kernel::bucket(connection, link.index)?;
    Ok(match (wanted.map(|bandwidth| Bucket::new(bandwidth, link.mtu)), seen) {
        (Some(wanted), Some(seen)) => wanted.is(&seen),
        (None, None) => true,
        _ => false,
    })
}

fn set_bucket(
    connection: &mut Connection,
    link: &Link,
    wanted: Option<&Bandwidth>,
) -> Result<(), RtnlError> {
    let seen = kernel::bucket(connection, link.index)?;
    match (wanted.map(|bandwidth| Bucket::new(bandwidth, link.mtu)), seen) {
        (Some(wanted), Some(seen)) if wanted.is(&seen) => Ok(()),
        (Some(wanted), _) => kernel::put_bucket(connection, link.index, &wanted),
        (None, Some(_)) => kernel::remove_bucket(connection, link.index),
        (None, None) => Ok(()),
    }
}

fn shape_egress(
    connection: &mut Connection,
    link: &Link,
    bandwidth: &Bandwidth,
) -> Result<(), RtnlError> {
    let name = ifb_name(&link.name);
    let device = match link::by_name(connection, &name)? {
        Some(device) => Some(device),
        None => {
            kernel::make_ifb(connection, &name, link.mtu)?;
            link::by_name(connection, &name)?
        }
    };
    // Removed by somebody else just now.
    let Some(device) = device else { return Err(RtnlError::Refused(absent())) };
    if !device.up {
        link::set_up(connection, &name)?;
    }
    set_bucket(connection, &device, Some(bandwidth))?;
    if kernel::redirections(connection, link.index)? != [device.index] {
        kernel::redirect(connection, link.index, device.index)?;
    }
    Ok(())
}

fn release_egress(connection: &mut Connection, link: &Link) -> Result<(), RtnlError> {
    let name = ifb_name(&link.name);
    let Some(device) = link::by_name(connection, &name)? else { return Ok(()) };
    if kernel::redirections(connection, link.index)?.contains(&device.index) {
        kernel::stop_redirecting(connection, link.index)?;
    }
    link::delete(connection, &name).map(drop)
}

fn absent() -> crate::rtnl::Refusal {
    crate::rtnl::Refusal { errno: Errno::ENODEV, text: None }
}
