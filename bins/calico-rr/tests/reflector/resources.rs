//! A reflector that is a Node of a cluster, and takes its sessions from resources.

use std::path::Path;
use std::sync::Arc;

use calico_datastore::EmbeddedStore;
use calico_datastore::remote::{LocalListener, Server};
use nix::sys::signal::Signal;

use super::lab::{Lab, Router, lab};

const CLUSTER: &str = "\
apiVersion: projectcalico.org/v3
kind: List
items:
- {apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default},
    spec: {nodeToNodeMeshEnabled: false, asNumber: 64512}}
- {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: pods},
    spec: {cidr: 10.65.0.0/16}}
- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: rr, labels: {rr: 'yes'}},
    spec: {bgp: {ipv4Address: 10.9.1.1/24, routeReflectorClusterID: 244.0.0.1}}}
- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1},
    spec: {bgp: {ipv4Address: 10.9.1.2/24}}}
- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n2},
    spec: {bgp: {ipv4Address: 10.9.2.2/24}}}
- {apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: to-reflectors},
    spec: {nodeSelector: '!has(rr)', peerSelector: has(rr)}}
";

const NODE_3: &str = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n3}
spec: {bgp: {ipv4Address: 10.9.3.2/24}}
";

/// Rejects what the second node tells, by a filter of the peering.
const FILTERED: &str = "\
apiVersion: projectcalico.org/v3
kind: List
items:
- {apiVersion: projectcalico.org/v3, kind: BGPFilter, metadata: {name: no-two},
    spec: {importV4: [{action: Reject, matchOperator: In, cidr: 10.65.2.0/24}]}}
- {apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: to-reflectors},
    spec: {nodeSelector: '!has(rr)', peerSelector: has(rr), filters: [no-two]}}
";

/// Serves a store of its own until it is dropped.
fn store(lab: &Lab, socket: &Path) -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let store = EmbeddedStore::open(lab.path("store")).unwrap();
    let listener = {
        let _in_runtime = runtime.enter();
        LocalListener::bind(socket).unwrap()
    };
    runtime.spawn(Server::run(listener, Arc::new(store), std::future::pending()));
    runtime
}

fn none_was_lost(lab: &Lab) {
    for peer in lab.peers().peers {
        assert_eq!(peer.lost, 0, "{peer:?}");
    }
}

#[test]
fn sessions_follow_the_resources_of_the_cluster() {
    let Some(mut lab) = lab(2) else { return };
    let socket = lab.path("datastore.sock");
    let _store = store(&lab, &socket);
    lab.apply("apply", &socket, CLUSTER);
    let run_dir = lab.run_dir();
    let arguments = [
        "--datastore",
        socket.to_str().unwrap(),
        "--node",
        "rr",
        "--run-dir",
        run_dir.to_str().unwrap(),
    ];
    lab.start_reflector_with(&arguments);
    let one_address = Router { reflector: Some("10.9.1.1"), ..Router::default() };
    lab.start_router(1, one_address);
    lab.start_router(2, one_address);
    lab.until("both hear of each other", |lab| {
        lab.has_route(1, "10.65.2.0/24") && lab.has_route(2, "10.65.1.0/24")
    });
    let peers = lab.peers();
    assert_eq!(peers.cluster_id.to_string(), "244.0.0.1");
    for peer in &peers.peers {
        assert_eq!(peer.relation, "client", "{peer:?}");
        assert_eq!(peer.description.as_deref(), Some("node specific"), "{peer:?}");
    }

    lab.apply("apply", &socket, NODE_3);
    lab.until("the new node is a neighbor", |lab| lab.peers().peers.len() == 3);
    none_was_lost(&lab);
    lab.apply("apply", &socket, FILTERED);
    lab.until("the filter takes the route away", |lab| !lab.has_route(1, "10.65.2.0/24"));
    none_was_lost(&lab);
    assert!(lab.has_route(2, "10.65.1.0/24"));
    let text = lab.ask("bgp explain 10.65.2.0/24");
    let reason = "rejected by the import policy: BGPFilter no-two, importV4 rule 0";
    assert!(text.contains(reason), "{text}");

    // Another process takes its place, and the routers keep what they have.
    lab.end_reflector(Signal::SIGKILL);
    lab.until("the sessions are lost", |lab| {
        !lab.birdc(2, "show protocols c4").contains("Established")
    });
    assert!(lab.has_route(2, "10.65.1.0/24"));
    lab.start_reflector_with(&arguments);
    lab.until_established(2);
    assert!(lab.has_route(2, "10.65.1.0/24"));
    assert!(lab.log().contains("restarting=true"), "{}", lab.log());

    lab.apply("delete", &socket, NODE_3);
    lab.until("the node is gone", |lab| lab.peers().peers.len() == 2);
    none_was_lost(&lab);
}
