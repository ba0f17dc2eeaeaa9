//! `ipam check`: compares what IPAM gave out with what is used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::Entry;
use calico_core::key::{Family, Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{AllocationAttribute, IpPool, Node, WorkloadEndpoint};
use calico_ipam::{BlockReport, Finding, Ipam, Options};
use ipnet::IpNet;

use super::report::{Allocation, LeakedHandle, Report};
use crate::cluster::Cluster;
use crate::failure::Failure;

/// Handle of addresses that Windows nodes keep for themselves.
const WINDOWS_HANDLE: &str = "windows-reserved-ipam-handle";

/// What to print and to write.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Request<'a> {
    pub(crate) all: bool,
    pub(crate) problems: bool,
    pub(crate) output: Option<&'a Path>,
}

/// What a check found.
struct Found {
    report: Report,
    /// Used, in a pool, and not assigned.
    unassigned: Vec<(IpAddr, String)>,
    /// Used, and in no pool.
    outside: Vec<(IpAddr, String)>,
    findings: Vec<Finding>,
    handles: usize,
    blocks: usize,
    pools: usize,
    /// Stored objects that cannot be read: whatever uses an address there is unknown.
    unreadable: Vec<String>,
}

/// Checks, and returns what to print.
pub(crate) async fn run(
    store: Arc<dyn Datastore>,
    version: &str,
    request: Request<'_>,
) -> Result<String, Failure> {
    let found = check(store, version).await?;
    if let Some(path) = request.output {
        found.report.write(path)?;
    }
    Ok(describe(&found, request))
}

async fn check(store: Arc<dyn Datastore>, version: &str) -> Result<Found, Failure> {
    // Blocks before users: an address that is assigned in between is then not called a leak.
    // The other way round, its user would be missing.
    let cluster = Cluster::read(&*store).await?.unwrap_or_default();
    let ipam = Ipam::new(Arc::clone(&store), Options::default());
    let blocks = ipam.blocks().await?;
    let findings = ipam.check().await?;
    let handles = store.list(&Scope::Handles).await?.entries;
    let list = async |kind| Ok::<_, Failure>(store.list(&Scope::Kind(kind)).await?.entries);
    let (endpoints, nodes) = (list(Kind::WorkloadEndpoint).await?, list(Kind::Node).await?);
    let mut unreadable = Vec::new();
    let pools: Vec<IpNet> = list(Kind::IpPool)
        .await?
        .iter()
        .filter_map(|entry| read::<IpPool>(entry, &mut unreadable))
        .filter(|pool| !pool.spec.disabled)
        .map(|pool| pool.spec.cidr)
        .collect();
    let users = users(&endpoints, &nodes, &mut unreadable);

    let mut report = Report {
        version: version.to_owned(),
        cluster_guid: cluster.information.spec.cluster_guid.clone(),
        datastore_locked: cluster.is_locked(),
        cluster_information_revision: cluster.revision.to_string(),
        cluster_type: cluster.information.spec.cluster_type.clone(),
        ..Report::default()
    };
    let mut named = BTreeSet::new();
    for block in &blocks {
        for assigned in &block.allocations {
            named.extend(assigned.attributes.handle_id.clone());
            let users = users.get(&assigned.address).cloned().unwrap_or_default();
            let allocation =
                allocation(block, assigned.address, assigned.sequence, &assigned.attributes, users);
            report.allocations.entry(assigned.address).or_default().push(allocation);
        }
    }
    for entry in &handles {
        let Key::Handle(id) = &entry.key else { continue };
        if !named.contains(id) {
            let revision = entry.revision.to_string();
            report.leaked_handles.push(LeakedHandle { id: id.clone(), uid: None, revision });
        }
    }
    let (mut unassigned, mut outside) = (Vec::new(), Vec::new());
    for (ip, users) in users.iter().filter(|(ip, _)| !report.allocations.contains_key(ip)) {
        let inside = pools.iter().any(|pool| pool.contains(ip));
        let list = if inside { &mut unassigned } else { &mut outside };
        list.push((*ip, users.join(", ")));
    }
    let (blocks, pools, handles) = (blocks.len(), pools.len(), handles.len());
    Ok(Found { report, unassigned, outside, findings, handles, blocks, pools, unreadable })
}

fn read<T: serde::de::DeserializeOwned>(entry: &Entry, bad: &mut Vec<String>) -> Option<T> {
    entry.decode().map_err(|error| bad.push(error.to_string())).ok()
}

