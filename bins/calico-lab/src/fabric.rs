//! The fabric: a bridge in a namespace of its own, and the members that a veth joins to it.
//!
//! Every link is made inside the lab's namespaces, so the host's network never holds one.

use std::fs;
use std::path::Path;

use ipnet::IpNet;

use crate::error::LabError;
use crate::{ip, netns};

/// Member that is the fabric itself.
pub const FABRIC: &str = "fabric";
/// Name of each member's interface to the fabric.
pub const INTERFACE: &str = "eth0";
/// Name of the bridge.
const BRIDGE: &str = "br0";

/// Makes the namespace with the bridge.
pub(crate) fn create(lab: &str) -> Result<(), LabError> {
    let namespace = add_namespace(lab, FABRIC)?;
    ip::batch(
        Some(&namespace),
        &[
            format!("link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0"),
            format!("link set {BRIDGE} up"),
        ],
    )
}

/// Makes the namespace of a member, and joins it to the fabric with these addresses.
pub(crate) fn attach(lab: &str, member: &str, addresses: &[IpNet]) -> Result<(), LabError> {
    let namespace = add_namespace(lab, member)?;
    let fabric = netns::name_of(lab, FABRIC);
    ip::batch(
        Some(&fabric),
        &[
            format!("link add {member} type veth peer name {INTERFACE} netns {namespace}"),
            format!("link set {member} master {BRIDGE} up"),
        ],
    )?;
    let mut commands: Vec<String> =
        addresses.iter().map(|address| format!("addr add {address} dev {INTERFACE}")).collect();
    commands.push(format!("link set {INTERFACE} up"));
    ip::batch(Some(&namespace), &commands)
}

/// Makes a namespace with its loopback up.
pub(crate) fn add_namespace(lab: &str, member: &str) -> Result<String, LabError> {
    let namespace = netns::name_of(lab, member);
    ip::output(None, &["netns", "add", &namespace])?;
    // Addresses of the fabric are unique by the topology's check; looking for duplicates would
    // keep each of them unusable for a second or two.
    netns::enter(&namespace, || set("net/ipv6/conf/default/accept_dad", "0"))??;
    ip::batch(Some(&namespace), &["link set lo up".to_owned()])?;
    Ok(namespace)
}

/// Turns a namespace into a router.
pub(crate) fn forward(namespace: &str) -> Result<(), LabError> {
    netns::enter(namespace, || {
        set("net/ipv4/ip_forward", "1")?;
        set("net/ipv6/conf/all/forwarding", "1")
    })?
}

/// Sets a sysctl of the namespace that this thread is in. A kernel without IPv6 has no sysctls
/// of it to set.
fn set(sysctl: &str, value: &str) -> Result<(), LabError> {
    let path = Path::new("/proc/sys").join(sysctl);
    if !path.exists() {
        return Ok(());
    }
    fs::write(&path, value).map_err(LabError::file("write", &path))
}
