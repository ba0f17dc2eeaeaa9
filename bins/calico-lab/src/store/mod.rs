//! Where the resources of a lab are kept: in an agent, in etcd, or in Kubernetes.
//!
//! etcd and Kubernetes are a member of the lab of their own, called [`MEMBER`], on every network
//! that has nodes.

mod etcd;
pub(crate) mod kubernetes;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::error::LabError;
use crate::process::Program;
use crate::record::{self, Record};
use crate::topology::{Node, StoreKind, Topology};
use crate::{fabric, netns, programs};

use self::etcd::Etcd;
use self::kubernetes::Kubernetes;

/// The member that etcd or the API server of Kubernetes runs on.
pub const MEMBER: &str = "store";

/// The store of a lab.
#[derive(Debug)]
pub(crate) enum Store {
    /// In the agent of a node, which serves it to the others.
    Embedded(Embedded),
    /// In etcd.
    Etcd(Etcd),
    /// In the API server of Kubernetes.
    Kubernetes(Box<Kubernetes>),
}

/// A store in the agent of a node.
#[derive(Debug)]
pub(crate) struct Embedded {
    holder: String,
    directory: PathBuf,
}

/// Where a store of its own is: an address on each network that has nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    lab: String,
    addresses: Vec<(String, IpNet)>,
}

/// How a client of the store is run, such as calicoctl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The network namespace that it must be in, if it matters.
    pub namespace: Option<String>,
    /// What its environment says about the store.
    pub environment: Vec<(&'static str, String)>,
}

impl Store {
    /// Finds a place for it; nothing runs yet.
    pub(crate) fn plan(topology: &Topology, record: &Record) -> Result<Self, LabError> {
        if topology.store == StoreKind::Embedded {
            let holder = topology.store_node().name.clone();
            let directory = record::directory(&topology.name).join(&holder);
            return Ok(Self::Embedded(Embedded { holder, directory }));
        }
        let site = Site::find(topology)?;
        let directory = record.member(MEMBER)?;
        Ok(match topology.store {
            StoreKind::Kubernetes => Self::Kubernetes(Box::new(Kubernetes::new(site, directory))),
            _ => Self::Etcd(Etcd::new(site, directory)),
        })
    }

    /// Makes the member that it runs on.
    pub(crate) fn attach(&self) -> Result<(), LabError> {
        self.site().map_or(Ok(()), |site| site.attach())
    }

    /// Starts what must run for it besides agents; also again, with the data that it had.
    pub(crate) fn start(&self) -> Result<Vec<Program>, LabError> {
        match self {
            Self::Embedded(_) => Ok(Vec::new()),
            Self::Etcd(etcd) => Ok(vec![etcd.start()?]),
            Self::Kubernetes(kubernetes) => kubernetes.start(),
        }
    }

    /// The TCP port that it listens on, if it is a member of its own.
    pub(crate) const fn port(&self) -> u16 {
        match self {
            Self::Embedded(_) => 0,
            Self::Etcd(_) => etcd::PORT,
            Self::Kubernetes(_) => kubernetes::PORT,
        }
    }

    /// The table `[datastore]` of an agent's configuration.
    pub(crate) fn settings(&self, node: &Node) -> String {
        match self {
            Self::Embedded(store) if store.holder == node.name => {
                format!("embedded = {:?}", store.directory.join("datastore"))
            }
            Self::Embedded(store) => format!("remote = {:?}", store.socket()),
            Self::Etcd(etcd) => etcd.settings(node),
            Self::Kubernetes(kubernetes) => kubernetes.settings(node),
        }
    }

    /// How calicoctl finds it.
    pub(crate) fn client(&self) -> Client {
        match self {
            Self::Embedded(store) => Client {
                namespace: None,
                environment: vec![(
                    "CALICO_DATASTORE_SOCKET",
                    store.socket().display().to_string(),
                )],
            },
            Self::Etcd(etcd) => etcd.client(),
            Self::Kubernetes(kubernetes) => kubernetes.client(),
        }
    }

    /// In Kubernetes.
    pub(crate) fn kubernetes(&self) -> Option<&Kubernetes> {
        match self {
            Self::Kubernetes(kubernetes) => Some(kubernetes),
            _ => None,
        }
    }

    /// Where it is, if it is a member of its own.
    pub(crate) fn site(&self) -> Option<&Site> {
        match self {
            Self::Embedded(_) => None,
            Self::Etcd(etcd) => Some(etcd.site()),
            Self::Kubernetes(kubernetes) => Some(kubernetes.site()),
        }
    }
}

