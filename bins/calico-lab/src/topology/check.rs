//! What must hold in a topology beyond its form.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::resource::{AnyResource, Mode};
use ipnet::IpNet;

use super::{Pool, Problem, Topology};

/// Name of the fabric's own namespace.
const RESERVED: &str = "fabric";
/// An interface's name has at most this many bytes (IFNAMSIZ of linux/if.h, less the zero).
const INTERFACE_NAME: usize = 15;
/// Keeps the paths of sockets below the 108 bytes of `sun_path`.
const LAB_NAME: usize = 32;

/// Collects problems, each with its place.
#[derive(Default)]
struct Report {
    problems: Vec<Problem>,
}

impl Report {
    fn add(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), what: what.into() });
    }

    fn unless(&mut self, holds: bool, place: impl Into<String>, what: impl Into<String>) {
        if !holds {
            self.add(place, what);
        }
    }
}

/// A member of the fabric, whatever it runs.
struct Member<'a> {
    place: String,
    name: &'a str,
    addresses: &'a [IpNet],
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
        for (index, node) in self.nodes.iter().enumerate() {
            let place = format!("nodes[{index}]");
            members.push(Member { place, name: &node.name, addresses: &node.addresses });
        }
        for (index, reflector) in self.reflectors.iter().enumerate() {
            let place = format!("reflectors[{index}]");
            members.push(Member { place, name: &reflector.name, addresses: &reflector.addresses });
        }
        for (index, router) in self.routers.iter().enumerate() {
            let place = format!("routers[{index}]");
            members.push(Member { place, name: &router.name, addresses: &router.addresses });
        }
        members
    }

    fn check_members(&self, report: &mut Report) {
        let mut names = BTreeSet::new();
        let mut taken: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let mut fabric: BTreeMap<bool, IpNet> = BTreeMap::new();
        for Member { place, name, addresses } in self.members() {
            check_name(report, &format!("{place}.name"), name, INTERFACE_NAME);
            let place_of_name = format!("{place}.name");
            report.unless(name != RESERVED, &place_of_name, "fabric is the bridge's own name");
            report.unless(names.insert(name), &place_of_name, format!("{name} exists twice"));

            let place = format!("{place}.addresses");
            report.unless(!addresses.is_empty(), &place, format!("{name} has no address"));
            let mut families = BTreeSet::new();
            for address in addresses {
                let v6 = matches!(address, IpNet::V6(_));
                let once = families.insert(v6);
                report.unless(once, &place, format!("{address}: one address of a family, please"));
                if address.addr() == address.network() {
                    let what = format!(
                        "{address} must be an address with the prefix length of the fabric, such as 172.30.0.11/24"
                    );
                    report.add(&place, what);
                    continue;
                }
                if let Some(other) = taken.insert(address.addr(), name) {
                    report.add(&place, format!("{} is {other}'s already", address.addr()));
                }
                let net = fabric.entry(v6).or_insert_with(|| address.trunc());
                report.unless(
                    *net == address.trunc(),
                    &place,
                    format!(
                        "{address} is not in the fabric's network {net}: one network per family"
                    ),
                );
            }
        }
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
                let address = member.addresses.iter().find(|it| pool.cidr.contains(&it.addr()))?;
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

    fn check_routers(&self, report: &mut Report) {
        for (index, router) in self.routers.iter().enumerate() {
            let families: BTreeSet<bool> =
                router.addresses.iter().map(|it| matches!(it, IpNet::V6(_))).collect();
            for prefix in &router.announces {
                report.unless(
                    families.contains(&matches!(prefix, IpNet::V6(_))),
                    format!("routers[{index}].announces"),
                    format!("{prefix} needs an address of its family as next hop"),
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
