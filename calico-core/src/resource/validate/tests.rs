//! Each rule of validation, by documents that break it and documents that do not.

use serde_json::{Value, json};

use crate::kind::API_VERSION;
use crate::resource::{AnyResource, Mode};

/// `expected`: for each problem, its place and a part of its message.
fn check_named(kind: &str, name: &str, spec: &Value, expected: &[(&str, &str)]) {
    let document = json!({
        "kind": kind, "apiVersion": API_VERSION, "metadata": {"name": name}, "spec": spec,
    });
    let mut resource = AnyResource::from_value(document, Mode::Strict)
        .unwrap_or_else(|errors| panic!("{kind} {spec}: {errors:?}"));
    resource.apply_defaults().unwrap();
    let errors = resource.validate().err().unwrap_or_default();
    let matches = errors.len() == expected.len()
        && errors
            .iter()
            .zip(expected)
            .all(|(error, (path, part))| error.path == *path && error.message.contains(part));
    assert!(matches, "{kind} {spec}:\nfound {errors:#?}\nexpected {expected:#?}");
}

fn check(kind: &str, spec: Value, expected: &[(&str, &str)]) {
    let name = match kind {
        "BGPConfiguration" | "IPAMConfiguration" => "default",
        _ => "one",
    };
    check_named(kind, name, &spec, expected);
}