/// Who uses which address: endpoints, and tunnels of nodes.
fn users(
    endpoints: &[Entry],
    nodes: &[Entry],
    unreadable: &mut Vec<String>,
) -> BTreeMap<IpAddr, Vec<String>> {
    let mut users: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for entry in endpoints {
        let Some(endpoint) = read::<WorkloadEndpoint>(entry, unreadable) else { continue };
        for net in &endpoint.spec.ip_networks {
            let name = format!("Workload({}/{})", endpoint.namespace(), endpoint.name());
            users.entry(net.addr()).or_default().push(name);
        }
    }
    for entry in nodes {
        let Some(node) = read::<Node>(entry, unreadable) else { continue };
        let spec = &node.spec;
        let wireguard = spec.wireguard.as_ref();
        let v4 = [
            spec.bgp.as_ref().and_then(|bgp| bgp.ipv4_ipip_tunnel_addr),
            spec.ipv4_vxlan_tunnel_addr,
            wireguard.and_then(|wireguard| wireguard.interface_ipv4_address),
        ];
        let v6 = [
            spec.ipv6_vxlan_tunnel_addr,
            wireguard.and_then(|wireguard| wireguard.interface_ipv6_address),
        ];
        let v4 = v4.into_iter().flatten().map(IpAddr::V4);
        for address in v4.chain(v6.into_iter().flatten().map(IpAddr::V6)) {
            users.entry(address).or_default().push(format!("Node({})", node.name()));
        }
    }
    users
}

fn allocation(
    block: &BlockReport,
    ip: IpAddr,
    sequence: Option<u64>,
    attributes: &AllocationAttribute,
    owners: Vec<String>,
) -> Allocation {
    let attribute = |name: &str| attributes.secondary.get(name).cloned().unwrap_or_default();
    let handle = attributes.handle_id.clone().unwrap_or_default();
    let node = attribute("node");
    let owner = block.owner.as_ref().map_or("", |owner| owner.name.as_str());
    // Nothing in the datastore says whether these are still used, so they count as used.
    // A virtual machine keeps its address while it is stopped.
    let kept = handle == WINDOWS_HANDLE || handle.starts_with("lb-") || handle.contains(".vmi.");
    let cooling_down = attributes.released_at.is_some();
    Allocation {
        ip: ip.to_string(),
        in_use: !owners.is_empty() || kept,
        borrowed: !node.is_empty() && node != owner,
        cooling_down,
        handle,
        sequence_number: sequence,
        pod: attribute("pod"),
        namespace: attribute("namespace"),
        kind: attribute("type"),
        creation_timestamp: attribute("timestamp"),
        node,
        owners,
    }
}

fn describe(found: &Found, request: Request<'_>) -> String {
    let Found { report, unassigned, outside, findings, .. } = found;
    let all: Vec<&Allocation> = report.allocations.values().flatten().collect();
    let resting = all.iter().filter(|a| a.cooling_down).count();
    let used = all.iter().filter(|a| a.in_use).count();
    let leaked: Vec<&&Allocation> = all.iter().filter(|a| !a.in_use && !a.cooling_down).collect();
    let missing: Vec<&Finding> =
        findings.iter().filter(|f| matches!(f, Finding::NoHandle { .. })).collect();
    let invalid: Vec<&Finding> =
        findings.iter().filter(|f| !matches!(f, Finding::NoHandle { .. })).collect();

    let mut out = String::from("Checking IPAM for inconsistencies...\n\n");
    let mut say = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    say(format!(
        "{} block(s) in {} enabled pool(s); {} address(es) assigned, {used} of them in use, \
         {resting} cooling down.",
        found.blocks,
        found.pools,
        all.len()
    ));
    if request.all {
        for allocation in &all {
            say(format!("  {}", line(allocation)));
        }
    }
    busiest(&all).into_iter().for_each(&mut say);
    say(String::new());
    let detail = request.problems || request.all;
    let mut count = |number: usize, what: &str, lines: Vec<String>| {
        say(format!("{number} {what}"));
        if detail {
            lines.into_iter().for_each(|line| say(format!("  {line}")));
        }
    };
    count(
        leaked.len(),
        "address(es) assigned, but not in use",
        leaked.iter().map(|a| line(a)).collect(),
    );
    let pair = |(ip, users): &(IpAddr, String)| format!("{ip} used by {users}");
    count(
        unassigned.len(),
        "address(es) in use, but not assigned",
        unassigned.iter().map(pair).collect(),
    );
    count(
        outside.len(),
        "address(es) in use that lie in no enabled pool",
        outside.iter().map(pair).collect(),
    );
    count(
        report.leaked_handles.len(),
        &format!("handle(s) without addresses, of {}", found.handles),
        report.leaked_handles.iter().map(|handle| handle.id.clone()).collect(),
    );
    let texts = |findings: &[&Finding]| findings.iter().map(ToString::to_string).collect();
    count(missing.len(), "address(es) whose handle does not exist", texts(&missing));
    count(invalid.len(), "other finding(s) about blocks, claims and handles", texts(&invalid));
    let problems = leaked.len()
        + unassigned.len()
        + outside.len()
        + report.leaked_handles.len()
        + missing.len()
        + invalid.len();
    let unreadable = &found.unreadable;
    if !unreadable.is_empty() {
        say(format!(
            "{} object(s) cannot be read; addresses that they use are called unused:",
            unreadable.len()
        ));
        unreadable.iter().for_each(|line| say(format!("  {line}")));
    }
    say(format!("\nCheck complete; found {problems} problem(s)."));
    if problems > 0 && !detail {
        say("Use --show-problem-ips to see them.".to_owned());
    }
    if !leaked.is_empty() && request.output.is_none() {
        say("To release what is not in use, lock the datastore, write reports with -o, and give \
             them to `calicoctl ipam release --from-report`."
            .to_owned());
    }
    out
}

