use calico_core::resource::{AnyResource, Mode};

use super::*;

const GOOD: &str = "
name: tiny
nodes:
  - name: node1
    addresses: [172.30.0.11/24, 'fd30::11/64']
  - name: node2
    addresses: [172.30.0.12/24, 'fd30::12/64']
    as: 64513
    clusterId: 224.0.0.1
    labels: { rack: a }
    store: true
pools:
  - { name: v4, cidr: 10.244.0.0/16, blockSize: 26, natOutgoing: true }
  - { name: v6, cidr: 'fd00:244::/64' }
pods:
  - { name: web, node: node1, labels: { app: web }, tcp: [80, 8080], udp: [53] }
  - { name: web, namespace: prod, node: node2 }
routers:
  - { name: tor, addresses: [172.30.0.1/24], as: 65000, announces: [0.0.0.0/0] }
resources:
  - apiVersion: projectcalico.org/v3
    kind: BGPConfiguration
    metadata: { name: default }
    spec: { nodeToNodeMeshEnabled: false }
";

fn problems(text: &str) -> Vec<String> {
    match Topology::parse("test", text) {
        Err(TopologyError::Invalid { problems, .. }) => {
            problems.iter().map(ToString::to_string).collect()
        }
        other => panic!("expected problems, got {other:?}"),
    }
}

/// Replaces `from` in the good topology, and expects this one problem.
fn check(from: &str, to: &str, expected: &str) {
    assert!(GOOD.contains(from), "{from}");
    let problems = problems(&GOOD.replace(from, to));
    assert!(
        problems.len() == 1 && problems[0].contains(expected),
        "{to}: expected {expected:?}, got {problems:#?}"
    );
}

#[test]
fn a_sound_topology_is_read_whole() {
    let topology = Topology::parse("test", GOOD).unwrap();
    assert_eq!(topology.store_node().name, "node2");
    assert_eq!(topology.pods[0].id(), "default/web");
    assert_eq!(topology.pod("prod/web"), Some(&topology.pods[1]));
    assert_eq!(topology.pod("web"), None, "two pods are called web");
    assert!(topology.has_pool(true) && topology.has_pool(false));
}

#[test]
fn the_first_node_holds_the_store_unless_said_otherwise() {
    let topology = Topology::parse("test", &GOOD.replace("    store: true\n", "")).unwrap();
    assert_eq!(topology.store_node().name, "node1");
    assert!(topology.nodes[0].store);
}

#[test]
fn each_fault_is_named_with_its_place() {
    check("name: tiny", "name: Tiny-Lab", "line 2: name: \"Tiny-Lab\" must be");
    check("172.30.0.12/24", "172.30.0.11/24", "line 7: nodes[1].addresses: 172.30.0.11 is node1's");
    check("172.30.0.12/24", "172.31.0.12/24", "not in 172.30.0.0/24 of the network fabric");
    check("172.30.0.12/24", "172.30.0.12/32", "prefix length of the network");
    check("name: tor", "name: a-name-too-long-for-an-interface", "routers[0].name");
    check("blockSize: 26", "blockSize: 19", "pools[0].blockSize: 19 is not in 20 to 32");
    check("10.244.0.0/16", "10.244.0.1/16", "host bits set; write 10.244.0.0/16");
    check("10.244.0.0/16", "172.30.0.0/25", "holds 172.30.0.11/24 of node1");
    check("tcp: [80, 8080]", "tcp: [80, 80]", "pods[0].tcp");
    check("namespace: prod", "namespace: default", "default/web exists twice");
    check("announces: [0.0.0.0/0]", "announces: ['::/0']", "routers[0].announces");
    check("kind: BGPConfiguration", "kind: BGPConfigurations", "resources[0].kind: ");
    check(
        "nodeToNodeMeshEnabled: false",
        "nodeToNodeMesh: false",
        "line 24: resources[0].spec.nodeToNodeMesh: ",
    );
}

/// Two racks, and a service.
const RACKS: &str = "
name: racks
nodes:
  - { name: node1, network: rack1, addresses: [10.1.0.11/24], labels: { rack: a } }
  - { name: node2, network: rack2, addresses: [10.2.0.11/24], labels: { rack: b } }
pools: [{ name: v4, cidr: 10.244.0.0/16 }]
pods:
  - { name: web1, node: node1, tcp: [80] }
  - { name: web2, node: node2, tcp: [80] }
services: [{ name: web, addresses: [10.96.0.10], port: 80, pods: [web1, web2] }]
routers:
  - name: tor
    kind: frr
    as: 65001
    network: rack1
    addresses: [10.1.0.1/24]
    links: [{ network: up, addresses: [10.3.0.1/24] }]
    routes: [{ to: 0.0.0.0/0, via: [10.3.0.2] }]
    uplinks: [spine]
    nodes: rack == 'a'
    tells: all
  - { name: spine, kind: frr, as: 65000, network: up, addresses: [10.3.0.2/24], announces: [0.0.0.0/0] }
  - name: far
    kind: frr
    as: 65002
    network: up
    addresses: [10.3.0.3/24]
    loopbacks: [192.0.2.1/32]
    session: loopback
    nodes: rack == 'b'
    password: secret
hosts: [{ name: user, network: rack2, addresses: [10.2.0.100/24] }]
";

/// As [`check`], of the two racks; every problem is the expected one.
fn check_racks(from: &str, to: &str, expected: &str) {
    assert!(RACKS.contains(from), "{from}");
    let problems = problems(&RACKS.replacen(from, to, 1));
    assert!(
        !problems.is_empty() && problems.iter().all(|it| it.contains(expected)),
        "{to}: expected {expected:?}, got {problems:#?}"
    );
}

