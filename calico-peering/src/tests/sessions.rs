use std::time::Duration;

use calico_bgp::filter::{Action, Condition, Operation, PrefixMatch, Rule};
use calico_bgp::rib::NextHopMode;
use calico_bgp::speaker::{Distance, Password};
use calico_core::kind::Kind;
use serde_json::json;

use super::*;
use crate::{Options, RouterId, SecretRef, Session};

/// Sessions as `address:port as N [client] [passive] type`.
fn check(me: &str, entries: &[Entry], expected: &[&str]) {
    let found: Vec<String> = plan(me, entries)
        .sessions
        .iter()
        .map(|session| {
            let client = if session.reflector_client { " client" } else { "" };
            let passive = if session.passive { " passive" } else { "" };
            let Session { address, port, remote_as, peer_type, .. } = session;
            format!("{address} {port} as {remote_as}{client}{passive} {}", peer_type.describe())
        })
        .collect();
    assert_eq!(found, expected, "{me}");
}

const MESH: &str = "node-to-node mesh";

#[test]
fn every_node_meshes_with_every_other_in_the_families_both_have() {
    check(
        "a",
        &three(),
        &[
            &format!("10.0.0.2 179 as 64512 passive {MESH}"),
            &format!("10.0.0.10 179 as 64512 passive {MESH}"),
            &format!("fd00::3 179 as 64512 passive {MESH}"),
        ],
    );
    // "10.0.0.2" > "10.0.0.10" as text.
    check(
        "b",
        &three(),
        &[&format!("10.0.0.1 179 as 64512 {MESH}"), &format!("10.0.0.10 179 as 64512 {MESH}")],
    );
}

