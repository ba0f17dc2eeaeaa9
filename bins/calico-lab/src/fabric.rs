//! The fabric: a bridge per network in a namespace of their own, and the members that a veth
//! joins to them.
//!
//! Every link is made inside the lab's namespaces, so the host's network never holds one.

use std::fs;
use std::path::Path;

use ipnet::IpNet;

use crate::error::LabError;
use crate::topology::{FABRIC_NETWORK, Topology};
use crate::{ip, netns};

/// Member that is the fabric itself.
pub const FABRIC: &str = "fabric";
/// Makes the namespace with the bridges.
pub(crate) fn create(topology: &Topology) -> Result<(), LabError> {
    let namespace = add_namespace(&topology.name, FABRIC)?;
    let mut commands = Vec::new();
    for network in topology.networks() {
        let bridge = bridge(network);
        commands.push(format!("link add {bridge} type bridge stp_state 0 mcast_snooping 0"));
        commands.push(format!("link set {bridge} up"));
    }
    ip::batch(Some(&namespace), &commands)
}

/// Makes the namespace of a member, and joins it to networks: with `eth0` to the first, `eth1`
/// to the second. Returns the namespace.
pub(crate) fn attach<'a>(
    lab: &str,
    member: &str,
    interfaces: impl IntoIterator<Item = (&'a str, &'a [IpNet])>,
) -> Result<String, LabError> {
    let namespace = add_namespace(lab, member)?;
    let (mut outside, mut inside) = (Vec::new(), Vec::new());
    for (index, (network, addresses)) in interfaces.into_iter().enumerate() {
        let (port, bridge) = (port(member, index), bridge(network));
        outside.push(format!("link add {port} type veth peer name eth{index} netns {namespace}"));
        outside.push(format!("link set {port} master {bridge} up"));
        inside.extend(addresses.iter().map(|it| format!("addr add {it} dev eth{index}")));
        inside.push(format!("link set eth{index} up"));
    }
    ip::batch(Some(&netns::name_of(lab, FABRIC)), &outside)?;
    ip::batch(Some(&namespace), &inside)?;
    Ok(namespace)
}

/// Pulls the plug of a member: its first interface loses its link, as when the machine dies.
pub(crate) fn unplug(lab: &str, member: &str) -> Result<(), LabError> {
    let down = format!("link set {} down", port(member, 0));
    ip::batch(Some(&netns::name_of(lab, FABRIC)), &[down])
}

fn bridge(network: &str) -> String {
    if network == FABRIC_NETWORK { "br0".to_owned() } else { format!("br-{network}") }
}

/// The end of a member's interface in the fabric.
fn port(member: &str, index: usize) -> String {
    if index == 0 { member.to_owned() } else { format!("{member}-{index}") }
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

/// Turns a namespace into a router, which sends the packets of one connection the same way and
/// those of another perhaps another way (policy 1 of the kernel's ip-sysctl.rst).
pub(crate) fn forward(namespace: &str) -> Result<(), LabError> {
    netns::enter(namespace, || {
        set("net/ipv4/ip_forward", "1")?;
        set("net/ipv6/conf/all/forwarding", "1")?;
        set("net/ipv4/fib_multipath_hash_policy", "1")?;
        set("net/ipv6/fib_multipath_hash_policy", "1")
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
