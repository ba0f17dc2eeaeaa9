//! Waiting for a lab to be ready, by what can be observed from outside.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use calico_control::Status;
use ipnet::IpNet;
use serde_json::Value;

use super::{Lab, PATIENCE, RunningPod};
use crate::error::LabError;
use crate::process;
use crate::topology::{Node, RouterKind, address_of};
use crate::wait::{Pending, until};
use crate::{frr, ip, netns, probe};

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

/// Routing tables of all members, and who has which address.
#[derive(Default)]
struct Ways<'a> {
    tables: BTreeMap<&'a str, Vec<Route>>,
    owners: BTreeMap<IpAddr, &'a str>,
}

impl Lab {
    /// Waits for the datastore to be served: by an agent, or by a member of its own.
    pub(super) async fn wait_for_store(&mut self) -> Result<(), LabError> {
        if let Some(site) = self.store.site() {
            let (namespace, port) = (site.namespace(), self.store.port());
            let answer = self.wait("listening of the datastore", async |_: &mut Self| {
                let listens = listens(&namespace, port)?;
                listens.then_some(()).ok_or_else(|| Pending::NotYet("nobody listens".to_owned()))
            });
            answer.await?;
            return match self.store.kubernetes() {
                Some(kubernetes) => kubernetes.wait().await,
                None => Ok(()),
            };
        }
        let holder = self.topology.store_node().name.clone();
        let what = format!("an answer of the agent on {holder}");
        self.wait(&what, async |lab: &mut Self| {
            lab.status(&holder).await.map(drop).map_err(Pending::NotYet)
        })
        .await
    }

    /// Starts what else runs on routers of kind `frr`, each once it can, and gives them their
    /// configuration.
    pub(super) async fn configure_routers(&mut self) -> Result<(), LabError> {
        let routers = self.topology.routers.iter().filter(|it| it.kind == RouterKind::Frr);
        let names: Vec<String> = routers.map(|it| it.name.clone()).collect();
        for router in &names {
            let directory = self.run_dir(router);
            let start =
                async |lab: &mut Self| frr::start_bgpd(&directory, &lab.topology.name, router);
            let bgpd = self.wait(&format!("a start of bgpd on {router}"), start).await?;
            self.supervise(bgpd)?;
        }
        for router in &names {
            let directory = self.run_dir(router);
            let what = format!("configuring FRR on {router}");
            self.wait(&what, async |_: &mut Self| frr::configure(&directory).await).await?;
        }
        Ok(())
    }

