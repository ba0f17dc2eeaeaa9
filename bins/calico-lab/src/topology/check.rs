//! What must hold in a topology beyond its form.

mod routers;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::resource::{AnyResource, Mode};
use ipnet::IpNet;

use super::{FABRIC_NETWORK, Pool, Problem, StaticRoute, Topology};

/// Name of the fabric's own namespace.
const RESERVED: &str = "fabric";
/// An interface's name has at most this many bytes (IFNAMSIZ of linux/if.h, less the zero).
const INTERFACE_NAME: usize = 15;
/// Room for the number of a further interface in the name of its port, such as `tor1-1`.
const NUMBER: usize = 2;
/// Room for `br-` in the name of a network's bridge.
const BRIDGE: usize = 3;
/// Keeps the paths of sockets below the 108 bytes of `sun_path`.
const LAB_NAME: usize = 32;

/// Collects problems, each with its place.
#[derive(Default)]
struct Report {
    problems: Vec<Problem>,
}

impl Report {
    fn add(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), line: None, what: what.into() });
    }

    fn unless(&mut self, holds: bool, place: impl Into<String>, what: impl Into<String>) {
        if !holds {
            self.add(place, what);
        }
    }
}

/// A member of the lab, whatever it runs.
struct Member<'a> {
    place: String,
    name: &'a str,
    interfaces: Vec<Interface<'a>>,
    routes: &'a [StaticRoute],
}

/// Where a member is on a network.
struct Interface<'a> {
    /// What holds the keys `network` and `addresses`.
    place: String,
    network: &'a str,
    addresses: &'a [IpNet],
}

impl<'a> Member<'a> {
    fn of(place: String, name: &'a str, network: &'a str, addresses: &'a [IpNet]) -> Self {
        let interfaces = vec![Interface { place: place.clone(), network, addresses }];
        Self { place, name, interfaces, routes: &[] }
    }
}

