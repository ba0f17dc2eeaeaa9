//! Addresses of services: ranges, and single ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::datastore::{Entry, StoreError};
use calico_core::resource::{
    AddressType, BgpConfigurationSpec, KubernetesEndpointSlice, KubernetesService, Node,
    ServiceCidr, ServiceType, Toggle, TrafficPolicy,
};
use ipnet::IpNet;

use crate::node::excludes_services;
use crate::peering::Peering;

/// Addresses of services: what this node announces of them, and what it never routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Announced {
    /// Announced by this node as they are: ranges, then single addresses.
    pub(crate) announced: Vec<IpNet>,
    /// What contains all of them.
    pub(crate) told: Vec<IpNet>,
    /// Routes into these that other routers tell stay out of the kernel.
    pub(crate) ranges: Vec<IpNet>,
    /// Ranges of load balancers and external addresses, of which a reflector tells on whatever
    /// it hears.
    pub(crate) reflected: Vec<IpNet>,
}

/// The ranges that a configuration names.
#[derive(Debug)]
struct Ranges {
    cluster: Vec<IpNet>,
    external: Vec<IpNet>,
    balancers: Vec<IpNet>,
    /// Whether ranges of load balancers are announced, not their single addresses.
    aggregated: bool,
}

/// The services of the cluster, as far as their announcement goes.
#[derive(Debug, Default)]
pub(crate) struct Services {
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, Slice>,
    /// The slices of each service, by their own names.
    by_service: BTreeMap<Name, BTreeSet<Name>>,
    /// Names of nodes, each once.
    nodes: BTreeSet<Arc<str>>,
}

/// Namespace and name.
type Name = (String, String);

#[derive(Debug, PartialEq, Eq)]
struct Service {
    service_type: ServiceType,
    cluster_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    balancer_ips: Vec<IpAddr>,
    /// The address that was asked for, which may not be given (yet).
    wanted_ip: Option<IpAddr>,
    policy: Option<TrafficPolicy>,
    families: Vec<AddressType>,
}

/// What of a slice matters.
#[derive(Debug)]
struct Slice {
    service: Name,
    family: Option<AddressType>,
    /// Some endpoint takes traffic ...
    ready: bool,
    /// ... on these nodes. What this node is called is known once its own resource is there.
    ready_on: Box<[Arc<str>]>,
}

impl Peering {
    /// What this node announces of services.
    pub(crate) fn announced(&self, me: &Node) -> Announced {
        let ranges = self.ranges();
        let several = |nets: &[IpNet]| -> Vec<IpNet> {
            nets.iter().filter(|net| !is_single(net)).copied().collect()
        };
        let mut all = ranges.cluster.clone();
        all.extend(several(&ranges.external));
        if ranges.aggregated {
            all.extend(several(&ranges.balancers));
        }
        let (mut announced, mut told) = (Vec::new(), Vec::<IpNet>::new());
        if !excludes_services(me) {
            announced.clone_from(&all);
            let (names, here) = (self.services.services.keys(), self.kubernetes_name());
            let single: BTreeSet<IpNet> =
                names.flat_map(|name| self.services.singles(name, &ranges, here)).collect();
            announced.extend(single.iter().filter(|net| !all.contains(net)));
            told.extend(ranges.cluster.iter().chain(&ranges.external).chain(&ranges.balancers));
            let odd: Vec<IpNet> = single
                .into_iter()
                .filter(|net| !told.iter().any(|range| range.contains(net)))
                .collect();
            told.extend(odd);
        }
        let reflected = ranges.balancers.into_iter().chain(ranges.external).collect();
        Announced { announced, told, ranges: all, reflected }
    }

    fn ranges(&self) -> Ranges {
        let global = self.global();
        let of = |list: fn(&BgpConfigurationSpec) -> &[ServiceCidr]| {
            cidrs(global.map_or(&[], |global| list(global)))
        };
        Ranges {
            cluster: match &self.options.cluster_ips {
                Some(ranges) => ranges.clone(),
                None => of(|global| &global.service_cluster_ips),
            },
            external: of(|global| &global.service_external_ips),
            balancers: of(|global| &global.service_load_balancer_ips),
            aggregated: global.and_then(|global| global.service_load_balancer_aggregation)
                != Some(Toggle::Disabled),
        }
    }

    /// Takes a service; says whether another set of addresses is to be announced.
    pub(crate) fn put_service(&mut self, entry: &Entry, name: Name) -> Result<bool, StoreError> {
        let service: KubernetesService = entry.resource()?;
        Ok(self.with_singles(&name.clone(), |services| {
            services.services.insert(name, Service::of(&service));
        }))
    }

    /// Forgets a service.
    pub(crate) fn service_gone(&mut self, name: &Name) -> bool {
        self.with_singles(name, |services| drop(services.services.remove(name)))
    }

