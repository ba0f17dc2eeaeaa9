//! A node loses its power and is given up: the agent of another one frees what it has left, and
//! nothing that lives. With real agents, on the kernel.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::WorkloadEndpoint;
use calico_datastore::remote::RemoteStore;
use calico_ipam::{Ipam, Options};
use calico_lab::Lab;
use calico_lab::topology::Topology;
use calico_lab::wait::{Pending, until};
use common::traffic::{addresses, assert_pings};
use common::{assert_gone, lab_name, turn};

const PATIENCE: Duration = Duration::from_secs(60);

const TOPOLOGY: &str = "
nodes:
  - { name: node1, addresses: [172.30.0.11/24, 'fd30::11/64'] }
  - { name: node2, addresses: [172.30.0.12/24, 'fd30::12/64'] }
pools:
  - { name: four, cidr: 10.244.0.0/20, blockSize: 28, vxlanMode: Always }
  - { name: six, cidr: 'fd44::/112', blockSize: 124 }
pods:
  - { name: lives, node: node1 }
  - { name: dies, node: node2 }
resources:
  - apiVersion: projectcalico.org/v3
    kind: KubeControllersConfiguration
    metadata: { name: default }
    spec: { controllers: { node: { leakGracePeriod: 6s } } }
";

#[tokio::test]
async fn what_a_dead_node_has_left_is_freed_by_another() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("collect");
    let text = format!("name: {name}\n{TOPOLOGY}");
    let topology = Topology::parse("collect", &text).unwrap();
    let mut lab = Lab::up(topology, &text).await.unwrap();
    let socket = lab.run_dir("node1").join("datastore.sock");
    let store: Arc<dyn Datastore> = Arc::new(RemoteStore::connect(socket));
    let ipam = Ipam::new(Arc::clone(&store), Options::default());
    let of = async |node: &str| ipam.addresses_of_host(node).await.unwrap();

    // Two of the pod, one of the tunnel.
    until("addresses of the tunnels", PATIENCE, async || {
        for node in ["node1", "node2"] {
            let found = ipam.addresses_of_host(node).await;
            let count = found.as_ref().map_or(0, Vec::len);
            if count != 3 {
                return Err(Pending::NotYet(format!("{node} has {count}: {found:?}")));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    let mine = of("node1").await;

    lab.power_off("node2").unwrap();
    // As long as its endpoints are there, everything of it stays, however long.
    store.delete(Key::resource(Kind::Node, None, "node2"), None).await.unwrap();
    let log = lab.run_dir("node1").join("agent.log");
    until("the agent keeps what an endpoint has", PATIENCE, async || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let kept = |line: &str| line.contains("kept") && line.contains("an endpoint has it");
        if log.lines().any(kept) { Ok(()) } else { Err(Pending::NotYet(log)) }
    })
    .await
    .unwrap();
    assert_eq!(of("node2").await.len(), 3);

    for entry in store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await.unwrap().entries {
        if entry.decode::<WorkloadEndpoint>().unwrap().spec.node == "node2" {
            store.delete(entry.key, None).await.unwrap();
        }
    }
    until("the agent frees the rest", PATIENCE, async || {
        let left = ipam.addresses_of_host("node2").await.unwrap();
        let claims = Scope::AffinitiesOf("node2".into());
        let claims = store.list(&claims).await.unwrap().entries.len();
        if left.is_empty() && claims == 0 {
            return Ok(());
        }
        Err(Pending::NotYet(format!("{claims} claims and {left:?}")))
    })
    .await
    .unwrap();
    assert_eq!(ipam.check().await.unwrap(), []);
    assert_eq!(of("node1").await, mine, "who lives keeps what it has");
    for address in addresses(&lab, "lives") {
        assert_pings(&lab.namespace("node1"), address).await;
    }
    let said = lab.calicoctl(&["ipam", "gc", "--dry-run"]).await.unwrap();
    assert_eq!(said, "Nothing is left of nodes that are gone.\n");

    let log = std::fs::read_to_string(&log).unwrap();
    log.lines().filter(|line| line.contains("is gone")).for_each(|line| println!("{line}"));
    lab.remove().unwrap();
    assert_gone(&name);
}