impl Topology {
    /// All that is wrong, in the order of the file.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut report = Report::default();
        self.check_lab(&mut report);
        self.check_members(&mut report);
        self.check_pools(&mut report);
        self.check_pods(&mut report);
        self.check_routers(&mut report);
        self.check_services(&mut report);
        self.check_resources(&mut report);
        report.problems
    }

    fn check_lab(&self, report: &mut Report) {
        let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let fits = !self.name.is_empty() && self.name.len() <= LAB_NAME;
        report.unless(
            fits && self.name.chars().all(sound),
            "name",
            format!("{:?} must be 1 to {LAB_NAME} lower-case letters, digits or _", self.name),
        );
        report.unless(!self.nodes.is_empty(), "nodes", "a lab needs at least one node");
        let holders = self.nodes.iter().filter(|node| node.store).count();
        report.unless(holders <= 1, "nodes", "only one node can hold the datastore (store: true)");
    }

    fn members(&self) -> Vec<Member<'_>> {
        let mut members = Vec::new();
        for (index, it) in self.nodes.iter().enumerate() {
            let place = format!("nodes[{index}]");
            let member = Member::of(place, &it.name, &it.network, &it.addresses);
            members.push(Member { routes: &it.routes, ..member });
        }
        for (index, it) in self.reflectors.iter().enumerate() {
            let place = format!("reflectors[{index}]");
            members.push(Member::of(place, &it.name, FABRIC_NETWORK, &it.addresses));
        }
        for (index, it) in self.routers.iter().enumerate() {
            let place = format!("routers[{index}]");
            let mut member = Member::of(place.clone(), &it.name, &it.network, &it.addresses);
            for (index, link) in it.links.iter().enumerate() {
                let place = format!("{place}.links[{index}]");
                let (network, addresses) = (&link.network, &link.addresses);
                member.interfaces.push(Interface { place, network, addresses });
            }
            members.push(Member { routes: &it.routes, ..member });
        }
        for (index, it) in self.hosts.iter().enumerate() {
            let place = format!("hosts[{index}]");
            let member = Member::of(place, &it.name, &it.network, &it.addresses);
            members.push(Member { routes: &it.routes, ..member });
        }
        members
    }

    fn check_members(&self, report: &mut Report) {
        let mut names = BTreeSet::new();
        let mut taken: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let mut networks: BTreeMap<(&str, bool), IpNet> = BTreeMap::new();
        let members = self.members();
        for member in &members {
            let name = member.name;
            let room = if member.interfaces.len() > 1 { NUMBER } else { 0 };
            let place = format!("{}.name", member.place);
            check_name(report, &place, name, INTERFACE_NAME - room);
            report.unless(name != RESERVED, &place, "fabric is the bridge's own name");
            report.unless(names.insert(name), &place, format!("{name} exists twice"));
            for interface in &member.interfaces {
                check_interface(report, name, interface, &mut taken, &mut networks);
            }
            for (index, route) in member.routes.iter().enumerate() {
                check_route(report, member, index, route);
            }
        }
        check_networks(report, &members);
    }

    fn check_pools(&self, report: &mut Report) {
        let mut names = BTreeSet::new();
        for (index, pool) in self.pools.iter().enumerate() {
            let place = format!("pools[{index}]");
            report.unless(
                names.insert(&pool.name),
                format!("{place}.name"),
                format!("{} exists twice", pool.name),
            );
            check_pool(report, &place, pool);
            for earlier in &self.pools[..index] {
                let overlap =
                    earlier.cidr.contains(&pool.cidr) || pool.cidr.contains(&earlier.cidr);
                report.unless(
                    !overlap,
                    format!("{place}.cidr"),
                    format!("{} overlaps {} of {}", pool.cidr, earlier.cidr, earlier.name),
                );
            }
            let inside = self.members().into_iter().find_map(|member| {
                let mut addresses = member.interfaces.iter().flat_map(|it| it.addresses);
                let address = addresses.find(|it| pool.cidr.contains(&it.addr()))?;
                Some((address, member.name))
            });
            if let Some((address, name)) = inside {
                let what = format!(
                    "{} holds {address} of {name}: pools and fabric must differ",
                    pool.cidr
                );
                report.add(format!("{place}.cidr"), what);
            }
        }
    }

    fn check_pods(&self, report: &mut Report) {
        report.unless(
            self.pods.is_empty() || !self.pools.is_empty(),
            "pools",
            "pods need at least one pool to get addresses from",
        );
        let mut ids = BTreeSet::new();
        for (index, pod) in self.pods.iter().enumerate() {
            let place = format!("pods[{index}]");
            check_name(report, &format!("{place}.name"), &pod.name, 63);
            check_name(report, &format!("{place}.namespace"), &pod.namespace, 63);
            report.unless(
                ids.insert(pod.id()),
                format!("{place}.name"),
                format!("{} exists twice", pod.id()),
            );
            report.unless(
                self.node(&pod.node).is_some(),
                format!("{place}.node"),
                format!("there is no node {:?}; nodes are: {}", pod.node, self.node_names()),
            );
            for (protocol, ports) in [("tcp", &pod.tcp), ("udp", &pod.udp)] {
                let distinct: BTreeSet<_> = ports.iter().collect();
                report.unless(
                    distinct.len() == ports.len() && !ports.contains(&0),
                    format!("{place}.{protocol}"),
                    "ports are 1 to 65535, each once",
                );
            }
        }
    }

    /// By the rules of the API, so that a mistake shows before anything is built.
    fn check_resources(&self, report: &mut Report) {
        for (index, resource) in self.resources.iter().enumerate() {
            let read = AnyResource::from_value(resource.clone(), Mode::Strict)
                .and_then(|resource| resource.validate());
            for error in read.err().into_iter().flatten() {
                report.add(format!("resources[{index}].{}", error.path), error.message);
            }
        }
    }

    fn node_names(&self) -> String {
        self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// One interface of a member: its addresses are its own, and in the network's prefix.
fn check_interface<'a>(
    report: &mut Report,
    name: &'a str,
    interface: &Interface<'a>,
    taken: &mut BTreeMap<IpAddr, &'a str>,
    networks: &mut BTreeMap<(&'a str, bool), IpNet>,
) {
    let &Interface { ref place, network, addresses } = interface;
    check_name(report, &format!("{place}.network"), network, INTERFACE_NAME - BRIDGE);
    let place = format!("{place}.addresses");
    report.unless(!addresses.is_empty(), &place, format!("{name} has no address"));
    let mut families = BTreeSet::new();
    for address in addresses {
        let v6 = matches!(address, IpNet::V6(_));
        let once = families.insert(v6);
        report.unless(once, &place, format!("{address}: one address of a family, please"));
        if address.addr() == address.network() {
            let what = format!(
                "{address} must be an address with the prefix length of the network, such as 172.30.0.11/24"
            );
            report.add(&place, what);
            continue;
        }
        if let Some(other) = taken.insert(address.addr(), name) {
            report.add(&place, format!("{} is {other}'s already", address.addr()));
        }
        let net = networks.entry((network, v6)).or_insert_with(|| address.trunc());
        report.unless(
            *net == address.trunc(),
            &place,
            format!("{address} is not in {net} of the network {network}: one prefix per family"),
        );
    }
}

/// A gateway that the member cannot reach would be refused by the kernel.
fn check_route(report: &mut Report, member: &Member<'_>, index: usize, route: &StaticRoute) {
    let place = format!("{}.routes[{index}]", member.place);
    report.unless(!route.via.is_empty(), format!("{place}.via"), "a route needs a gateway");
    for via in &route.via {
        let mut addresses = member.interfaces.iter().flat_map(|it| it.addresses);
        let near = addresses.any(|it| it.contains(via) && it.addr() != *via);
        report.unless(
            near && via.is_ipv6() == route.to.addr().is_ipv6(),
            format!("{place}.via"),
            format!(
                "{via} is on no network of {}, or not of the family of {}",
                member.name, route.to
            ),
        );
    }
}

/// A network exists by being named, so one that is named once is a slip of the pen.
fn check_networks(report: &mut Report, members: &[Member<'_>]) {
    let interfaces = || members.iter().flat_map(|member| &member.interfaces);
    for interface in interfaces() {
        let network = interface.network;
        let alone = interfaces().filter(|it| it.network == network).count() == 1;
        report.unless(
            network == FABRIC_NETWORK || !alone,
            format!("{}.network", interface.place),
            format!("nobody else is on the network {network}"),
        );
    }
}

/// RFC 1123 labels, as Kubernetes wants them.
fn check_name(report: &mut Report, place: &str, name: &str, limit: usize) {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let outer = |c: char| c != '-';
    let sound = !name.is_empty()
        && name.len() <= limit
        && name.chars().all(inner)
        && name.starts_with(outer)
        && name.ends_with(outer);
    report.unless(
        sound,
        place,
        format!("{name:?} must be 1 to {limit} lower-case letters, digits or -, no - at the ends"),
    );
}

/// Bounds of upstream's IPPool validation.
fn check_pool(report: &mut Report, place: &str, pool: &Pool) {
    report.unless(
        pool.cidr == pool.cidr.trunc(),
        format!("{place}.cidr"),
        format!("{} has host bits set; write {}", pool.cidr, pool.cidr.trunc()),
    );
    let (bounds, default) = match pool.cidr {
        IpNet::V4(_) => (20..=32, 26),
        IpNet::V6(_) => (116..=128, 122),
    };
    let block = pool.block_size.unwrap_or(default);
    report.unless(
        bounds.contains(&block),
        format!("{place}.blockSize"),
        format!("{block} is not in {} to {}", bounds.start(), bounds.end()),
    );
    report.unless(
        pool.cidr.prefix_len() <= block,
        format!("{place}.blockSize"),
        format!("a /{block} block does not fit into {}", pool.cidr),
    );
}
