//! Virtual machines: the address stays with the machine while its pods come, go and move.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use calico_cni::facts::{Machine, PodInfo, PodSource};
use calico_cni::spec::{Call, CniError, Code, Verb};
use calico_core::Datastore as _;
use calico_core::key::Key;
use calico_core::memory::MemoryStore;
use calico_ipam::Ipam;
use common::{Node, addresses, config, with};
use serde_json::{Value, json};

/// Handle of the machine.
const VM: &str = "net.vmi.default.vm1";
/// Pods of the machine: the first, one that it moves to, and where else it may run.
const SOURCE: &str = "virt-launcher-vm1-aaaaa";
const TARGET: &str = "virt-launcher-vm1-bbbbb";

/// What the orchestrator knows.
#[derive(Debug, Default)]
struct Orchestrator {
    pods: Mutex<BTreeMap<String, PodInfo>>,
    /// Machines that are gone.
    ended: Mutex<BTreeSet<String>>,
    silent: Mutex<bool>,
}

impl Orchestrator {
    fn run(&self, pod: &str, machine: &str, migration: Option<&str>) {
        let machine = Machine {
            name: machine.to_owned(),
            uid: "instance".to_owned(),
            vm_uid: Some("machine".to_owned()),
            migration: migration.map(str::to_owned),
        };
        let info = PodInfo { machine: Some(machine), ..PodInfo::default() };
        self.pods.lock().unwrap().insert(pod.to_owned(), info);
    }
}

#[async_trait]
impl PodSource for Orchestrator {
    async fn pod(&self, _namespace: &str, name: &str) -> Result<Option<PodInfo>, CniError> {
        Ok(self.pods.lock().unwrap().get(name).cloned())
    }

    async fn machine_ends(&self, namespace: &str, name: &str) -> Result<bool, CniError> {
        if *self.silent.lock().unwrap() {
            return Err(CniError::new(Code::TryAgain, "the API server does not answer"));
        }
        Ok(self.ended.lock().unwrap().contains(&format!("{namespace}/{name}")))
    }
}

/// Two nodes on one store.
struct Cluster {
    memory: MemoryStore,
    pods: Arc<Orchestrator>,
    from: Node,
    to: Node,
}

impl Cluster {
    async fn new() -> Self {
        let (memory, pods) = (MemoryStore::new(), Arc::new(Orchestrator::default()));
        let node = async |name| {
            let store = Arc::new(memory.clone());
            Node::of(name, memory.clone(), store, Arc::clone(&pods) as Arc<dyn PodSource>).await
        };
        let (from, to) = (node("node1").await, node("node2").await);
        Self { memory, pods, from, to }
    }

    fn ipam(&self) -> Ipam {
        Ipam::new(Arc::new(self.memory.clone()), calico_ipam::Options::default())
    }