impl Embedded {
    fn socket(&self) -> PathBuf {
        self.directory.join("datastore.sock")
    }
}

impl Site {
    /// The highest address of each network that nobody has.
    fn find(topology: &Topology) -> Result<Self, LabError> {
        if topology.names().any(|name| name == MEMBER) {
            let what = format!("a member is called {MEMBER}, as the datastore is; rename it");
            return Err(LabError::Request(what));
        }
        let taken: Vec<IpAddr> = topology.addresses().map(|net| net.addr()).collect();
        let mut addresses: Vec<(String, IpNet)> = Vec::new();
        for node in &topology.nodes {
            if addresses.iter().any(|(network, _)| *network == node.network) {
                continue;
            }
            // By IPv4 where the node has it.
            let of = |v6| node.addresses.iter().find(|net| net.addr().is_ipv6() == v6);
            let net = of(false).or_else(|| of(true));
            let free = net.and_then(|net| free_address(*net, &taken));
            let free = free.ok_or_else(|| {
                LabError::Request(format!("network {} has no room for the store", node.network))
            })?;
            addresses.push((node.network.clone(), free));
        }
        Ok(Self { lab: topology.name.clone(), addresses })
    }

    fn attach(&self) -> Result<(), LabError> {
        let interfaces: Vec<(&str, [IpNet; 1])> =
            self.addresses.iter().map(|(network, net)| (network.as_str(), [*net])).collect();
        let interfaces = interfaces.iter().map(|(network, nets)| (*network, &nets[..]));
        fabric::attach(&self.lab, MEMBER, interfaces).map(drop)
    }

    /// Its network namespace.
    pub(crate) fn namespace(&self) -> String {
        netns::name_of(&self.lab, MEMBER)
    }

    /// Its address on the network of a node.
    pub(crate) fn address_for(&self, node: &Node) -> IpAddr {
        let of_network = self.addresses.iter().find(|(network, _)| *network == node.network);
        of_network.map_or_else(|| IpAddr::from([127, 0, 0, 1]), |(_, net)| net.addr())
    }

    /// Its addresses, with the lengths of their networks.
    pub(crate) fn addresses(&self) -> Vec<IpNet> {
        self.addresses.iter().map(|(_, net)| *net).collect()
    }

    /// What a server binds to that is to be found at all of its addresses.
    fn everywhere(&self) -> &'static str {
        let v6 = self.addresses.iter().any(|(_, net)| net.addr().is_ipv6());
        if v6 { "[::]" } else { "0.0.0.0" }
    }
}

fn free_address(net: IpNet, taken: &[IpAddr]) -> Option<IpNet> {
    let address = match net {
        IpNet::V4(net) => net.hosts().rev().map(IpAddr::V4).find(|it| !taken.contains(it)),
        // The very last ones may be anycast (RFC 2526).
        IpNet::V6(net) => {
            net.hosts().rev().skip(256).map(IpAddr::V6).find(|it| !taken.contains(it))
        }
    }?;
    IpNet::new(address, net.prefix_len()).ok()
}

/// A program of the store.
fn run(
    site: &Site,
    title: &str,
    program: &std::path::Path,
    args: &[String],
    log: PathBuf,
) -> Result<Program, LabError> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Program::start(format!("{title} on {MEMBER}"), &site.namespace(), program, &args, log)
}

/// Programs that a store of this kind needs are there.
pub(crate) fn check_machine(kind: StoreKind) -> Result<(), LabError> {
    match kind {
        StoreKind::Embedded => Ok(()),
        StoreKind::Etcd => programs::system("etcd", "etcd-server").map(drop),
        StoreKind::Kubernetes => kubernetes::programs().map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_on_every_network_of_nodes() {
        let text = include_str!("../../topologies/vxlan.yaml");
        let topology = Topology::parse("vxlan.yaml", text).unwrap();
        let site = Site::find(&topology).unwrap();
        let addresses: Vec<String> = site.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["172.30.1.254/24", "172.30.2.254/24"]);
        let third = site.address_for(&topology.nodes[2]);
        assert_eq!(third, IpAddr::from([172, 30, 2, 254]));
    }

    #[test]
    fn addresses_of_others_are_not_taken() {
        let taken = ["10.0.0.2".parse().unwrap()];
        let free = free_address("10.0.0.1/30".parse().unwrap(), &taken);
        assert_eq!(free, Some("10.0.0.1/30".parse().unwrap()));
        assert_eq!(free_address("fd00::1/64".parse().unwrap(), &taken).unwrap().prefix_len(), 64);
    }
}
