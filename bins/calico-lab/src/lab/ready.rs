//! Waiting for a lab to be ready, by what can be observed from outside.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::{Lab, PATIENCE};
use crate::error::LabError;
use crate::process;
use crate::topology::{Node, address_of};
use crate::wait::{Pending, until};
use crate::{control, ip, netns, probe};

/// TCP port of BGP (RFC 4271).
const BGP_PORT: u16 = 179;

/// A route of the kernel's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its destination.
    pub destination: IpNet,
    /// Its gateways; several if it has several next hops.
    pub gateways: Vec<IpAddr>,
    /// Its interface.
    pub device: Option<String>,
    /// `unicast`, `blackhole`, ...
    pub kind: String,
    /// Who made it, such as `kernel` or `bird`.
    pub protocol: String,
}

impl Lab {
    /// Waits for the datastore to be served.
    pub(super) async fn wait_for_store(&mut self) -> Result<(), LabError> {
        let holder = self.topology.store_node().name.clone();
        let what = format!("an answer of the agent on {holder}");
        self.wait(&what, async |lab: &mut Self| {
            lab.status(&holder).await.map(drop).map_err(Pending::NotYet)
        })
        .await
    }

    /// Waits until reflectors and routers listen for BGP.
    pub(super) async fn wait_for_peers(&mut self) -> Result<(), LabError> {
        self.wait("listening for BGP on all reflectors and routers", async |lab: &mut Self| {
            let reflectors = lab.topology.reflectors.iter().map(|it| &it.name);
            let routers = lab.topology.routers.iter().map(|it| &it.name);
            for member in reflectors.chain(routers) {
                if !listens(&lab.namespace(member), BGP_PORT)? {
                    return Err(Pending::NotYet(format!("{member} does not listen yet")));
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until every agent has the kernel as the datastore says, and every BGP session that
    /// follows from the topology is established.
    ///
    /// # Errors
    ///
    /// [`LabError::Timeout`] with the sessions that are missing, or a program that ended.
    pub async fn wait_for_sessions(&mut self) -> Result<(), LabError> {
        self.wait("readiness of all agents and BGP sessions", async |lab: &mut Self| {
            for node in &lab.topology.nodes {
                let status = lab.status(&node.name).await.map_err(Pending::NotYet)?;
                let expected = lab.expected_sessions(node);
                check_status(node, &status, expected).map_err(Pending::NotYet)?;
            }
            Ok(())
        })
        .await
    }

    /// Waits until the kernels of all nodes and routers have a route to every pod: on its own node
    /// to its interface, elsewhere by way of that node: a router takes no detour over another.
    ///
    /// # Errors
    ///
    /// [`LabError::Timeout`] with the first route that is missing.
    pub async fn wait_for_routes(&mut self) -> Result<(), LabError> {
        self.wait("a route to every pod on every node", async |lab: &mut Self| {
            for v6 in [false, true] {
                let nodes = lab.topology.nodes.iter().map(|it| &it.name);
                let routers = lab.topology.routers.iter().map(|it| &it.name);
                for member in nodes.chain(routers) {
                    lab.check_routes(member, v6)?;
                }
            }
            Ok(())
        })
        .await
    }

    fn check_routes(&self, member: &str, v6: bool) -> Result<(), Pending> {
        let routes = self.routes(member, v6)?;
        for pod in &self.pods {
            let Some(address) = pod.address(v6) else { continue };
            let host = self.topology.node(&pod.pod.node);
            let gateway = host.and_then(|node| address_of(&node.addresses, v6));
            let mut covering: Vec<&Route> = routes
                .iter()
                .filter(|it| it.destination.prefix_len() > 0 && it.destination.contains(&address))
                .collect();
            covering.sort_by_key(|route| std::cmp::Reverse(route.destination.prefix_len()));
            let right = |route: &&Route| {
                if pod.pod.node == member {
                    route.device.as_ref() == Some(&pod.attachment.host_interface)
                } else {
                    gateway.is_some_and(|gateway| route.gateways.contains(&gateway))
                }
            };
            if !covering.first().is_some_and(right) {
                let found =
                    covering.first().map_or_else(|| "none".to_owned(), |it| format!("{it:?}"));
                return Err(Pending::NotYet(format!(
                    "{member} has no right route to {} ({address}) on {}; the best is {found}",
                    pod.pod.id(),
                    pod.pod.node,
                )));
            }
        }
        Ok(())
    }

    /// Routes of a member's main table.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] with the words of `ip`.
    pub fn routes(&self, member: &str, v6: bool) -> Result<Vec<Route>, LabError> {
        let family = if v6 { "-6" } else { "-4" };
        let text =
            ip::output(Some(&self.namespace(member)), &["-json", "-details", family, "route"])?;
        // With no route at all, some versions print nothing instead of an empty list.
        let list: Vec<Value> = serde_json::from_str(text.trim()).unwrap_or_default();
        Ok(list.iter().filter_map(|route| parse_route(route, v6)).collect())
    }

    /// What `ip route` prints on a member.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] with the words of `ip`.
    pub fn route_text(&self, member: &str, v6: bool) -> Result<String, LabError> {
        let family = if v6 { "-6" } else { "-4" };
        ip::output(Some(&self.namespace(member)), &[family, "route", "show"])
    }

    /// Waits until the pod's listeners answer inside of the pod.
    pub(super) async fn wait_for_listeners(&mut self, index: usize) -> Result<(), LabError> {
        let pod = self.pods[index].clone();
        let what = format!("an answer of the listeners of {}", pod.pod.id());
        self.wait(&what, async |_: &mut Self| {
            let tcp = pod.pod.tcp.iter().map(|&port| (port, false));
            let udp = pod.pod.udp.iter().map(|&port| (port, true));
            for (port, datagrams) in tcp.chain(udp) {
                let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let limit = Duration::from_millis(200);
                let outcome = if datagrams {
                    probe::udp(pod.namespace(), to, limit).await?
                } else {
                    probe::tcp(pod.namespace(), to, limit).await?
                };
                if !outcome.is_answered() {
                    return Err(Pending::NotYet(format!("port {port}: {outcome}")));
                }
            }
            Ok(())
        })
        .await
    }

    /// Sessions that a node has by the topology, at least: with the other nodes unless the mesh is
    /// off, with every reflector and every router; one per family that both sides have.
    fn expected_sessions(&self, node: &Node) -> usize {
        let mesh = !self.topology.resources.iter().any(|it| {
            it["kind"] == "BGPConfiguration" && it["spec"]["nodeToNodeMeshEnabled"] == false
        });
        let others = self.topology.nodes.iter().filter(|other| {
            let reflects = node.cluster_id.is_some() || other.cluster_id.is_some();
            mesh && other.name != node.name && !reflects
        });
        let reflectors = self.topology.reflectors.iter().map(|it| &it.addresses);
        let routers = self.topology.routers.iter().map(|it| &it.addresses);
        others
            .map(|other| &other.addresses)
            .chain(reflectors)
            .chain(routers)
            .map(|peer| {
                let both = |&v6: &bool| {
                    address_of(&node.addresses, v6).is_some() && address_of(peer, v6).is_some()
                };
                [false, true].iter().filter(|v6| both(v6)).count()
            })
            .sum()
    }

    /// Waits with an eye on the programs: one that ends is the reason, not the timeout.
    async fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut(&mut Self) -> Result<T, Pending>,
    ) -> Result<T, LabError> {
        let lab = &mut *self;
        let outcome = until(what, PATIENCE, async || {
            for program in &mut lab.programs {
                program.check()?;
            }
            look(lab).await
        })
        .await;
        match outcome {
            Err(LabError::Timeout { what, limit, last, .. }) => {
                let logs = self.logs();
                Err(LabError::Timeout { what, limit, last, logs })
            }
            outcome => outcome,
        }
    }

    /// The ends of the logs of agents, reflectors and routers.
    fn logs(&self) -> String {
        self.programs
            .iter()
            .filter(|program| !program.title.starts_with("listeners"))
            .map(|program| format!("\nlog of {}:\n{}", program.title, process::tail(&program.log)))
            .collect()
    }
}

/// Whether a TCP socket of the namespace listens on the port, of whichever address and family.
fn listens(namespace: &str, port: u16) -> Result<bool, LabError> {
    let tables = netns::enter(namespace, || {
        ["tcp", "tcp6"].map(|table| {
            fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default()
        })
    })?;
    Ok(tables.iter().flat_map(|table| table.lines()).any(|line| is_listener(line, port)))
}

/// Reads a line of /proc/net/tcp: number, local address and port, remote ones, state (proc(5)).
fn is_listener(line: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace().skip(1);
    let local = words.next().and_then(|local| local.rsplit_once(':'));
    local.is_some_and(|(_, local)| u16::from_str_radix(local, 16) == Ok(port))
        && words.nth(1) == Some(LISTEN)
}

fn check_status(node: &Node, status: &control::Status, expected: usize) -> Result<(), String> {
    let name = &node.name;
    if !status.ready {
        return Err(format!("the agent on {name} waits for: {}", status.waiting_for.join(", ")));
    }
    let peers = status.bgp.as_ref().map(|bgp| bgp.peers.as_slice()).unwrap_or_default();
    if let Some(peer) = peers.iter().find(|peer| !peer.is_established()) {
        let error = peer.last_error.as_deref().unwrap_or("no error");
        return Err(format!("{name}'s session with {}: {} ({error})", peer.address, peer.state));
    }
    if peers.len() < expected {
        return Err(format!("{name} has {} of {expected} sessions", peers.len()));
    }
    Ok(())
}

fn parse_route(route: &Value, v6: bool) -> Option<Route> {
    let text = |key: &str| route[key].as_str();
    let destination = match text("dst")? {
        "default" if v6 => "::/0".parse().ok()?,
        "default" => "0.0.0.0/0".parse().ok()?,
        prefix => {
            prefix.parse::<IpNet>().or_else(|_| prefix.parse::<IpAddr>().map(IpNet::from)).ok()?
        }
    };
    let hops = route["nexthops"].as_array().into_iter().flatten();
    let gateways = std::iter::once(route)
        .chain(hops)
        .filter_map(|hop| hop["gateway"].as_str().or_else(|| hop["via"]["host"].as_str()))
        .filter_map(|gateway| gateway.parse().ok())
        .collect();
    Some(Route {
        destination,
        gateways,
        device: text("dev").map(str::to_owned),
        kind: text("type").unwrap_or("unicast").to_owned(),
        protocol: text("protocol").unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn listeners_are_read_as_the_kernel_prints_them() {
        let line = "   0: 00000000000000000000000000000000:00B3 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1";
        assert!(is_listener(line, 179));
        assert!(!is_listener(line, 80));
        assert!(!is_listener(&line.replace(" 0A ", " 01 "), 179));
        assert!(!is_listener("  sl  local_address rem_address   st tx_queue", 179));
    }

    #[test]
    fn routes_are_read_as_ip_prints_them() {
        let blackhole =
            json!({ "type": "blackhole", "dst": "10.244.0.0/26", "protocol": "bird", "flags": [] });
        let route = parse_route(&blackhole, false).unwrap();
        assert_eq!((route.kind.as_str(), route.gateways.len()), ("blackhole", 0));
        let pod = json!({ "type": "unicast", "dst": "10.244.0.1", "dev": "cali1", "protocol": "boot", "scope": "link" });
        let route = parse_route(&pod, false).unwrap();
        assert_eq!(route.destination, "10.244.0.1/32".parse().unwrap());
        let many = json!({ "dst": "default", "protocol": "12", "nexthops": [
            { "gateway": "fd30::1", "dev": "eth0" }, { "gateway": "fd30::2", "dev": "eth0" },
        ]});
        let route = parse_route(&many, true).unwrap();
        assert_eq!(route.destination, "::/0".parse().unwrap());
        assert_eq!(route.gateways.len(), 2);
    }
}