    /// Pod and machine of the first and of the second owner of the machine's addresses; both
    /// families agree.
    async fn owners(&self) -> (Option<String>, Option<String>) {
        let mut seen = BTreeSet::new();
        for allocation in self.ipam().allocations_by_handle(VM).await.unwrap() {
            let attributes = allocation.attributes;
            let pod = |owner: &BTreeMap<String, String>| {
                let pod = owner.get("pod")?.clone();
                assert_eq!((&*owner["vmi-name"], &*owner["vm-uid"]), ("vm1", "machine"));
                assert_eq!(owner.contains_key("vmim-uid"), pod == TARGET);
                Some(pod)
            };
            seen.insert((pod(&attributes.secondary), pod(&attributes.alternate_owner_attrs)));
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.pop_first().unwrap()
    }

    async fn assert_nothing_left(&self) {
        self.from.assert_clean().await;
        self.to.assert_clean().await;
    }

    fn end(&self, machine: &str) {
        self.pods.ended.lock().unwrap().insert(machine.to_owned());
    }
}

fn first() -> (Option<String>, Option<String>) {
    (Some(SOURCE.into()), None)
}

async fn add(node: &Node, pod: &Call) -> Result<Value, Value> {
    node.call(Verb::Add, &config("1.1.0"), pod).await
}

async fn del(node: &Node, pod: &Call) {
    node.call(Verb::Del, &config("1.1.0"), pod).await.unwrap();
}

/// Whether the host leads packets for the pod to it.
fn is_routed(node: &Node) -> bool {
    let specs = node.network.interfaces.lock().unwrap();
    assert_eq!(specs.len(), 1);
    specs.values().all(|spec| !spec.arriving)
}

#[tokio::test]
async fn a_machine_moves_with_its_addresses() {
    let cluster = Cluster::new().await;
    let Cluster { from, to, pods, .. } = &cluster;
    pods.run(SOURCE, "vm1", None);
    pods.run(TARGET, "vm1", Some("move-1"));
    let (source, target) = (from.pod("c1", SOURCE), to.pod("c2", TARGET));
    // Nothing moves where nothing is; and nothing is left of the attempt.
    let early = add(to, &target).await.unwrap_err();
    assert!(early.to_string().contains("vm1"), "{early}");
    cluster.assert_nothing_left().await;

    let there = add(from, &source).await.unwrap();
    assert_eq!(addresses(&there).len(), 2);
    assert_eq!(from.handles().await, [VM]);
    assert_eq!(cluster.owners().await, first());
    // Each step may be repeated.
    for _ in 0..2 {
        let here = add(to, &target).await.unwrap();
        assert_eq!(addresses(&here), addresses(&there));
        let mac = |result: &Value| result["interfaces"][1]["mac"].clone();
        assert_eq!(mac(&here), mac(&there), "the machine does not see that it moved");
        assert_eq!(cluster.owners().await, (Some(SOURCE.into()), Some(TARGET.into())));
        assert_eq!((is_routed(from), is_routed(to)), (true, false), "packets go to the source");
        assert_eq!(addresses(&add(from, &source).await.unwrap()), addresses(&there));
        let check = with(config("1.1.0"), "prevResult", here);
        to.call(Verb::Check, &check, &target).await.unwrap();
    }

    // The source goes and takes nothing along, whatever its node cleans up.
    from.later(Duration::from_secs(3600));
    for _ in 0..2 {
        del(from, &source).await;
        assert_eq!(cluster.owners().await, (Some(TARGET.into()), None));
        let none = with(config("1.1.0"), "cni.dev/valid-attachments", json!([]));
        from.call(Verb::Gc, &none, &Call::default()).await.unwrap();
        assert_eq!(from.engine.reconcile(false).await.unwrap().suspects, []);
    }
    assert_eq!(cluster.owners().await, (Some(TARGET.into()), None));

    // The machine is deleted, and its last pod goes.
    cluster.end("default/vm1");
    del(to, &target).await;
    cluster.assert_nothing_left().await;
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_machine_where_it_was() {
    let cluster = Cluster::new().await;
    let Cluster { from, to, pods, .. } = &cluster;
    pods.run(SOURCE, "vm1", None);
    pods.run(TARGET, "vm1", Some("move-1"));
    let (source, target) = (from.pod("c1", SOURCE), to.pod("c2", TARGET));
    let there = add(from, &source).await.unwrap();
    // Its policy does not come into force: everything is undone, but nothing of the source's.
    *to.policy.refuse.lock().unwrap() = Some("no".into());
    add(to, &target).await.unwrap_err();
    assert_eq!(cluster.owners().await, first());
    assert_eq!((to.network.names().len(), from.endpoints().await.len()), (0, 1));
    *to.policy.refuse.lock().unwrap() = None;
    // It is there, and the move is given up.
    add(to, &target).await.unwrap();
    del(to, &target).await;
    assert_eq!(cluster.owners().await, first());
    let check = with(config("1.1.0"), "prevResult", there);
    from.call(Verb::Check, &check, &source).await.unwrap();
    cluster.end("default/vm1");
    del(from, &source).await;
    cluster.assert_nothing_left().await;
}

#[tokio::test]
async fn a_machine_that_stops_keeps_its_addresses_until_it_is_deleted() {
    let cluster = Cluster::new().await;
    let Cluster { from, to, pods, .. } = &cluster;
    let restarted = "virt-launcher-vm1-ccccc";
    pods.run(SOURCE, "vm1", None);
    pods.run(restarted, "vm1", None);
    let source = from.pod("c1", SOURCE);
    let before = add(from, &source).await.unwrap();
    del(from, &source).await;
    assert_eq!(cluster.owners().await, (None, None));
    assert_eq!(from.endpoints().await, [] as [&str; 0]);

    // It starts again elsewhere. An old DEL that comes late does no harm.
    let again = to.pod("c2", restarted);
    assert_eq!(addresses(&add(to, &again).await.unwrap()), addresses(&before));
    del(from, &source).await;
    assert_eq!(cluster.owners().await, (Some(restarted.into()), None));

    // A new sandbox of the same pod, and the DEL of the old one after it.
    let (old, new) = (again, to.pod("c3", restarted));
    add(to, &new).await.unwrap();
    del(to, &old).await;
    assert_eq!(cluster.owners().await, (Some(restarted.into()), None));

    // Nobody says whether the machine is deleted: the DEL is done later.
    *pods.silent.lock().unwrap() = true;
    del(to, &new).await;
    assert_eq!((to.network.names().len(), to.journal().pending().unwrap().0.len()), (0, 1));
    cluster.end("default/vm1");
    *pods.silent.lock().unwrap() = false;
    assert_eq!(to.engine.replay().await.unwrap().done, 1);
    cluster.assert_nothing_left().await;

    // Deleted after it was stopped: the runtime's next DEL of the pod finds it.
    pods.ended.lock().unwrap().clear();
    add(from, &source).await.unwrap();
    del(from, &source).await;
    cluster.end("default/vm1");
    del(from, &source).await;
    cluster.assert_nothing_left().await;
}

#[tokio::test]
async fn a_machine_whose_pods_do_not_have_its_name_is_found_by_its_addresses() {
    let cluster = Cluster::new().await;
    let Cluster { from, pods, .. } = &cluster;
    // KubeVirt names pods for the host name inside.
    pods.run("virt-launcher-inside-aaaaa", "outside", None);
    let pod = from.pod("c1", "virt-launcher-inside-aaaaa");
    add(from, &pod).await.unwrap();
    assert_eq!(from.handles().await, ["net.vmi.default.outside"]);
    cluster.end("default/outside");
    del(from, &pod).await;
    cluster.assert_nothing_left().await;

    // A runtime that forgot to delete it, and says so with GC.
    pods.ended.lock().unwrap().clear();
    add(from, &pod).await.unwrap();
    let none = with(config("1.1.0"), "cni.dev/valid-attachments", json!([]));
    from.call(Verb::Gc, &none, &Call::default()).await.unwrap();
    assert_eq!((from.endpoints().await.len(), from.handles().await.len()), (0, 1));
    add(from, &pod).await.unwrap();
    cluster.end("default/outside");
    from.call(Verb::Gc, &none, &Call::default()).await.unwrap();
    cluster.assert_nothing_left().await;
}

#[tokio::test]
async fn a_machine_that_is_deleted_while_it_is_stopped_leaves_nothing() {
    let cluster = Cluster::new().await;
    let Cluster { from, to, pods, .. } = &cluster;
    pods.run(SOURCE, "vm1", None);
    pods.run("virt-launcher-vm2-ddddd", "vm2", None);
    let (one, two) = (from.pod("c1", SOURCE), from.pod("c2", "virt-launcher-vm2-ddddd"));
    for pod in [&one, &two] {
        add(from, pod).await.unwrap();
    }
    del(from, &one).await;
    // It stands still, it runs, it is gone but nobody says so, it is gone: then in two passes.
    let freed = async || from.engine.reconcile(false).await.unwrap().machines;
    assert_eq!(freed().await, [] as [&str; 0]);
    *pods.silent.lock().unwrap() = true;
    cluster.end("default/vm1");
    cluster.end("default/vm2");
    assert_eq!(freed().await, [] as [&str; 0]);
    *pods.silent.lock().unwrap() = false;
    assert_eq!(from.engine.reconcile(true).await.unwrap().machines, [] as [&str; 0]);
    assert_eq!(from.engine.reconcile(true).await.unwrap().machines, [] as [&str; 0]);
    assert_eq!(to.engine.reconcile(false).await.unwrap().machines, [] as [&str; 0]);
    assert_eq!(from.handles().await.len(), 2, "a dry run frees nothing, and nobody for others");
    assert_eq!(freed().await, [VM]);
    assert_eq!(from.handles().await, ["net.vmi.default.vm2"]);
    // One that runs is not taken away from its pod, whatever the orchestrator says.
    assert_eq!(freed().await, [] as [&str; 0]);
    del(from, &two).await;
    cluster.assert_nothing_left().await;
}

#[tokio::test]
async fn without_persistence_a_machines_pod_is_like_any_other() {
    let cluster = Cluster::new().await;
    let Cluster { from, to, pods, memory } = &cluster;
    let off = json!({ "kubeVirtVMAddressPersistence": "Disabled" }).to_string();
    memory.put(Key::IpamConfig, off.into()).await.unwrap();
    pods.run(SOURCE, "vm1", None);
    pods.run(TARGET, "vm1", Some("move-1"));
    let source = from.pod("c1", SOURCE);
    add(from, &source).await.unwrap();
    assert_eq!(from.handles().await, ["net.c1"]);
    let refused = add(to, &to.pod("c2", TARGET)).await.unwrap_err();
    assert!(refused.to_string().contains("kubeVirtVMAddressPersistence"), "{refused}");
    del(from, &source).await;
    cluster.assert_nothing_left().await;
}

#[tokio::test]
async fn a_machine_may_get_its_second_family_later() {
    let cluster = Cluster::new().await;
    let Cluster { from, pods, .. } = &cluster;
    pods.run(SOURCE, "vm1", None);
    let source = from.pod("c1", SOURCE);
    let mut four = config("1.1.0");
    four["ipam"]["assign_ipv6"] = json!("false");
    let first = from.call(Verb::Add, &four, &source).await.unwrap();
    del(from, &source).await;
    let both = add(from, &source).await.unwrap();
    assert_eq!((addresses(&first).len(), addresses(&both).len()), (1, 2));
    assert_eq!(addresses(&first)[0], addresses(&both)[0]);
    let stored: Vec<IpAddr> = cluster.ipam().addresses_by_handle(VM).await.unwrap();
    assert_eq!(stored.len(), 2);
    assert_eq!(cluster.owners().await, (Some(SOURCE.into()), None));
}