#[test]
fn numbers_that_do_not_fit_are_answered_with_what_does() {
    let rule = json!({"selector": "all()", "order": "x", "ingress": [
        {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 256}}]});
    let document = json!({"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "a"}, "spec": rule});
    let errors = AnyResource::from_value(document, Mode::Valid).unwrap_err();
    let mut found: Vec<String> = errors.into_iter().map(|error| error.to_string()).collect();
    found.sort();
    let expected = [
        "spec.ingress[0].icmp.type: invalid value: integer `256`, expected a whole number 0-255",
        "spec.order: invalid type: string \"x\", expected a number",
    ];
    assert_eq!(found, expected);
}

#[test]
fn names() {
    let long = "a".repeat(254);
    let tier = json!({});
    check_named("Tier", &"a".repeat(63), &tier, &[]);
    check_named("Tier", &"a".repeat(64), &tier, &[("metadata.name", "at most 63")]);
    check_named("Tier", "a.b", &tier, &[("metadata.name", "1 dots")]);
    check_named("Profile", "a.b.c", &tier, &[]);
    check_named("Profile", &long, &tier, &[("metadata.name", "254 characters")]);
    check_named("Profile", "A_b", &tier, &[("metadata.name", "lower-case")]);
    check_named("Profile", "a-", &tier, &[("metadata.name", "lower-case")]);
    for kind in ["NetworkPolicy", "GlobalNetworkPolicy"] {
        check_named(kind, "default.a", &tier, &[]);
        check_named(kind, "a.b.c", &tier, &[("metadata.name", "2 dots")]);
    }
    check_named("NetworkPolicy", "knp.default.a.b", &tier, &[]);
    check_named("GlobalNetworkPolicy", "knp.default.a.b", &tier, &[("metadata.name", "3 dots")]);
    check_named("BGPConfiguration", "node.x", &tier, &[]);
    check_named("BGPConfiguration", "x", &tier, &[("metadata.name", "`default` or")]);
    check_named("ClusterInformation", "x", &tier, &[("metadata.name", "named `default`")]);
}

#[test]
fn live_migrations() {
    let pod = json!({"orchestratorID": "k8s", "workloadID": "prod/launcher-a"});
    let interface = json!({"orchestratorID": "openstack", "workloadID": "vm", "endpointID": "e"});
    let check = |spec: Value, expected: &[(&str, &str)]| check("LiveMigration", spec, expected);
    check(json!({}), &[]);
    check(json!({"source": {"workload": pod}, "target": {"selector": "a == 'b'"}}), &[]);
    check(json!({"source": {"workloadEndpoint": interface}}), &[]);
    check(
        json!({"source": {"workload": pod, "workloadEndpoint": interface}, "target": {}}),
        &[("spec.source", "not both"), ("spec.target", "needs selector or workloadEndpoint")],
    );
    check(json!({"target": {"selector": "a =="}}), &[("spec.target.selector", "")]);
}

#[test]
fn metadata() {
    let check = |metadata: Value, expected: &[(&str, &str)]| {
        let document = json!({"kind": "Tier", "metadata": metadata});
        let errors = AnyResource::from_value(document, Mode::Tolerant).unwrap().validate();
        let errors = errors.err().unwrap_or_default();
        assert_eq!(errors.len(), expected.len(), "{errors:?}");
        let found: Vec<(&str, bool)> = errors
            .iter()
            .zip(expected)
            .map(|(e, (_, part))| (e.path.as_str(), e.message.contains(part)))
            .collect();
        let expected: Vec<(&str, bool)> = expected.iter().map(|(path, _)| (*path, true)).collect();
        assert_eq!(found, expected, "{errors:?}");
    };
    check(json!({"name": "a", "labels": {"k8s.io/x_Y.z": "V-1", "empty": ""}}), &[]);
    check(json!({}), &[("metadata.name", "required")]);
    check(json!({"generateName": "a-"}), &[]);
    check(json!({"name": "a", "namespace": "b"}), &[("metadata.namespace", "cluster-wide")]);
    check(json!({"name": "a", "labels": {"a b": "c"}}), &[("metadata.labels.a b", "key")]);
    check(json!({"name": "a", "labels": {"a": "b c"}}), &[("metadata.labels.a", "value")]);
    check(json!({"name": "a", "labels": {"/a": ""}}), &[("metadata.labels./a", "key")]);
    let notes = "x".repeat(256 * 1024);
    check(json!({"name": "a", "annotations": {"k": notes}}), &[("metadata.annotations", "bytes")]);
}

#[test]
fn pools() {
    let pool = |cidr: &str, more: Value| {
        let mut spec = json!({"cidr": cidr});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let check = |cidr: &str, more: Value, expected: &[(&str, &str)]| {
        check("IPPool", pool(cidr, more), expected);
    };
    check("10.0.0.0/16", json!({}), &[]);
    check("fd00::/64", json!({"vxlanMode": "Always"}), &[]);
    check("10.0.0.1/16", json!({}), &[("spec.cidr", "write 10.0.0.0/16")]);
    check("169.254.7.0/24", json!({}), &[("spec.cidr", "169.254.0.0/16")]);
    check("0.0.0.0/0", json!({}), &[("spec.cidr", "link-local")]);
    check("fe80::/64", json!({}), &[("spec.cidr", "fe80::/10")]);
    check("10.0.0.0/16", json!({"blockSize": 20}), &[]);
    check("10.0.0.0/16", json!({"blockSize": 19}), &[("spec.blockSize", "20 to 32")]);
    check("10.0.0.0/16", json!({"blockSize": 33}), &[("spec.blockSize", "20 to 32")]);
    check("fd00::/64", json!({"blockSize": 115}), &[("spec.blockSize", "116 to 128")]);
    check("10.0.0.0/27", json!({}), &[("spec.cidr", "one block of /26")]);
    check("10.0.0.0/27", json!({"disabled": true}), &[]);
    check("fd00::/64", json!({"ipipMode": "Always"}), &[("spec.ipipMode", "IPv4 only")]);
    check(
        "10.0.0.0/16",
        json!({"ipipMode": "Always", "vxlanMode": "CrossSubnet"}),
        &[("spec.ipipMode", "together")],
    );
    check(
        "10.0.0.0/16",
        json!({"allowedUses": ["LoadBalancer", "Workload"], "disableBGPExport": true,
               "vxlanMode": "Always", "nodeSelector": "has(a)"}),
        &[
            ("spec.vxlanMode", "Never"),
            ("spec.allowedUses", "combined"),
            ("spec.disableBGPExport", "false"),
            ("spec.nodeSelector", "all()"),
        ],
    );
    check("10.0.0.0/16", json!({"namespaceSelector": "has(a)", "allowedUses": ["Workload"]}), &[]);
    check(
        "10.0.0.0/16",
        json!({"namespaceSelector": "has(a)"}),
        &[("spec.namespaceSelector", "Tunnel")],
    );
    check("10.0.0.0/16", json!({"nodeSelector": "a ="}), &[("spec.nodeSelector", "column 3")]);
    check("10.0.0.0/16", json!({"nodeSelector": "global()"}), &[("spec.nodeSelector", "global")]);
    let long = format!("has({})", "a".repeat(1020));
    check(
        "10.0.0.0/16",
        json!({"nodeSelector": long}),
        &[("spec.nodeSelector", "1024"), ("spec.nodeSelector", "expected")],
    );
}

/// One ingress rule of a namespaced policy.
fn check_rule(rule: Value, expected: &[(&str, &str)]) {
    let paths: Vec<String> =
        expected.iter().map(|(path, _)| format!("spec.ingress[0]{path}")).collect();
    let expected: Vec<(&str, &str)> =
        paths.iter().map(String::as_str).zip(expected.iter().map(|(_, part)| *part)).collect();
    check("NetworkPolicy", json!({"ingress": [rule]}), &expected);
}

#[test]
fn rules() {
    let source = |source: Value| json!({"action": "Allow", "protocol": "TCP", "source": source});
    check_rule(source(json!({"ports": [1, "2:3", "http"], "nets": ["10.0.0.0/8"]})), &[]);
    check_rule(json!({"action": "Allow", "source": {"ports": ["http"]}}), &[]);
    check_rule(
        json!({"action": "Allow", "destination": {"ports": [80]}}),
        &[(".destination.ports", "TCP, UDP or SCTP")],
    );
    check_rule(
        json!({"action": "Allow", "protocol": "ICMP", "destination": {"notPorts": ["http"]}}),
        &[(".destination.notPorts", "no ports")],
    );
    check_rule(source(json!({"ports": [0]})), &[(".source.ports[0]", "1 to 65535")]);
    check_rule(json!({"action": "Allow", "protocol": 0}), &[(".protocol", "0")]);
    check_rule(json!({"action": "Allow", "ipVersion": 5}), &[(".ipVersion", "4 and 6")]);
    check_rule(
        json!({"action": "Allow", "ipVersion": 4, "protocol": "ICMPv6"}),
        &[(".protocol", "IPv6 only")],
    );
    check_rule(
        json!({"action": "Allow", "ipVersion": 6, "notProtocol": 1}),
        &[(".notProtocol", "IPv4 only")],
    );
    check_rule(
        json!({"action": "Allow", "protocol": "TCP", "icmp": {"type": 255, "code": 0}}),
        &[(".icmp.type", "255"), (".icmp", "ICMP or ICMPv6")],
    );
    check_rule(
        json!({"action": "Allow", "protocol": "ICMP", "icmp": {"code": 0}}),
        &[(".icmp.code", "type")],
    );
    check_rule(
        source(json!({"nets": ["10.0.0.0/8", "fd00::/8"]})),
        &[(".source.nets[1]", "two rules")],
    );
    check_rule(
        json!({"action": "Allow", "ipVersion": 6, "source": {"notNets": ["10.0.0.0/8"]}}),
        &[(".source.notNets[0]", "ipVersion is 6")],
    );
    check_rule(source(json!({"notNets": ["0.0.0.0/0"]})), &[(".source.notNets[0]", "nothing")]);
    check_rule(source(json!({"namespaceSelector": "global()"})), &[]);
    check_rule(
        source(json!({"namespaceSelector": "global() || has(a)"})),
        &[(".source.namespaceSelector", "alone")],
    );
    check_rule(source(json!({"selector": "global()"})), &[(".source.selector", "global()")]);
    check_rule(source(json!({"services": {"name": "a"}})), &[]);
    check_rule(
        source(json!({"services": {}, "nets": ["10.0.0.0/8"], "ports": ["a"]})),
        &[
            (".source.services.name", "required"),
            (".source.nets", "services"),
            (".source.ports", "services"),
        ],
    );
    check_rule(
        json!({"action": "Allow", "destination": {"services": {"name": "a"}}}),
        &[(".destination.services", "source only")],
    );
    check_rule(
        json!({"action": "Allow", "http": {"methods": ["GET"], "paths": [{"exact": "/a"}]}}),
        &[],
    );
    check_rule(
        json!({"action": "Deny", "protocol": "UDP", "http": {
            "methods": ["GET", "GET"],
            "paths": [{}, {"exact": "/a", "prefix": "/b"}, {"prefix": "a"}, {"exact": "/?"}],
        }}),
        &[
            (".http", "Allow"),
            (".http", "TCP"),
            (".http.methods[1]", "already"),
            (".http.paths[0]", "one of"),
            (".http.paths[1]", "use one"),
            (".http.paths[2]", "begin with"),
            (".http.paths[3]", "begin with"),
        ],
    );
    let many: Vec<u16> = (1..=51).collect();
    check_rule(source(json!({"ports": many})), &[(".source.ports", "at most 50")]);
}

#[test]
fn policies() {
    let http = json!([{"action": "Allow", "http": {"methods": ["GET"]}}]);
    check("NetworkPolicy", json!({"egress": http}), &[("spec.egress[0].http", "ingress")]);
    check(
        "NetworkPolicy",
        json!({"tier": "A.b", "selector": "a", "types": ["Egress", "Egress"]}),
        &[("spec.tier", "tier"), ("spec.types[1]", "already"), ("spec.selector", "column 2")],
    );
    let egress = json!([{"action": "Allow"}]);
    check(
        "GlobalNetworkPolicy",
        json!({"preDNAT": true, "doNotTrack": true, "egress": egress}),
        &[
            ("spec.preDNAT", "doNotTrack"),
            ("spec.applyOnForward", "true"),
            ("spec.egress", "ingress rules only"),
            ("spec.types", "Ingress only"),
        ],
    );
    check("GlobalNetworkPolicy", json!({"doNotTrack": true, "applyOnForward": true}), &[]);
    let services = json!([{"action": "Allow", "source": {"services": {"name": "a"}}}]);
    check(
        "GlobalNetworkPolicy",
        json!({"ingress": services}),
        &[("spec.ingress[0].source.services.namespace", "required")],
    );
    check("StagedNetworkPolicy", json!({"stagedAction": "Delete", "tier": "default"}), &[]);
    check(
        "StagedNetworkPolicy",
        json!({"stagedAction": "Delete", "selector": "all()"}),
        &[("spec", "only the tier")],
    );
    check("StagedNetworkPolicy", json!({"selector": "a"}), &[("spec.selector", "column 2")]);
}

#[test]
fn tiers_that_are_built_in_keep_their_order_and_action() {
    let check = |name: &str, spec: Value, expected: &[(&str, &str)]| {
        check_named("Tier", name, &spec, expected);
    };
    check("mine", json!({"order": 5, "defaultAction": "Pass"}), &[]);
    check("default", json!({"order": 1_000_000}), &[]);
    check(
        "default",
        json!({"order": 7, "defaultAction": "Pass"}),
        &[("spec.defaultAction", "Deny"), ("spec.order", "1000000")],
    );
    check("kube-admin", json!({"order": 1000, "defaultAction": "Pass"}), &[]);
}

#[test]
fn bgp() {
    let config = |spec: Value, expected: &[(&str, &str)]| {
        check("BGPConfiguration", spec, expected);
    };
    config(json!({"asNumber": "1.10", "listenPort": 178}), &[]);
    let password = json!({"secretKeyRef": {"name": "a", "key": "b"}});
    config(
        json!({"nodeToNodeMeshEnabled": false, "nodeMeshPassword": password,
               "nodeMeshMaxRestartTime": "120s"}),
        &[("spec.nodeMeshPassword", "no effect"), ("spec.nodeMeshMaxRestartTime", "no effect")],
    );
    check_named(
        "BGPConfiguration",
        "node.a",
        &json!({"asNumber": 1, "bindMode": "NodeIP"}),
        &[("spec.asNumber", "`default` only")],
    );
    config(
        json!({"communities": [{"name": "a", "value": "1:65536"}]}),
        &[("spec.communities", "not used"), ("spec.communities[0].value", "16 bits")],
    );
    config(
        json!({"communities": [{"name": "a", "value": "1:2"}], "prefixAdvertisements": [
            {"cidr": "10.0.0.0/8", "communities": ["a", "1:2:4294967295", "b"]}]}),
        &[("spec.prefixAdvertisements[0].communities[2]", "neither a name")],
    );
    config(
        json!({"ignoredInterfaces": ["eth*", "*", "a b"], "listenPort": 0,
               "ipv4NormalRoutePriority": 2_147_483_647}),
        &[
            ("spec.listenPort", "65535"),
            ("spec.ipv4NormalRoutePriority", "2147483646"),
            ("spec.ignoredInterfaces[1]", "every"),
            ("spec.ignoredInterfaces[2]", "15"),
        ],
    );

    let peer = |spec: Value, expected: &[(&str, &str)]| check("BGPPeer", spec, expected);
    for address in ["10.0.0.1", "10.0.0.1:1179", "fd00::1", "[fd00::1]:179"] {
        peer(json!({"peerIP": address, "asNumber": 64512}), &[]);
    }
    for address in ["10.0.0.1:0", "10.0.0", "[fd00::1", "host"] {
        peer(json!({"peerIP": address}), &[("spec.peerIP", "no peer")]);
    }
    peer(
        json!({"node": "a", "nodeSelector": "all()", "peerSelector": "has(", "peerIP": "10.0.0.1",
               "asNumber": 1}),
        &[
            ("spec.peerSelector", "column"),
            ("spec.node", "nodeSelector"),
            ("spec.peerIP", "peerSelector"),
            ("spec.asNumber", "peerSelector"),
        ],
    );
    peer(
        json!({"localWorkloadSelector": "has(a)", "peerIP": "10.0.0.1"}),
        &[("spec.peerIP", "localWorkloadSelector"), ("spec.asNumber", "required")],
    );
    peer(
        json!({"peerIP": "10.0.0.1", "reachableBy": "fd00::1", "keepOriginalNextHop": true,
               "nextHopMode": "Self"}),
        &[("spec.keepOriginalNextHop", "nextHopMode"), ("spec.reachableBy", "family")],
    );
    peer(json!({"reachableBy": "10.0.0.1"}), &[("spec.reachableBy", "peerIP")]);

    let filter = |rule: Value, expected: &[(&str, &str)]| {
        check("BGPFilter", json!({"importV4": [rule]}), expected);
    };
    filter(
        json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In",
               "prefixLength": {"min": 8, "max": 26}, "interface": "cali*",
               "operations": [{"addCommunity": {"value": "1:2"}}]}),
        &[],
    );
    filter(
        json!({"action": "Reject", "cidr": "fd00::/8", "prefixLength": {"max": 33},
               "operations": [{}], "communities": {"values": []}, "priority": 0}),
        &[
            ("spec.importV4[0].cidr", "matchOperator"),
            ("spec.importV4[0].cidr", "IPv4"),
            ("spec.importV4[0].prefixLength.max", "0 to 32"),
            ("spec.importV4[0].communities.values", "one entry"),
            ("spec.importV4[0].priority", "1 to"),
            ("spec.importV4[0].operations", "Accept"),
            ("spec.importV4[0].operations[0]", "exactly one"),
        ],
    );
}