    /// Waits until reflectors and routers listen for BGP.
    pub(super) async fn wait_for_peers(&mut self) -> Result<(), LabError> {
        self.wait("listening for BGP on all reflectors and routers", async |lab: &mut Self| {
            let reflectors = lab.topology.reflectors.iter().map(|it| &it.name);
            let routers = lab.topology.routers.iter();
            let routers = routers.filter(|it| lab.topology.speaks(it)).map(|it| &it.name);
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

    /// Waits until every node has the devices that the pools' packets travel over: pods that are
    /// made then send no packet that does not fit.
    ///
    /// # Errors
    ///
    /// [`LabError::Timeout`] with the device that is missing.
    pub async fn wait_for_tunnels(&mut self) -> Result<(), LabError> {
        self.wait("tunnels between the nodes", async |lab: &mut Self| {
            for device in [false, true].iter().filter_map(|v6| lab.topology.tunnel_device(*v6)) {
                for node in &lab.topology.nodes {
                    let namespace = lab.namespace(&node.name);
                    let show = ["-o", "address", "show", "dev", device, "scope", "global", "up"];
                    let found = ip::output(Some(&namespace), &show).unwrap_or_default();
                    if !found.contains("inet") {
                        return Err(Pending::NotYet(format!("{} has no {device}", node.name)));
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until the kernels of all nodes and routers have a route to every pod: on its own node
    /// to its interface, elsewhere by way of that node or, from another network, of routers that
    /// have a route in turn. On one network nobody takes a detour, but for nodes that learn a
    /// default route alone. Nodes then have what routers announce, too, and routers the ranges of
    /// services.
    ///
    /// # Errors
    ///
    /// [`LabError::Timeout`] with the first route that is missing.
    pub async fn wait_for_routes(&mut self) -> Result<(), LabError> {
        self.wait("a route to every pod on every node", async |lab: &mut Self| {
            for v6 in [false, true] {
                let nodes = lab.topology.nodes.iter().map(|it| &it.name);
                let routers = lab.topology.routers.iter();
                let routers = routers.filter(|it| lab.topology.speaks(it)).map(|it| &it.name);
                let members: Vec<&String> = nodes.chain(routers).collect();
                let mut ways = Ways::default();
                for member in &members {
                    ways.tables.insert(member, lab.routes(member, v6)?);
                    for address in lab.addresses(member)? {
                        ways.owners.insert(address, member);
                    }
                }
                lab.check_announced(&ways, v6)?;
                for pod in &lab.pods {
                    for member in &members {
                        lab.check_way(&ways, member, pod, v6)?;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// What routers announce, and nodes of services, is known where it is to be.
    fn check_announced(&self, ways: &Ways<'_>, v6: bool) -> Result<(), Pending> {
        let has = |member: &str, destination: IpNet, by: &str| {
            let routes = ways.tables.get(member).into_iter().flatten();
            let found = routes.filter(|it| it.protocol != "kernel");
            let known = found.into_iter().any(|it| it.destination == destination);
            let what = || Pending::NotYet(format!("{member} has no {destination} of {by}"));
            known.then_some(()).ok_or_else(what)
        };
        for router in &self.topology.routers {
            let announced = router.announces.iter().filter(|it| it.addr().is_ipv6() == v6);
            for prefix in announced {
                for node in self.topology.nodes_of(router) {
                    has(&node.name, *prefix, &router.name)?;
                }
            }
            let served = self.topology.nodes_of(router).next();
            for range in self.topology.service_ranges().filter(|it| it.addr().is_ipv6() == v6) {
                if let Some(node) = served {
                    has(&router.name, range, &node.name)?;
                }
            }
        }
        Ok(())
    }

    /// Follows the best routes from a member to a pod, over every next hop.
    fn check_way(
        &self,
        ways: &Ways<'_>,
        from: &str,
        pod: &RunningPod,
        v6: bool,
    ) -> Result<(), Pending> {
        let Some(address) = pod.address(v6) else { return Ok(()) };
        let (id, node) = (pod.pod.id(), pod.pod.node.as_str());
        let mut next = vec![from];
        for _ in 0..=self.topology.routers.len() + 1 {
            let mut further = Vec::new();
            for at in next {
                let best = ways.tables.get(at).and_then(|routes| best_route(routes, address));
                let astray = || {
                    let found = best.map_or_else(|| "none".to_owned(), |it| format!("{it:?}"));
                    let way = if at == from { at.to_owned() } else { format!("{from}, by {at},") };
                    Pending::NotYet(format!(
                        "{way} has no right route to {id} ({address}) on {node}; the best is {found}"
                    ))
                };
                let route = best.ok_or_else(astray)?;
                if at == node {
                    if route.device.as_ref() != Some(&pod.attachment.host_interface) {
                        return Err(astray());
                    }
                    continue;
                }
                let owner = |gateway| ways.owners.get(gateway).copied();
                let gateways: Option<Vec<&str>> = route.gateways.iter().map(owner).collect();
                let gateways = gateways.filter(|it| !it.is_empty()).ok_or_else(astray)?;
                if self.must_be_direct(at, node) && !gateways.contains(&node) {
                    return Err(astray());
                }
                further.extend(gateways);
            }
            if further.is_empty() {
                return Ok(());
            }
            next = further;
        }
        Err(Pending::NotYet(format!("packets from {from} to {id} ({address}) go in circles")))
    }

    /// Whether a member is to send to the pods of a node without a detour: it is on its network,
    /// and learns more than a default route.
    fn must_be_direct(&self, member: &str, host: &str) -> bool {
        let Some(host) = self.topology.node(host) else { return false };
        match self.topology.node(member) {
            Some(node) => node.network == host.network && !self.topology.goes_by_default(node),
            None => {
                let mut routers = self.topology.routers.iter();
                let router = routers.find(|it| it.name == member);
                let mut interfaces = router.into_iter().flat_map(|it| it.interfaces());
                interfaces.any(|(network, _)| network == host.network)
            }
        }
    }

    /// Addresses of a member, those of its links (IPv6) as well.
    fn addresses(&self, member: &str) -> Result<Vec<IpAddr>, LabError> {
        let text = ip::output(Some(&self.namespace(member)), &["-json", "address"])?;
        let list: Vec<Value> = serde_json::from_str(text.trim()).unwrap_or_default();
        let infos = list.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
        let own = infos.filter(|info| info["scope"] == "global" || info["scope"] == "link");
        Ok(own.filter_map(|info| info["local"].as_str()?.parse().ok()).collect())
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
    /// off, with every reflector, and every router that serves it; one per family that both sides
    /// have.
    fn expected_sessions(&self, node: &Node) -> usize {
        let both = |peer: &[IpNet], v6: bool| {
            address_of(&node.addresses, v6).is_some() && address_of(peer, v6).is_some()
        };
        let others = self.topology.nodes.iter().filter(|other| {
            let reflects = node.cluster_id.is_some() || other.cluster_id.is_some();
            self.topology.has_mesh() && other.name != node.name && !reflects
        });
        let reflectors = self.topology.reflectors.iter().map(|it| &it.addresses);
        let peers: Vec<_> = others.map(|other| &other.addresses).chain(reflectors).collect();
        let routers: Vec<_> =
            self.topology.routers.iter().filter(|it| self.topology.serves(it, node)).collect();
        let sessions = |v6| {
            peers.iter().filter(|peer| both(peer, v6)).count()
                + routers.iter().filter(|it| self.topology.session(it, node, v6).is_some()).count()
        };
        sessions(false) + sessions(true)
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

/// The route that the kernel takes: the longest prefix.
fn best_route(routes: &[Route], address: IpAddr) -> Option<&Route> {
    let covering = routes.iter().filter(|it| it.destination.contains(&address));
    covering.max_by_key(|route| route.destination.prefix_len())
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

fn check_status(node: &Node, status: &Status, expected: usize) -> Result<(), String> {
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
