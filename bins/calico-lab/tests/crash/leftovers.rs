//! Everything that a pod leaves a trace in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_core::resource::WorkloadEndpoint;
use calico_datastore::remote::RemoteStore;
use calico_ipam::{Ipam, Options};
use calico_lab::Lab;

use super::runtime::{files, in_namespace};

/// Commands whose output must be as before.
const KERNEL: [&[&str]; 8] = [
    &["ip", "-o", "link"],
    &["ip", "-o", "address"],
    &["ip", "-4", "route", "show", "table", "all"],
    &["ip", "-6", "route", "show", "table", "all"],
    &["ip", "rule"],
    &["ip", "neighbour"],
    &["nft", "list", "ruleset"],
    &["tc", "qdisc"],
];

#[derive(Debug)]
pub(crate) struct Leftovers {
    /// What each command says, line by line.
    kernel: BTreeMap<String, BTreeSet<String>>,
    /// Container and interface of each endpoint.
    endpoints: Vec<(String, String)>,
    /// Containers that have handles.
    handles: BTreeSet<String>,
    /// Containers that have addresses.
    addresses: BTreeSet<String>,
    /// What a check of IPAM finds.
    findings: Vec<String>,
    files: Vec<String>,
}

impl Leftovers {
    pub(crate) async fn look(lab: &Lab, node: &str) -> Self {
        let namespace = lab.namespace(node);
        // What a killed agent had cut off and not removed, the next one removes.
        let group = calico_netlink::pod::CUT_OFF.to_string();
        crate::common::eventually("no interface that is cut off", || {
            in_namespace(&namespace, &["ip", "-o", "link", "show", "group", &group]).is_empty()
        });
        let kernel = KERNEL.iter().map(|command| {
            let text = in_namespace(&namespace, command);
            (command.join(" "), text.lines().filter_map(steady).collect())
        });
        let socket = lab.run_dir(node).join("datastore.sock");
        let store: Arc<dyn Datastore> = Arc::new(RemoteStore::connect(socket));
        let listing = store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await.unwrap();
        let endpoints = listing.entries.iter().map(|entry| {
            let endpoint: WorkloadEndpoint = entry.decode().unwrap();
            (endpoint.spec.container_id.clone(), endpoint.spec.interface_name.clone())
        });
        let container = |handle: &str| handle.rsplit('.').next().unwrap().to_owned();
        let handles = store.list(&Scope::Handles).await.unwrap();
        let handles = handles.entries.iter().map(|entry| container(&entry.key.name()));
        let ipam = Ipam::new(Arc::clone(&store), Options::default());
        let blocks = ipam.blocks().await.unwrap();
        let allocations = blocks.iter().flat_map(|block| &block.allocations);
        let owner = |attributes: &calico_core::resource::AllocationAttribute| {
            container(attributes.handle_id.as_deref().unwrap_or("nobody"))
        };
        let findings = ipam.check().await.unwrap();
        Self {
            kernel: kernel.collect(),
            endpoints: endpoints.collect(),
            handles: handles.collect(),
            addresses: allocations.map(|a| owner(&a.attributes)).collect(),
            findings: findings.iter().map(ToString::to_string).collect(),
            files: files(&lab.run_dir(node).join("state")),
        }
    }

    /// Sees that there is no more than `before`, but for traces of these containers.
    pub(crate) fn assert_only(&self, before: &Self, known: &BTreeSet<String>, when: &str) {
        for (container, interface) in &self.endpoints {
            assert!(known.contains(container), "{when}: {interface} of {container}");
        }
        for container in self.handles.iter().chain(&self.addresses) {
            assert!(known.contains(container), "{when}: addresses of {container}");
        }
        assert_eq!(self.findings, before.findings, "{when}: findings of IPAM");
        assert_eq!(self.files, before.files, "{when}: files");
        if !known.is_empty() {
            // Rules of endpoints that are still there cannot be told from rules that should not
            // be; links and routes can.
            let interfaces = |of: &Self| -> BTreeSet<String> {
                of.kernel["ip -o link"].iter().filter_map(|line| cali(line)).collect()
            };
            let endpoints: BTreeSet<_> = self.endpoints.iter().map(|(_, i)| i.clone()).collect();
            let stray: Vec<_> = interfaces(self).difference(&endpoints).cloned().collect();
            assert_eq!(stray, [""; 0], "{when}: interfaces");
            return;
        }
        for (command, lines) in &self.kernel {
            let more: Vec<_> = lines.difference(&before.kernel[command]).collect();
            let less: Vec<_> = before.kernel[command].difference(lines).collect();
            assert!(more.is_empty() && less.is_empty(), "{when}: {command}: +{more:#?} -{less:#?}");
        }
    }
}

fn cali(line: &str) -> Option<String> {
    let name = line.split(": ").nth(1)?.split('@').next()?;
    name.starts_with("cali").then(|| name.to_owned())
}

/// A line without what changes by itself: counters, numbers of interfaces, states of neighbours.
fn steady(line: &str) -> Option<String> {
    // Neighbours on the fabric come and go; blocks of the node, which have these routes, stay.
    if line.contains(" dev eth0 lladdr") || line.starts_with("blackhole ") {
        return None;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut steady = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "packets" | "bytes" | "expires" | "valid_lft" | "preferred_lft" => {
                rest.next();
            }
            "REACHABLE" | "STALE" | "DELAY" | "PROBE" | "FAILED" | "INCOMPLETE" => {}
            word => steady.push(word),
        }
    }
    (!steady.is_empty()).then(|| steady.join(" "))
}