#[test]
fn routers_have_sessions_with_the_nodes_they_select() {
    let topology = Topology::parse("racks", RACKS).unwrap();
    let [tor, spine, far] = &topology.routers[..] else { panic!("three routers") };
    let names = |router| topology.nodes_of(router).map(|it| it.name.as_str()).collect::<Vec<_>>();
    assert_eq!((names(tor), names(spine), names(far)), (vec!["node1"], vec![], vec!["node2"]));
    let session = topology.session(far, &topology.nodes[1], false).map(|it| it.0.to_string());
    assert_eq!(session.as_deref(), Some("192.0.2.1"));
    let manifests = topology.manifests();
    let peers: Vec<_> = manifests.iter().filter(|it| it["kind"] == "BGPPeer").collect();
    assert_eq!(peers.len(), 2, "{peers:?}");
    assert_eq!(peers[0]["spec"]["nodeSelector"], "rack == 'a'");
    assert_eq!(peers[1]["spec"]["peerIP"], "192.0.2.1");
}

#[test]
fn faults_of_networks_routers_and_services_are_named_with_line_and_place() {
    let problems = problems(&RACKS.replacen("network: rack2", "network: rakc2", 1));
    let alone = "line 5: nodes[1].network: nobody else is on the network rakc2";
    assert!(problems.iter().any(|it| it == alone), "{problems:#?}");
    check_racks("uplinks: [spine]", "uplinks: [spin]", "line 19: routers[0].uplinks: there is no");
    check_racks("nodes: rack == 'a'", "nodes: rack = 'a'", "line 20: routers[0].nodes: ");
    check_racks("nodes: rack == 'a'", "nodes: all()", "node2 is on the network rack2, and tor is");
    check_racks("    nodes: rack == 'a'\n", "", "tor is there for node1 alone");
    check_racks(
        "via: [10.3.0.2]",
        "via: [10.9.0.2]",
        "line 18: routers[0].routes[0].via: 10.9.0.2",
    );
    check_racks("[192.0.2.1/32]", "[]", "line 29: routers[2].session: far has no loopbacks");
    check_racks("password: secret", "password: two words", "line 31: routers[2].password");
    check_racks("name: user", "name: tor", "line 32: hosts[0].name: tor exists twice");
    check_racks("pods: [web1, web2]", "pods: [web1]", "services[0].pods: node2 has no pod");
    check_racks(
        "web1, node: node1, tcp: [80]",
        "web1, node: node1, tcp: [81]",
        "web1 does not listen on TCP port 80",
    );
    check_racks("name: tor", "name: a-very-long-name", "routers[0].name");
    check_racks("kind: frr\n    as: 65002", "kind: bird\n    as: 65002", "this needs kind: frr");
}

#[test]
fn all_faults_are_told_at_once() {
    let text = GOOD
        .replace("node: node1,", "node: node9,")
        .replace("name: tor", "name: fabric")
        .replace("'fd00:244::/64'", "10.244.1.0/24");
    let problems = problems(&text);
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems.iter().any(|it| it.contains("no node \"node9\"; nodes are: node1, node2")));
}

#[test]
fn a_lab_without_nodes_is_refused() {
    assert_eq!(
        problems("name: empty\nnodes: []"),
        ["line 2: nodes: a lab needs at least one node"]
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    for (from, to, line, key) in [
        ("store: true", "stroe: true", "line 11", "stroe"),
        ("as: 64513", "as: many", "line 8", "as"),
        ("172.30.0.12/24", "172.30.0.12-24", "line 7", "addresses"),
        ("  - { name: tor, ", "  - { ", "line 19", "name"),
        ("  - { name: tor, ", "  - { kind: forr, name: tor, ", "line 19", "kind"),
    ] {
        let error = Topology::parse("lab.yaml", &GOOD.replace(from, to));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("lab.yaml") && text.contains(line) && text.contains(key), "{text}");
    }
}

#[test]
fn resources_follow_from_nodes_pools_and_routers() {
    let manifests = Topology::parse("test", GOOD).unwrap().manifests();
    let names: Vec<String> = manifests
        .iter()
        .map(|it| format!("{} {}", it["kind"], it["metadata"]["name"]).replace('"', ""))
        .collect();
    assert_eq!(
        names,
        [
            "Node node1",
            "Node node2",
            "IPPool v4",
            "IPPool v6",
            "BGPPeer tor-v4",
            "BGPConfiguration default"
        ]
    );
    let bgp = &manifests[1]["spec"]["bgp"];
    assert_eq!(bgp["ipv4Address"], "172.30.0.12/24");
    assert_eq!(bgp["ipv6Address"], "fd30::12/64");
    assert_eq!(bgp["asNumber"], 64513);
    assert_eq!(bgp["routeReflectorClusterID"], "224.0.0.1");
    assert_eq!(manifests[2]["spec"]["blockSize"], 26);
    assert_eq!(manifests[4]["spec"]["peerIP"], "172.30.0.1");
}

#[test]
fn the_resources_are_sound_to_the_api() {
    for manifest in Topology::parse("test", GOOD).unwrap().manifests() {
        let resource = AnyResource::from_value(manifest.clone(), Mode::Strict).unwrap();
        assert_eq!(resource.validate(), Ok(()), "{manifest}");
    }
}

#[test]
fn the_example_in_the_documentation_is_sound() {
    let text: String = include_str!("../../../../docs/lab.md")
        .lines()
        .skip_while(|line| !line.contains("```yaml"))
        .skip(1)
        .take_while(|line| !line.contains("```"))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let topology = Topology::parse("documentation", &text).unwrap();
    assert_eq!(topology.reflectors[0].cluster_id, Some("224.0.0.2".parse().unwrap()));
}