#[test]
fn reflectors_leave_the_mesh_and_serve_the_nodes_that_select_them() {
    let mut entries = three();
    entries[2] = node(
        "c",
        json!({"rr": "true"}),
        json!({"ipv4Address": "10.0.0.10/24", "routeReflectorClusterID": "244.0.0.1"}),
    );
    entries.push(peer("rr", json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"})));
    entries.push(configuration("default", json!({"nodeToNodeMeshEnabled": false})));
    check("a", &entries, &["10.0.0.10 179 as 64512 node specific"]);
    let clients = [
        "10.0.0.1 179 as 64512 client node specific",
        "10.0.0.2 179 as 64512 client node specific",
    ];
    check("c", &entries, &clients);
    assert_eq!(plan("c", &entries).identity.cluster_id, Some([244, 0, 0, 1].into()));
    // Another of the same cluster is no client, one of another cluster is.
    entries.push(peer("all", json!({"peerSelector": "has(rr)"})));
    let rr = |name, address, cluster| {
        let bgp = json!({"ipv4Address": address, "routeReflectorClusterID": cluster});
        node(name, json!({"rr": "true"}), bgp)
    };
    entries.push(rr("d", "10.0.0.11/24", "244.0.0.1"));
    entries.push(rr("e", "10.0.0.12/24", "244.0.0.2"));
    let found = plan("c", &entries).sessions;
    let client = |address: &str| {
        found.iter().find(|s| s.address.to_string() == address).unwrap().reflector_client
    };
    assert!(client("10.0.0.1") && !client("10.0.0.11") && client("10.0.0.12"));
}

#[test]
fn a_router_outside_the_cluster_is_a_peer_of_those_it_is_for() {
    let mut entries = three();
    let spec =
        json!({"nodeSelector": "rack == '1'", "peerIP": "10.0.0.254:1179", "asNumber": 65001});
    entries.push(peer("tor", spec));
    let has_tor = |node| plan(node, &entries).sessions.iter().any(|s| s.port == 1179);
    assert!(!has_tor("a"));
    assert!(has_tor("b"));
}

#[test]
fn a_node_given_by_its_address_answers() {
    let mut entries = three();
    entries.push(configuration("default", json!({"nodeToNodeMeshEnabled": false})));
    entries.push(configuration("node.c", json!({"listenPort": 1790})));
    let spec = json!({"peerIP": "10.0.0.10", "asNumber": 64512});
    entries.push(peer("to-c", spec.clone()));
    // A global one: the side with the smaller text waits.
    check("a", &entries, &["10.0.0.10 1790 as 64512 passive global"]);
    check("b", &entries, &["10.0.0.10 1790 as 64512 global"]);
    check("c", &entries, &["10.0.0.1 179 as 64512 global", "10.0.0.2 179 as 64512 global"]);

    let of_one = json!({"node": "a", "peerIP": "10.0.0.10", "asNumber": 64512});
    entries.pop();
    entries.push(peer("to-c", of_one));
    check("a", &entries, &["10.0.0.10 1790 as 64512 node specific"]);
    check("b", &entries, &[]);
    check("c", &entries, &["10.0.0.1 179 as 64512 node specific"]);

    for spec in [
        json!({"node": "a", "peerIP": "10.0.0.10", "asNumber": 64512, "reversePeering": "Manual"}),
        json!({"node": "a", "peerIP": "10.0.0.10", "asNumber": 65000}),
        json!({"node": "a", "peerIP": "10.0.0.10:1791", "asNumber": 64512}),
    ] {
        entries.pop();
        entries.push(peer("to-c", spec));
        check("c", &entries, &[]);
    }
}

#[test]
fn global_peers_win_over_specific_ones_and_the_mesh() {
    let mut entries = three();
    entries.push(peer("a-specific", json!({"node": "a", "peerIP": "10.0.0.2", "asNumber": 1})));
    entries.push(peer("global", json!({"peerIP": "10.0.0.2", "asNumber": 2})));
    entries.push(peer("other-port", json!({"node": "a", "peerIP": "10.0.0.2:180", "asNumber": 3})));
    check(
        "a",
        &entries,
        &[
            "10.0.0.2 179 as 2 passive global",
            "10.0.0.2 180 as 3 node specific",
            &format!("10.0.0.10 179 as 64512 passive {MESH}"),
            &format!("fd00::3 179 as 64512 passive {MESH}"),
        ],
    );
}

#[test]
fn per_node_settings_win() {
    let mut entries = three();
    entries.push(configuration("default", json!({"asNumber": 65000, "listenPort": 1790})));
    let own = json!({"listenPort": 1791, "logSeverityScreen": "Debug", "bindMode": "NodeIP"});
    entries.push(configuration("node.b", own));
    check(
        "c",
        &entries,
        &[
            &format!("10.0.0.1 1790 as 65000 {MESH}"),
            &format!("10.0.0.2 1791 as 65000 passive {MESH}"),
            &format!("fd00::1 1790 as 65000 {MESH}"),
        ],
    );
    let b = plan("b", &entries);
    assert_eq!(b.identity.listen, ["[::]:1791".parse().unwrap()]);
    assert_eq!(b.log_severity, Some(calico_core::resource::LogSeverity::Debug));
    let note = "BGPConfiguration node.b: bindMode has no effect: only `default` may say so";
    assert_eq!(notes(&b), [note]);
    entries.push(configuration("default", json!({"bindMode": "NodeIP"})));
    let listen = plan("a", &entries).identity.listen;
    assert_eq!(listen, ["10.0.0.1:179".parse().unwrap(), "[fd00::1]:179".parse().unwrap()]);
}

#[test]
fn a_node_speaks_the_families_that_it_has_addresses_of() {
    let mut peering = Peering::new("a");
    assert_eq!(peering.plan(), None);
    peering.put(&entry(Kind::Node, "a", json!({}), json!({}))).unwrap();
    assert_eq!(peering.plan(), None);
    let mut entries = three();
    entries.push(peer("tor", json!({"peerIP": "fd00::ff", "asNumber": 65001})));
    let b = plan("b", &entries);
    assert_eq!(b.sessions.len(), 2, "the mesh");
    let note = "BGPPeer tor: no session with fd00::ff: this node has no BGP address of its family";
    assert_eq!(notes(&b), [note]);
}

#[test]
fn the_identifier_is_as_asked_for() {
    let id = |router_id, entries: &[Entry]| {
        let options = Options { router_id, ..Options::default() };
        let mut peering = Peering::with_options("a", options);
        entries.iter().for_each(|entry| drop(peering.put(entry)));
        peering.plan().unwrap().identity.router_id
    };
    let six = [node("a", json!({}), json!({"ipv6Address": "fd00::1/64"}))];
    assert_eq!(id(RouterId::NodeAddress, &three()).to_string(), "10.0.0.1");
    assert_eq!(id(RouterId::Fixed([1, 2, 3, 4].into()), &three()).to_string(), "1.2.3.4");
    let of_name = id(RouterId::NodeName, &three());
    assert_ne!(of_name.to_string(), "10.0.0.1");
    assert_eq!(id(RouterId::NodeAddress, &six), of_name);
}

#[test]
fn a_peer_with_every_option_of_its_session() {
    let mut entries = three();
    entries.push(peer(
        "tor",
        json!({"peerIP": "10.9.0.254", "asNumber": 65001, "localASNumber": 65000,
            "numAllowedLocalASNumbers": 2, "ttlSecurity": 3, "sourceAddress": "None",
            "nextHopMode": "Self", "maxRestartTime": "59.6s", "keepaliveTime": "10s",
            "reachableBy": "10.0.0.253", "password": {"secretKeyRef": {"name": "s", "key": "k"}},
            "filters": ["second", "first", "no"]}),
    ));
    entries.push(entry(
        Kind::BgpFilter,
        "first",
        json!({}),
        json!({"importV4": [{"action": "Reject"}],
            "exportV4": [{"action": "Accept", "source": "RemotePeers", "peerType": "eBGP",
                "priority": 100, "asPathPrefix": [65002], "communities": {"values": ["1:2"]},
                "operations": [{"addCommunity": {"value": "65000:1:2"}},
                    {"prependASPath": {"prefix": [1, 2]}}, {"setPriority": {"value": 7}}]}],
            "importV6": [{"action": "Reject"}]}),
    ));
    entries.push(entry(
        Kind::BgpFilter,
        "second",
        json!({}),
        json!({"importV4": [
            {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "NotIn",
                "prefixLength": {"min": 16}},
            {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Equal",
                "interface": "eth*"},
            {"action": "Accept", "communities": {"values": ["nonsense"]}}]}),
    ));
    let mut peering = peering("a", &entries);
    let secret = SecretRef { name: "s".into(), key: "k".into() };
    assert_eq!(
        peering.wanted_secrets().into_iter().collect::<Vec<_>>(),
        std::slice::from_ref(&secret)
    );
    assert!(peering.set_secret(secret.clone(), Ok(Password::new("word").unwrap())));
    assert!(!peering.set_secret(secret, Ok(Password::new("word").unwrap())));
    let plan = peering.plan().unwrap();
    let tor = plan.sessions.iter().find(|s| s.remote_as == 65001).unwrap();
    let config = tor.peer_config();
    assert_eq!((config.local_as, config.allow_own_as), (Some(65000), 2));
    assert_eq!((config.distance, config.local_address), (Distance::Secured(3), None));
    assert_eq!(config.next_hop, NextHopMode::OwnAddressAlways);
    assert_eq!((config.graceful_restart, config.keepalive_time), (Some(60), Some(10)));
    assert_eq!(config.hold_time, 30);
    assert_eq!(config.password, Some(Password::new("word").unwrap()));
    let gateway = (&"10.9.0.254/32".parse().unwrap(), &"10.0.0.253".parse().unwrap());
    assert_eq!(plan.gateways.iter().collect::<Vec<_>>(), [gateway]);

    let accept = |conditions| Rule { conditions, action: Action::Accept(vec![]) };
    let ten = "10.0.0.0/8".parse().unwrap();
    let wanted = vec![
        accept(vec![Condition::Prefix(PrefixMatch::within(ten).lengths(16..=32).negated())]),
        accept(vec![
            Condition::Prefix(PrefixMatch::exactly(ten)),
            Condition::Interface("eth*".parse().unwrap()),
        ]),
        Rule { conditions: vec![], action: Action::Reject },
    ];
    assert_eq!(tor.import.as_ref().unwrap().rules, wanted);
    let wanted = Rule {
        conditions: vec![
            Condition::Learned,
            Condition::ExternalPeer,
            Condition::Community("1:2".parse().unwrap()),
            Condition::AsPathPrefix(vec![65002]),
            Condition::LocalPref(2_147_483_547),
        ],
        action: Action::Accept(vec![
            Operation::AddCommunity("65000:1:2".parse().unwrap()),
            Operation::PrependAsPath(vec![1, 2]),
            Operation::SetLocalPref(2_147_483_640),
        ]),
    };
    assert_eq!(tor.export.rules, [wanted]);
    let texts = notes(&plan);
    assert_eq!(texts.len(), 3, "{texts:?}");
    let interface = "BGPFilter second: importV4 has no effect: rule 1 asks for an interface, which \
                     no learned route has";
    assert_eq!(texts[0], interface);
    assert!(texts[1].starts_with("BGPFilter second: importV4 is ignored: rule 2: "), "{texts:?}");
    assert_eq!(texts[2], "BGPPeer tor: BGPFilter no does not exist; routes pass as without it");
    let mesh = plan.sessions.iter().find(|s| s.remote_as == 64512).unwrap();
    assert_eq!((&mesh.import, &mesh.password), (&None, &None));
}

#[test]
fn the_mesh_has_a_password_and_a_restart_time_of_its_own() {
    let mut entries = three();
    entries.push(configuration(
        "default",
        json!({"nodeMeshPassword": {"secretKeyRef": {"name": "mesh", "key": "password"}},
            "nodeMeshMaxRestartTime": "2m"}),
    ));
    let mut peering = peering("a", &entries);
    let before = peering.plan().unwrap();
    assert!(before.sessions.iter().all(|session| session.password.is_none()));
    let note = "BGPConfiguration default: the session runs without a password: secret \
                mesh/password is not known here";
    assert_eq!(notes(&before), [note]);
    let secret = peering.wanted_secrets().pop_first().unwrap();
    peering.set_secret(secret, Ok(Password::new("x").unwrap()));
    let after = peering.plan().unwrap();
    assert!(after.sessions.iter().all(|session| session.password.is_some()));
    assert_eq!(after.sessions[0].restart_time, Some(Duration::from_secs(120)));
    assert!(after.notes.is_empty());
}

#[test]
fn what_is_only_for_peers_with_an_address_is_named() {
    let mut entries = three();
    entries.push(peer(
        "racks",
        json!({"node": "a", "peerSelector": "rack == '1'", "localASNumber": 65000,
            "numAllowedLocalASNumbers": 1, "keepOriginalNextHop": true}),
    ));
    let plan = plan("a", &entries);
    assert!(plan.sessions.iter().all(|session| session.local_as == 64512));
    let config = plan.sessions[0].peer_config();
    let auto = NextHopMode::AutoOnSubnet("10.0.0.0/24".parse().unwrap());
    assert_eq!(config.next_hop, auto, "the old flag is for external peers");
    assert_eq!(
        notes(&plan),
        [
            "BGPPeer racks: localASNumber has no effect: the peer has no peerIP",
            "BGPPeer racks: numAllowedLocalASNumbers has no effect: the peer has no peerIP",
        ]
    );
}

#[test]
fn fields_without_effect_are_named() {
    let mut entries = three();
    entries.push(configuration(
        "default",
        json!({"ipv4NormalRoutePriority": 100, "ipv6NormalRoutePriority": 100}),
    ));
    let texts = notes(&plan("a", &entries));
    for field in ["ipv4NormalRoutePriority", "ipv6NormalRoutePriority"] {
        let start = format!("BGPConfiguration default: {field} has no effect: ");
        assert_eq!(texts.iter().filter(|text| text.starts_with(&start)).count(), 1, "{texts:?}");
    }
}

#[test]
fn nonsense_is_named_and_stops_nothing_else() {
    let mut entries = three();
    entries.push(peer(
        "bad-gateway",
        json!({"peerIP": "10.9.0.1", "asNumber": 65001,
        "reachableBy": "fd00::1"}),
    ));
    entries.push(peer("bad-peer", json!({"peerIP": "tor", "asNumber": 65001})));
    entries.push(peer(
        "bad-selector",
        json!({"nodeSelector": "((", "peerIP": "10.9.0.2",
        "asNumber": 65001}),
    ));
    entries.push(peer("no-as", json!({"peerIP": "10.9.0.3"})));
    let plan = plan("b", &entries);
    assert_eq!(plan.sessions.len(), 2);
    assert!(plan.gateways.is_empty());
    let texts = notes(&plan);
    for (text, start) in texts.iter().zip([
        "BGPPeer bad-gateway: reachableBy is ignored: fd00::1 is of another family",
        "BGPPeer bad-peer: peerIP is ignored: \"tor\" is no address",
        "BGPPeer bad-selector: nodeSelector is ignored: ",
        "BGPPeer no-as: asNumber is ignored: ",
    ]) {
        assert!(text.starts_with(start), "{text}");
    }
    assert_eq!(texts.len(), 4, "{texts:?}");
}

#[test]
fn workloads_of_the_node_are_peers() {
    let mut entries = three();
    let spec = |selector: &str| {
        json!({"nodeSelector": "rack == '1'", "localWorkloadSelector": selector,
            "asNumber": 65401, "localASNumber": 65000})
    };
    entries.push(peer("routers", spec("router == 'yes' && zone == 'x'")));
    entries.push(peer("z-later", spec("has(router)")));
    let labels = json!({"labelsToApply": {"zone": "x", "router": "no"}});
    entries.push(entry(Kind::Profile, "prod", json!({}), labels));
    entries.push(workload("b", "1", json!({"router": "yes"}), "10.65.0.1/32"));
    entries.push(workload("b", "2", json!({}), "10.65.0.2/32"));
    entries.push(workload("c", "3", json!({"router": "yes"}), "10.65.1.1/32"));
    let before = plan("b", &entries);
    let found: Vec<&Session> = before.sessions.iter().filter(|s| s.remote_as == 65401).collect();
    let of = |session: &Session| {
        (session.address.to_string(), session.passive, session.local_address, session.local_as)
    };
    assert_eq!(of(found[0]), ("10.65.0.1".to_owned(), true, None, 65000));
    // The inherited label makes the other one a peer of the later resource.
    assert_eq!(of(found[1]), ("10.65.0.2".to_owned(), true, None, 65000));
    assert_eq!(found.len(), 2);
    let missing = "BGPConfiguration default: localWorkloadPeeringIPV4 is not set: ";
    assert!(notes(&before)[0].starts_with(missing), "{:?}", before.notes);
    assert!(plan("a", &entries).sessions.iter().all(|s| s.remote_as == 64512));

    entries.push(configuration("default", json!({"localWorkloadPeeringIPV4": "169.254.1.179"})));
    let after = plan("b", &entries);
    assert_eq!(
        after.workload_addresses["cali1"],
        ["169.254.1.179".parse().unwrap()] as [std::net::IpAddr; 1]
    );
    assert!(after.notes.is_empty());

    let mut odd = spec("has(router)");
    odd["keepaliveTime"] = json!("5s");
    odd["ttlSecurity"] = json!(1);
    entries.push(peer("z-later", odd));
    let why = "has no effect: its peers are workloads";
    assert_eq!(
        notes(&plan("b", &entries)),
        [
            format!("BGPPeer z-later: keepaliveTime {why}"),
            format!("BGPPeer z-later: ttlSecurity {why}")
        ]
    );
}

#[test]
fn unrelated_objects_leave_the_plan_alone() {
    let mut peering = peering("a", &three());
    for (changes, entry) in [
        (false, three().remove(0)),
        (false, workload("a", "1", json!({}), "10.65.0.1/32")),
        (false, entry(Kind::Profile, "prod", json!({}), json!({}))),
        (false, entry(Kind::Tier, "default", json!({}), json!({}))),
        (false, block("b", "10.65.0.0/26", "confirmed")),
        (false, block("a", "10.65.0.0/26", "pending")),
        (true, block("a", "10.65.0.0/26", "confirmed")),
        (false, block("a", "10.65.0.0/26", "confirmed")),
        (true, pool("p", json!({"cidr": "10.65.0.0/16"}))),
        (false, pool("p", json!({"cidr": "10.65.0.0/16"}))),
    ] {
        assert_eq!(peering.put(&entry).unwrap(), changes, "{}", entry.key);
    }
    assert!(peering.gone(&block("a", "10.65.0.0/26", "confirmed").key));
    assert!(!peering.gone(&block("b", "10.65.0.0/26", "confirmed").key));
}
