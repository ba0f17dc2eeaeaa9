//! Who has BGP sessions with whom, and over which addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_core::selector::Selector;
use ipnet::IpNet;

use super::{FABRIC_NETWORK, Node, Router, SessionAddress, Tells, Topology, address_of};

impl Topology {
    /// Names of all networks, sorted.
    #[must_use]
    pub fn networks(&self) -> BTreeSet<&str> {
        let nodes = self.nodes.iter().map(|it| it.network.as_str());
        let hosts = self.hosts.iter().map(|it| it.network.as_str());
        let routers = self.routers.iter().flat_map(|it| it.interfaces().map(|(name, _)| name));
        nodes.chain(hosts).chain(routers).chain([FABRIC_NETWORK]).collect()
    }

    /// The nodes that a router has sessions with.
    pub fn nodes_of<'a>(&'a self, router: &'a Router) -> impl Iterator<Item = &'a Node> {
        let selector = router.nodes.as_ref().and_then(|text| text.parse::<Selector>().ok());
        self.nodes.iter().filter(move |node| match &selector {
            Some(selector) => selector.matches(&node.labels),
            None => {
                router.session == SessionAddress::Loopback
                    || router.interfaces().any(|(network, _)| network == node.network)
            }
        })
    }

    /// Whether a router has sessions with anybody.
    #[must_use]
    pub fn speaks(&self, router: &Router) -> bool {
        self.nodes_of(router).next().is_some() || self.peers_of(router).next().is_some()
    }

    /// Whether a router has sessions with a node.
    #[must_use]
    pub fn serves(&self, router: &Router, node: &Node) -> bool {
        self.nodes_of(router).any(|served| served.name == node.name)
    }

    /// Both addresses of the session of a router with a node: the router's, the node's.
    #[must_use]
    pub fn session(&self, router: &Router, node: &Node, v6: bool) -> Option<(IpAddr, IpAddr)> {
        let theirs = address_of(&node.addresses, v6)?;
        let own = match router.session {
            SessionAddress::Loopback => address_of(&router.loopbacks, v6)?,
            SessionAddress::Interface => {
                let on = |(network, addresses): (&str, &[IpNet])| {
                    (network == node.network).then(|| address_of(addresses, v6)).flatten()
                };
                router.interfaces().find_map(on)?
            }
        };
        Some((own, theirs))
    }

    /// Both addresses of the session between two routers, on the first network that both are on.
    #[must_use]
    pub fn session_of_routers(
        &self,
        own: &Router,
        other: &Router,
        v6: bool,
    ) -> Option<(IpAddr, IpAddr)> {
        own.interfaces().find_map(|(network, addresses)| {
            let (_, theirs) = other.interfaces().find(|(name, _)| *name == network)?;
            Some((address_of(addresses, v6)?, address_of(theirs, v6)?))
        })
    }

    /// The routers that a router has sessions with: those above it and those below it.
    pub fn peers_of<'a>(&'a self, router: &'a Router) -> impl Iterator<Item = &'a Router> {
        self.routers.iter().filter(|other| {
            router.uplinks.contains(&other.name) || other.uplinks.contains(&router.name)
        })
    }

    /// Whether the nodes have sessions with each other.
    #[must_use]
    pub fn has_mesh(&self) -> bool {
        !self.resources.iter().any(|it| {
            it["kind"] == "BGPConfiguration" && it["spec"]["nodeToNodeMeshEnabled"] == false
        })
    }

    /// Ranges of service addresses that every node announces.
    pub fn service_ranges(&self) -> impl Iterator<Item = IpNet> {
        const KEYS: [&str; 3] =
            ["serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs"];
        let default = |it: &&serde_json::Value| {
            it["kind"] == "BGPConfiguration" && it["metadata"]["name"] == "default"
        };
        let ranges = self
            .resources
            .iter()
            .filter(default)
            .flat_map(|it| KEYS.iter().filter_map(|key| it["spec"][key].as_array()).flatten());
        ranges.filter_map(|range| range["cidr"].as_str()?.parse().ok())
    }

    /// Whether a node learns nothing of the others but a default route to a router, which does
    /// the rest.
    #[must_use]
    pub fn goes_by_default(&self, node: &Node) -> bool {
        let mut serving = self.routers.iter().filter(|router| self.serves(router, node)).peekable();
        !self.has_mesh()
            && self.reflectors.is_empty()
            && serving.peek().is_some()
            && serving.all(|router| router.tells == Tells::Announced)
    }
}
