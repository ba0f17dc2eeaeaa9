//! A large cluster, which the graph alone and the whole agent are measured with.

use std::collections::BTreeMap;

use calico_core::resource::{
    GlobalNetworkPolicy, NetworkPolicy, NetworkPolicySpec, PerformanceHint, Profile,
    WorkloadEndpoint, WorkloadEndpointSpec,
};

pub(crate) const POLICIES: usize = 10_000;
/// Of them, so many select workloads of every namespace, and name a wide set each.
pub(crate) const WIDE: usize = 10;
pub(crate) const LOCAL: usize = 250;
pub(crate) const NAMESPACES: usize = 500;
pub(crate) const LABELS: usize = 30;

/// Whether the endpoint is on node `n0`.
pub(crate) const fn is_local(index: usize, endpoints: usize) -> bool {
    // Spread over namespaces.
    let stride = endpoints / LOCAL;
    index % stride == index / stride % stride
}

/// A namespace's.
pub(crate) fn profile(namespace: usize) -> Profile {
    let team = BTreeMap::from([("team".to_owned(), format!("t{}", namespace % 20))]);
    Profile::for_namespace(&format!("ns{namespace}"), &team)
}

/// One in `endpoints / LOCAL` is local. Of its labels one is its own, as a StatefulSet gives it, one
/// is that of a ReplicaSet, and some have a few hundred values in the cluster.
pub(crate) fn endpoint(index: usize, endpoints: usize, version: &str) -> WorkloadEndpoint {
    let node = if is_local(index, endpoints) { 0 } else { 1 + index % 1000 };
    let namespace = format!("ns{}", index % NAMESPACES);
    let [_, a, b, c] = u32::try_from(index).unwrap().to_be_bytes();
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: format!("n{node}"),
        interface_name: format!("cali{index}"),
        ip_networks: vec![std::net::IpAddr::from([10, a, b, c]).into()],
        profiles: vec![format!("kns.{namespace}")],
        ..Default::default()
    };
    let mut endpoint = WorkloadEndpoint::namespaced(namespace, format!("pod-{index}"), spec);
    let labels = &mut endpoint.metadata.labels;
    labels.insert("app".into(), format!("app{}", index / NAMESPACES % 40));
    labels.insert("version".into(), version.into());
    labels.insert("pod-name".into(), format!("pod-{index}"));
    labels.insert("hash".into(), format!("{:x}", index / 7));
    for extra in 4..LABELS {
        labels.insert(format!("label{extra}"), format!("value{}", index % (extra * 5)));
    }
    endpoint
}

/// A policy for one application of one namespace.
pub(crate) fn policy(index: usize, everywhere: bool) -> NetworkPolicy {
    let (app, peer) = (index / NAMESPACES % 40, index % 40);
    let text = format!(
        "{{selector: app == 'app{app}', order: {}, ingress: [
            {{action: Allow, protocol: TCP, source: {{selector: app == 'app{peer}' && version == 'v1'}},
                destination: {{ports: [{}]}}}},
            {{action: Allow, source: {{selector: app == 'app{peer}',
                namespaceSelector: team == 't{}'}}}}]}}",
        index % 100,
        1000 + index % 1000,
        index % 20,
    );
    let mut spec: NetworkPolicySpec = serde_saphyr::from_str(&text).unwrap();
    if everywhere {
        spec.performance_hints = vec![PerformanceHint::AssumeNeededOnEveryNode];
    }
    NetworkPolicy::namespaced(format!("ns{}", index % NAMESPACES), format!("p{index}"), spec)
}

/// A policy for all workloads with a label, and a set of some hundredths of the cluster.
pub(crate) fn wide_policy(index: usize) -> GlobalNetworkPolicy {
    let text = format!(
        "{{selector: label{0} == 'value{0}', order: 500,
            ingress: [{{action: Deny, source: {{selector: label{0} == 'value1'}}}}]}}",
        index + 4,
    );
    GlobalNetworkPolicy::new(format!("wide{index}"), serde_saphyr::from_str(&text).unwrap())
}