#[test]
fn nodes_and_endpoints() {
    let node = |spec: Value, expected: &[(&str, &str)]| check("Node", spec, expected);
    node(
        json!({"bgp": {"ipv4Address": "10.0.0.1/24", "routeReflectorClusterID": "244.0.0.1"}}),
        &[],
    );
    node(
        json!({"bgp": {}, "wireguard": {}, "vxlanTunnelMACAddr": "x", "addresses": [{"address": "y"}]}),
        &[
            ("spec.bgp", "empty"),
            ("spec.wireguard", "empty"),
            ("spec.vxlanTunnelMACAddr", "hardware"),
            ("spec.addresses[0].address", "neither"),
        ],
    );
    node(
        json!({"bgp": {"ipv4Address": "fd00::1", "routeReflectorClusterID": "7"}}),
        &[("spec.bgp.ipv4Address", "IPv4"), ("spec.bgp.routeReflectorClusterID", "244.0.0.1")],
    );

    let pod = json!({"node": "n", "orchestrator": "k8s", "pod": "p", "endpoint": "eth0",
        "ipNetworks": ["10.0.0.1/32", "fd00::1"], "interfaceName": "cali1"});
    check_named("WorkloadEndpoint", "n-k8s-p-eth0", &pod, &[]);
    check_named("WorkloadEndpoint", "x", &pod, &[("metadata.name", "n-k8s-p-eth0")]);
    check(
        "WorkloadEndpoint",
        json!({"node": "n", "orchestrator": "k8s", "ipNetworks": ["10.0.0.0/31"],
            "ipNATs": [{"internalIP": "10.0.0.9", "externalIP": "fd00::1"}], "mac": "1",
            "interfaceName": "much-too-long-a-name", "ports": [{"port": 1, "protocol": "ICMP"}]}),
        &[
            ("spec.pod", "required"),
            ("spec.endpoint", "required"),
            ("spec.interfaceName", "15"),
            ("spec.ipNetworks[0]", "write /32"),
            ("spec.ipNATs[0].externalIP", "family"),
            ("spec.ipNATs[0].internalIP", "ipNetworks"),
            ("spec.mac", "hardware"),
            ("spec.ports[0].protocol", "TCP"),
            ("spec.ports[0].name", "hostPort"),
        ],
    );
    check("HostEndpoint", json!({"node": "n", "interfaceName": "*"}), &[]);
    check(
        "HostEndpoint",
        json!({"ports": [{"name": "a", "protocol": "TCP", "port": 0}]}),
        &[
            ("spec.node", "required"),
            ("spec.interfaceName", "expectedIPs"),
            ("spec.ports[0].port", "65535"),
        ],
    );
}

