//! Single addresses of services (upstream: confd's route generator).

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::*;

/// A service `prod/<name>`.
fn service(name: &str, spec: Value, balancer: &[&str]) -> Entry {
    let ingress: Vec<Value> = balancer.iter().map(|ip| json!({ "ip": ip })).collect();
    let value = json!({"metadata": {"name": name, "namespace": "prod"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}}});
    let key = Key::resource(Kind::KubernetesService, Some("prod"), name);
    Entry { key, value: Arc::from(value.to_string()), revision: Revision(1) }
}

/// A slice of service `prod/<service>`, with endpoints as (node, ready).
fn slice(name: &str, service: &str, family: &str, endpoints: &[(&str, Option<bool>)]) -> Entry {
    let endpoint = |(node, ready): &(&str, Option<bool>)| json!({"addresses": ["10.65.9.9"], "nodeName": node, "conditions": {"ready": ready}});
    let value = json!({
        "metadata": {"name": name, "namespace": "prod",
            "labels": {"kubernetes.io/service-name": service}},
        "spec": {"addressType": family, "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()}});
    let key = Key::resource(Kind::KubernetesEndpointSlice, Some("prod"), name);
    Entry { key, value: Arc::from(value.to_string()), revision: Revision(1) }
}

/// Ranges of every sort, and single addresses.
fn ranges() -> Value {
    json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "serviceExternalIPs": [{"cidr": "203.0.113.0/24"}, {"cidr": "203.0.114.1/32"}],
        "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}, {"cidr": "192.0.2.1/32"}]})
}

fn spec(kind: &str, policy: Option<&str>, external: &[&str]) -> Value {
    json!({"type": kind, "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
        "ipFamilies": ["IPv4"], "externalTrafficPolicy": policy, "externalIPs": external})
}

/// What node `a` announces of services, without the ranges.
fn singles(configuration_of: Value, entries: &[Entry]) -> Vec<String> {
    let mut all = three();
    all.push(configuration("default", configuration_of));
    let ranges: BTreeSet<IpNet> = plan("a", &all).services.into_iter().collect();
    all.extend(entries.iter().cloned());
    let found = plan("a", &all).services;
    found.iter().filter(|net| !ranges.contains(net)).map(ToString::to_string).collect()
}

#[test]
fn local_services_are_announced_by_the_nodes_of_their_ready_endpoints() {
    let local = service(
        "web",
        spec("LoadBalancer", Some("Local"), &["203.0.113.7", "9.9.9.9"]),
        &["198.51.100.7", "8.8.8.8"],
    );
    let check = |slices: &[Entry], announced: bool| {
        let entries: Vec<Entry> = slices.iter().cloned().chain([local.clone()]).collect();
        // Those outside of the ranges are nobody's business.
        let all = ["10.96.0.5/32", "198.51.100.7/32", "203.0.113.7/32"];
        let expected = if announced { &all[..] } else { &[] };
        assert_eq!(singles(ranges(), &entries), expected, "{slices:?}");
    };
    check(&[], false);
    check(&[slice("w1", "web", "IPv4", &[("b", None), ("a", Some(false))])], false);
    check(&[slice("w1", "web", "IPv4", &[("b", None), ("a", None)])], true);
    check(&[slice("w1", "web", "IPv4", &[("a", Some(true))])], true);
    check(&[slice("w1", "web", "IPv6", &[("a", None)])], false);
    check(&[slice("w1", "other", "IPv4", &[("a", None)])], false);
    // One slice is enough.
    let two = [slice("w1", "web", "IPv4", &[]), slice("w2", "web", "IPv4", &[("a", None)])];
    check(&two, true);
}

#[test]
fn cluster_wide_services_are_announced_singly_where_the_range_is_one_address() {
    let ready = slice("w", "web", "IPv4", &[("b", None)]);
    let check = |kind: &str,
                 policy: Option<&str>,
                 external: &[&str],
                 balancer: &[&str],
                 expected: &[&str]| {
        let entries = [service("web", spec(kind, policy, external), balancer), ready.clone()];
        assert_eq!(singles(ranges(), &entries), expected, "{kind} {policy:?} {external:?}");
    };
    let cluster = Some("Cluster");
    check("ClusterIP", None, &[], &[], &[]);
    check("LoadBalancer", cluster, &["203.0.113.7"], &["198.51.100.7"], &[]);
    check("LoadBalancer", cluster, &[], &["192.0.2.1"], &["10.96.0.5/32", "192.0.2.1/32"]);
    check("NodePort", cluster, &[], &["192.0.2.1"], &[]);
    check("NodePort", cluster, &["203.0.114.1"], &[], &["10.96.0.5/32", "203.0.114.1/32"]);
    check("ExternalName", cluster, &["203.0.114.1"], &[], &[]);
    check("ClusterIP", None, &["203.0.114.1"], &[], &[]);
    // Without endpoints, too: the nodes refuse what comes.
    let alone = service("web", spec("NodePort", cluster, &["203.0.114.1"]), &[]);
    assert_eq!(singles(ranges(), &[alone]).len(), 2);
    let mut headless = spec("NodePort", cluster, &["203.0.114.1"]);
    headless["clusterIP"] = "None".into();
    headless["clusterIPs"] = json!(["None"]);
    assert_eq!(singles(ranges(), &[service("web", headless, &[])]), [""; 0]);
}

#[test]
fn without_aggregation_each_service_with_a_ready_endpoint_is_announced() {
    let mut apart = ranges();
    apart["serviceLoadBalancerAggregation"] = "Disabled".into();
    apart["serviceClusterIPs"] = json!([]);
    let web = service("web", spec("LoadBalancer", Some("Cluster"), &[]), &["198.51.100.7"]);
    let ready = slice("w", "web", "IPv4", &[("b", None)]);
    let busy = slice("w", "web", "IPv4", &[("b", Some(false))]);
    assert_eq!(singles(apart.clone(), &[web.clone(), ready]), ["198.51.100.7/32"]);
    assert_eq!(singles(apart, &[web, busy]), [""; 0]);
}

#[test]
fn a_change_matters_if_other_addresses_are_announced() {
    let mut entries = three();
    entries.push(configuration("default", ranges()));
    let mut peering = peering("a", &entries);
    let local = |external: &[&str]| service("web", spec("NodePort", Some("Local"), external), &[]);
    let mut put = |entry: Entry| peering.put(&entry).unwrap();
    assert!(!put(local(&["203.0.113.7"])), "no endpoint is here");
    assert!(!put(slice("w", "web", "IPv4", &[("b", None)])));
    assert!(put(slice("w", "web", "IPv4", &[("b", None), ("a", None)])));
    assert!(!put(slice("w", "web", "IPv4", &[("a", None), ("a", None)])), "more of the same");
    assert!(!put(slice("w2", "web", "IPv4", &[("a", None)])));
    assert!(put(local(&["203.0.113.8"])));
    let key = |kind, name| Key::resource(kind, Some("prod"), name);
    assert!(!peering.gone(&key(Kind::KubernetesEndpointSlice, "w")));
    assert!(peering.gone(&key(Kind::KubernetesEndpointSlice, "w2")));
    assert!(!peering.gone(&key(Kind::KubernetesService, "web")));
}

#[test]
fn the_name_in_kubernetes_counts_and_excluded_nodes_announce_nothing() {
    let entries = |labels: Value, there: &str| {
        let mut me = node("a", labels, json!({"ipv4Address": "10.0.0.1/24"}));
        let mut value: Value = serde_json::from_str(&me.value).unwrap();
        value["spec"]["orchRefs"] = json!([{"orchestrator": "k8s", "nodeName": there}]);
        me.value = Arc::from(value.to_string());
        vec![
            me,
            configuration("default", ranges()),
            service("web", spec("NodePort", Some("Local"), &["203.0.113.7"]), &[]),
            slice("w", "web", "IPv4", &[("a.example", None)]),
        ]
    };
    let single: IpNet = "203.0.113.7/32".parse().unwrap();
    assert!(plan("a", &entries(json!({}), "a.example")).services.contains(&single));
    let mut reversed = entries(json!({}), "a.example");
    reversed.reverse();
    assert!(plan("a", &reversed).services.contains(&single), "in any order");
    assert!(!plan("a", &entries(json!({}), "other")).services.contains(&single));
    let excluded = json!({"node.kubernetes.io/exclude-from-external-load-balancers": "true"});
    assert!(plan("a", &entries(excluded, "a.example")).services.is_empty());
}

#[test]
fn rules_for_peers_stay_the_same_while_services_come_and_go() {
    let mut entries = three();
    entries.push(configuration("default", ranges()));
    let before = plan("a", &entries);
    entries.push(service("web", spec("NodePort", Some("Local"), &["203.0.113.7"]), &[]));
    entries.push(slice("w", "web", "IPv4", &[("a", None)]));
    let after = plan("a", &entries);
    assert_ne!(before.services, after.services);
    assert_eq!(before.sessions, after.sessions);
    assert!(after.tells(&"203.0.113.7/32".parse().unwrap()));
    // Without a range for them, addresses of the cluster are not announced, and if there is one,
    // they are wherever they lie.
    let mut elsewhere = ranges();
    elsewhere["serviceClusterIPs"] = json!([{"cidr": "10.200.0.0/16"}]);
    entries.push(configuration("default", elsewhere));
    let odd = plan("a", &entries);
    assert!(odd.tells(&"10.96.0.5/32".parse().unwrap()));
}
