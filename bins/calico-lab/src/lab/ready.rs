//! Waiting for a lab to be ready, by what can be observed from outside.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use calico_control::Status;
use ipnet::IpNet;

use super::{Lab, PATIENCE};
use crate::error::LabError;
use crate::process;
use crate::topology::{Node, RouterKind, address_of};
use crate::wait::{Pending, until};
use crate::{frr, ip, netns, probe};

/// TCP port of BGP (RFC 4271).
const BGP_PORT: u16 = 179;

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
    pub(super) async fn wait<T>(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_as_the_kernel_prints_them() {
        let line = "   0: 00000000000000000000000000000000:00B3 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1";
        assert!(is_listener(line, 179));
        assert!(!is_listener(line, 80));
        assert!(!is_listener(&line.replace(" 0A ", " 01 "), 179));
        assert!(!is_listener("  sl  local_address rem_address   st tx_queue", 179));
    }
}
