//! Service addresses, as kube-proxy makes them: connections to one are forwarded to a pod of the
//! node that they come to.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use crate::error::LabError;
use crate::lab::RunningPod;
use crate::topology::{Service, Topology};
use crate::{ip, netns, programs};

/// Debian's package of `nft`.
pub(crate) const PACKAGE: &str = "nftables";
/// The table, in every node's namespace. Calico's own is another.
const TABLE: &str = "lab-services";

/// Makes a node answer for the service addresses with the pods that it has now.
pub(crate) fn program(
    topology: &Topology,
    pods: &[RunningPod],
    node: &str,
) -> Result<(), LabError> {
    if topology.services.is_empty() {
        return Ok(());
    }
    let nft = programs::system("nft", PACKAGE)?;
    let own: Vec<&RunningPod> = pods.iter().filter(|it| it.pod.node == node).collect();
    let script = ruleset(&topology.services, &own);
    let cannot = |error| LabError::Machine(format!("cannot run nft: {error}"));
    let mut child = Command::new("ip")
        .args(["netns", "exec", &netns::name_of(&topology.name, node)])
        .arg(&nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it stops early, its exit status tells why.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(cannot)?;
    ip::check(&output, || format!("nft -f - <<< {script:?}"))
}

/// One table that replaces what stood there before.
fn ruleset(services: &[Service], own: &[&RunningPod]) -> String {
    let mut rules = String::new();
    for service in services {
        let mine: Vec<&RunningPod> = own
            .iter()
            .copied()
            .filter(|it| service.pods.iter().any(|pod| *pod == it.pod.name || *pod == it.pod.id()))
            .collect();
        for address in &service.addresses {
            let targets: Vec<SocketAddr> = mine
                .iter()
                .filter_map(|pod| pod.address(address.is_ipv6()))
                .map(|pod| SocketAddr::new(pod, service.port))
                .collect();
            rules.push_str(&rule(*address, service.port, &targets));
        }
    }
    format!(
        "table inet {TABLE} {{}}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n  \
         chain prerouting {{\n    type nat hook prerouting priority dstnat;\n{rules}  }}\n}}\n"
    )
}

/// The rule of one address: pods take turns.
fn rule(address: IpAddr, port: u16, targets: &[SocketAddr]) -> String {
    let family = if address.is_ipv6() { "ip6" } else { "ip" };
    let matches = format!("    {family} daddr {address} tcp dport {port}");
    match targets {
        [] => String::new(),
        [only] => format!("{matches} dnat {family} to {only}\n"),
        several => {
            // Each rule takes its share of what the rules before have left.
            let share = |(index, target)| {
                let left = several.len() - index;
                format!("{matches} numgen inc mod {left} 0 dnat {family} to {target}\n")
            };
            several.iter().enumerate().map(share).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_a_node_share_its_connections() {
        let address = "10.96.0.10".parse().unwrap();
        let pod = |text: &str| text.parse().unwrap();
        assert_eq!(rule(address, 80, &[]), "");
        assert_eq!(
            rule(address, 80, &[pod("10.244.0.1:80")]),
            "    ip daddr 10.96.0.10 tcp dport 80 dnat ip to 10.244.0.1:80\n"
        );
        let two = rule(address, 80, &[pod("10.244.0.1:80"), pod("10.244.0.2:80")]);
        assert!(two.contains("numgen inc mod 2 0 dnat ip to 10.244.0.1:80\n"), "{two}");
        assert!(two.contains("numgen inc mod 1 0 dnat ip to 10.244.0.2:80\n"), "{two}");
        let v6 = rule("fd00:96::10".parse().unwrap(), 80, &[pod("[fd00:244::1]:80")]);
        assert!(v6.contains("ip6 daddr fd00:96::10 tcp dport 80 dnat ip6 to [fd00:244::1]:80"));
    }
}