/// The nodes with most addresses, per family.
fn busiest(all: &[&Allocation]) -> Vec<String> {
    let mut lines = Vec::new();
    for family in Family::BOTH {
        let mut per_node: HashMap<&str, usize> = HashMap::new();
        let of_family = |a: &&&Allocation| {
            a.ip.parse().is_ok_and(|ip: IpAddr| Family::of(ip) == family) && !a.node.is_empty()
        };
        for allocation in all.iter().filter(of_family) {
            *per_node.entry(&allocation.node).or_default() += 1;
        }
        let mut counts: Vec<(&str, usize)> = per_node.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        if let (Some((node, most)), median) = (counts.first(), counts.len() / 2) {
            lines.push(format!(
                "{family}: {} node(s) have addresses; most has {node} ({most}), the median is {}.",
                counts.len(),
                counts[median].1
            ));
        }
    }
    lines
}

fn line(allocation: &Allocation) -> String {
    let Allocation { ip, handle, node, pod, namespace, kind, .. } = allocation;
    let mut text = ip.clone();
    let state = match (allocation.in_use, allocation.cooling_down) {
        (_, true) => "cooling down".to_owned(),
        (true, _) if allocation.owners.is_empty() => "in use".to_owned(),
        (true, _) => format!("in use by {}", allocation.owners.join(", ")),
        (false, _) => "not in use".to_owned(),
    };
    text.push_str(&format!(" {state}"));
    for (name, value) in [("handle", handle), ("node", node), ("type", kind)] {
        if !value.is_empty() {
            text.push_str(&format!("; {name} {value}"));
        }
    }
    if !pod.is_empty() {
        text.push_str(&format!("; pod {namespace}/{pod}"));
    }
    if allocation.borrowed {
        text.push_str("; borrowed");
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use calico_core::memory::MemoryStore;
    use calico_ipam::AssignRequest;
    use serde_json::json;

    pub(crate) async fn leaky_store() -> Arc<dyn Datastore> {
        let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
        let put = async |kind: Kind, name: &str, spec: serde_json::Value| {
            let value = json!({"kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec});
            let key = Key::resource(kind, Some("default"), name);
            store.put(key, value.to_string().into()).await.unwrap();
        };
        put(Kind::IpPool, "main", json!({"cidr": "10.65.0.0/24"})).await;
        put(
            Kind::ClusterInformation,
            "default",
            json!({"clusterGUID": "g", "datastoreReady": false}),
        )
        .await;
        let ipam = Ipam::new(Arc::clone(&store), Options::default());
        let mut ips = Vec::new();
        for pod in ["live", "dead", "lb"] {
            let handle = if pod == "lb" { "lb-x".to_owned() } else { format!("net.{pod}") };
            let request = AssignRequest::new("n1").handle(handle).v4(1);
            let request = request.attribute("node", "n1").attribute("pod", pod);
            let request = request.attribute("namespace", "default");
            ips.push(ipam.auto_assign(request).await.unwrap().v4[0].ip);
        }
        put(
            Kind::WorkloadEndpoint,
            "w",
            json!({"node": "n1", "ipNetworks": [format!("{}/32", ips[0]), "10.65.0.250/32", "192.0.2.1/32"]}),
        )
        .await;
        put(Kind::Node, "n1", json!({"ipv4VXLANTunnelAddr": "10.65.0.251"})).await;
        store
            .put(Key::Handle("gone".into()), r#"{"block":{},"deleted":false}"#.into())
            .await
            .unwrap();
        store
    }

    #[tokio::test]
    async fn every_problem_is_counted_and_named() {
        let store = leaky_store().await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        let request = Request { problems: true, output: Some(&path), ..Request::default() };
        let text = run(Arc::clone(&store), "v1", request).await.unwrap();
        for part in [
            "1 block(s) in 1 enabled pool(s); 3 address(es) assigned, 2 of them in use, 0 cooling",
            "IPv4: 1 node(s) have addresses; most has n1 (3), the median is 3.",
            "1 address(es) assigned, but not in use\n  10.65.0.",
            "not in use; handle net.dead; node n1; pod default/dead\n",
            "2 address(es) in use, but not assigned\n  10.65.0.250 used by Workload(default/w)\n  10.65.0.251 used by Node(n1)",
            "1 address(es) in use that lie in no enabled pool\n  192.0.2.1 used",
            "1 handle(s) without addresses, of 4\n  gone",
            "found 5 problem(s)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let report = Report::read(&path).unwrap();
        assert_eq!((report.cluster_guid.as_str(), report.datastore_locked), ("g", true));
        assert_eq!(report.allocations.len(), 3);
        assert_eq!(report.leaked_handles[0].id, "gone");
        let short = run(store, "v1", Request::default()).await.unwrap();
        assert!(!short.contains("net.dead") && short.contains("--show-problem-ips"), "{short}");
    }
}
