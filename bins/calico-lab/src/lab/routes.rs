//! Routes of all members of a lab, and waiting for them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{Lab, RunningPod};
use crate::error::LabError;
use crate::ip;
use crate::wait::Pending;

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
}

/// The route that the kernel takes: the longest prefix.
fn best_route(routes: &[Route], address: IpAddr) -> Option<&Route> {
    let covering = routes.iter().filter(|it| it.destination.contains(&address));
    covering.max_by_key(|route| route.destination.prefix_len())
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