#[test]
fn settings() {
    check("IPAMConfiguration", json!({"strictAffinity": true, "autoAllocateBlocks": false}), &[]);
    check(
        "IPAMConfiguration",
        json!({"autoAllocateBlocks": false, "maxBlocksPerHost": 7, "ipCooldownSeconds": 1201}),
        &[
            ("spec.autoAllocateBlocks", "strictAffinity"),
            ("spec.maxBlocksPerHost", "strictAffinity"),
            ("spec.ipCooldownSeconds", "1200"),
        ],
    );
    check("FelixConfiguration", json!({"nodeSelector": "has(a)"}), &[]);
    check_named(
        "FelixConfiguration",
        "node.a",
        &json!({"nodeSelector": "has(a)", "natOutgoingAddress": "fd00::1",
            "routeTableRange": {"min": 1, "max": 2}, "routeTableRanges": [{"min": 3, "max": 2}],
            "failsafeInboundHostPorts": [{"protocol": "ICMP", "port": 1}]}),
        &[
            ("spec.nodeSelector", "`default`"),
            ("spec.routeTableRange", "routeTableRanges"),
            ("spec.natOutgoingAddress", "IPv4"),
            ("spec.failsafeInboundHostPorts[0].protocol", "TCP"),
            ("spec.routeTableRanges[0]", "above max"),
        ],
    );
}