    /// As [`put`](Self::put), of a slice of a service that somebody has read already.
    pub fn put_slice(
        &mut self,
        namespace: &str,
        name: &str,
        slice: &KubernetesEndpointSlice,
    ) -> bool {
        let name = (namespace.to_owned(), name.to_owned());
        let ready = || slice.spec.endpoints.iter().filter(|endpoint| endpoint.is_ready());
        let nodes: BTreeSet<&str> = ready().map(|endpoint| &*endpoint.node_name).collect();
        let summary = slice.service().map(|service| Slice {
            service: (name.0.clone(), service.to_owned()),
            family: slice.spec.address_type,
            ready: ready().next().is_some(),
            ready_on: nodes.into_iter().map(|node| self.services.node(node)).collect(),
        });
        let before = self.services.slices.get(&name).map(|slice| &slice.service);
        let moved = before != summary.as_ref().map(|slice| &slice.service);
        let left = moved && self.slice_gone(&name);
        let Some(summary) = summary else { return left };
        let joined = self.with_singles(&summary.service.clone(), |services| {
            let slices = services.by_service.entry(summary.service.clone()).or_default();
            slices.insert(name.clone());
            services.slices.insert(name, summary);
        });
        left || joined
    }

    /// Forgets a slice of a service.
    pub(crate) fn slice_gone(&mut self, name: &Name) -> bool {
        let slice = self.services.slices.get(name);
        let Some(service) = slice.map(|slice| slice.service.clone()) else { return false };
        self.with_singles(&service.clone(), |services| {
            services.slices.remove(name);
            if let Some(slices) = services.by_service.get_mut(&service) {
                slices.remove(name);
                if slices.is_empty() {
                    services.by_service.remove(&service);
                }
            }
        })
    }

    /// Whether a change of the services changes what is announced of one of them.
    fn with_singles(&mut self, service: &Name, change: impl FnOnce(&mut Services)) -> bool {
        let (ranges, here) = (self.ranges(), self.kubernetes_name().to_owned());
        let before = self.services.singles(service, &ranges, &here);
        change(&mut self.services);
        self.services.singles(service, &ranges, &here) != before
    }

    /// The node's name in Kubernetes, if it has one of its own there.
    fn kubernetes_name(&self) -> &str {
        let me = self.nodes.get(&self.node);
        let mut known = me.into_iter().flat_map(|node| &node.spec.orch_refs);
        let there = known.find(|known| known.orchestrator == "k8s" && !known.node_name.is_empty());
        there.map_or(&self.node, |there| &there.node_name)
    }
}

impl Services {
    /// The name of a node, shared.
    fn node(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.nodes.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.nodes.insert(Arc::clone(&name));
        name
    }

    /// The addresses of a service that this node announces one by one.
    fn singles(&self, name: &Name, ranges: &Ranges, here: &str) -> BTreeSet<IpNet> {
        let Some(service) = self.services.get(name) else { return BTreeSet::new() };
        if !self.is_announced(name, service, ranges, here) {
            return BTreeSet::new();
        }
        let inside =
            |nets: &[IpNet], address: &IpAddr| nets.iter().any(|net| net.contains(address));
        // As upstream: of what the cluster gives out itself, all or nothing.
        let cluster = service.cluster_ips.iter().filter(|_| !ranges.cluster.is_empty());
        let external =
            service.external_ips.iter().filter(|address| inside(&ranges.external, address));
        let balancers =
            service.balancer_ips.iter().filter(|address| inside(&ranges.balancers, address));
        cluster.chain(external).chain(balancers).copied().map(IpNet::from).collect()
    }

    fn is_announced(&self, name: &Name, service: &Service, ranges: &Ranges, here: &str) -> bool {
        if service.service_type == ServiceType::ExternalName || service.cluster_ips.is_empty() {
            return false;
        }
        let single = |nets: &[IpNet], address: &IpAddr| {
            nets.iter().any(|net| is_single(net) && net.contains(address))
        };
        if service.policy == Some(TrafficPolicy::Cluster) {
            let mut balancers = service.wanted_ip.iter().chain(&service.balancer_ips);
            let balanced = service.service_type == ServiceType::LoadBalancer;
            if (balanced && balancers.any(|address| single(&ranges.balancers, address)))
                || service.external_ips.iter().any(|address| single(&ranges.external, address))
            {
                return true;
            }
        }
        let local = service.policy == Some(TrafficPolicy::Local);
        if !local && ranges.aggregated {
            return false;
        }
        let slices = self.by_service.get(name).into_iter().flatten();
        let mut slices = slices.filter_map(|slice| self.slices.get(slice));
        slices.any(|slice| {
            slice.family.is_some_and(|family| service.families.contains(&family))
                && if local {
                    slice.ready_on.iter().any(|node| **node == *here)
                } else {
                    slice.ready
                }
        })
    }
}

impl Service {
    fn of(service: &KubernetesService) -> Self {
        let spec = &service.spec;
        let addresses =
            |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        let status = service.status.iter().flat_map(|status| &status.load_balancer.ingress);
        // Without a first address it has none, whatever else is listed (upstream).
        let headless = spec.cluster_ip.parse::<IpAddr>().is_err();
        Self {
            service_type: spec.service_type.unwrap_or(ServiceType::ClusterIp),
            cluster_ips: match headless {
                true => Vec::new(),
                false => spec.cluster_addresses().collect(),
            },
            external_ips: addresses(&spec.external_ips),
            balancer_ips: status.filter_map(|ingress| ingress.ip.parse().ok()).collect(),
            wanted_ip: spec.load_balancer_ip.parse().ok(),
            policy: spec.external_traffic_policy,
            families: spec.ip_families.clone(),
        }
    }
}

fn cidrs(ranges: &[ServiceCidr]) -> Vec<IpNet> {
    ranges.iter().filter_map(|range| range.cidr).map(|cidr| cidr.trunc()).collect()
}

fn is_single(range: &IpNet) -> bool {
    range.prefix_len() == range.max_prefix_len()
}
