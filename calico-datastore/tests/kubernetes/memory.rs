//! Memory for listing and following more pods than a program should hold at once.
//!
//! `CALICO_PODS` (default 2,500) pods; `cargo xtask pods` has 25,000 of them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use calico_core::Datastore as _;
use calico_core::datastore::{Entry, WatchEvent};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::WorkloadEndpoint;
use calico_datastore::config::{KubernetesConfig, Secret};
use calico_datastore::kubernetes::KubernetesStore;
use calico_test_servers::crowd::{Crowd, TURN};
use calico_test_servers::{ADMIN, api::Api};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Etcd, LIMIT, Turn, any};

/// What following may take besides the program itself, whatever the number of pods: it holds one
/// page at a time, as text and as objects.
const BOUND: u64 = 12 << 20;
/// The namespace that the pods are in.
const NAMESPACE: &str = "x";
/// Pods that are written again while they are followed.
const CHANGES: usize = 500;

/// In the environment of the other process: what it is to do.
const ORDER: &str = "CALICO_TEST_ORDER";
/// What its answers begin with.
const ANSWER: &str = "answer: ";

/// How the pods are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    /// As the agent does.
    Watch,
    /// As calicoctl does.
    List,
    /// As nobody should: the whole answer at once.
    AtOnce,
}

#[derive(Serialize, Deserialize)]
struct Order {
    way: Way,
    api: (String, std::path::PathBuf),
    pods: usize,
}

/// What a process took.
#[derive(Debug, Serialize, Deserialize)]
struct Taken {
    /// Bytes that were resident at most, beyond what was before.
    memory: u64,
    /// Bytes of the objects that the store made of the pods.
    objects: u64,
    /// Milliseconds.
    time: u128,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes long on a busy machine; run by cargo xtask pods"]
async fn many_pods_are_followed_in_little_memory() {
    let number = std::env::var("CALICO_PODS").map_or(2_500, |text| text.parse().unwrap());
    for (etcd, how) in [(Etcd::Current, "streamed"), (Etcd::Debian, "in pages")] {
        let Some(turn) = Turn::take(etcd) else { return };
        let start = Instant::now();
        let crowd = Crowd::fill(turn.cluster, NAMESPACE, number).await;
        let all = (crowd.json * crowd.pods) as u64;
        println!(
            "{number} pods of {} bytes of JSON, {:.1} MiB in all, made in {} ms",
            crowd.json,
            mib(all),
            start.elapsed().as_millis()
        );
        let api = (turn.cluster.url(), turn.cluster.ca());
        let ask =
            async |way| other_process(&Order { way, api: api.clone(), pods: number }, &crowd).await;
        let show = |what: &str, taken: &Taken| {
            println!(
                "{how}, {what}: {:.1} MiB more at most, {:.1} MiB of objects, {} ms",
                mib(taken.memory),
                mib(taken.objects),
                taken.time
            );
        };
        let watched = ask(Way::Watch).await;
        show("listed by a watch", &watched[0]);
        show("then followed", &watched[1]);
        let listed = ask(Way::List).await;
        show("listed, and all objects kept", &listed[0]);
        let at_once = ask(Way::AtOnce).await;
        show("the whole answer at once", &at_once[0]);

        assert!(watched.iter().all(|taken| taken.memory < BOUND), "{watched:?}");
        assert!(listed[0].memory < BOUND + 2 * listed[0].objects, "{listed:?}");
        // Who held everything would be found out.
        assert!(at_once[0].memory > all && all > BOUND, "{at_once:?}");
        crowd.leave().await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "to be read")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Has a process of its own do it, so that nothing else is in its memory.
async fn other_process(order: &Order, crowd: &Crowd<'_>) -> Vec<Taken> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::in_another_process", "--ignored", "--nocapture"])
        .env(ORDER, serde_json::to_string(order).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut taken = Vec::new();
    // It limits its own time.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((_, answer)) = line.split_once(ANSWER) else { continue };
        taken.push(serde_json::from_str(answer).unwrap());
        if order.way == Way::Watch && taken.len() == 1 {
            crowd.write(0..CHANGES, 1).await;
        }
    }
    assert!(child.wait().unwrap().success(), "{:?}", order.way);
    taken
}

/// Not a test: what [`other_process`] runs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by many_pods_are_followed_in_little_memory"]
async fn in_another_process() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Order = serde_json::from_str(&order).unwrap();
    let done = tokio::time::timeout(2 * LIMIT, carry_out(order)).await;
    assert!(done.is_ok(), "not done in time");
}

async fn carry_out(order: Order) {
    let (url, ca) = order.api;
    let api = Api { url, ca, token: ADMIN.to_owned() };
    let kubeconfig = Secret::new(api.kubeconfig());
    let config = KubernetesConfig { kubeconfig_inline: Some(kubeconfig), ..Default::default() };
    let store = KubernetesStore::connect(&config).unwrap();
    // Connections, certificates, and what the cluster has.
    store.list(&Scope::Kind(Kind::Node)).await.unwrap();
    let gauge = Gauge::start();
    let scope = Scope::Namespace(Kind::WorkloadEndpoint, NAMESPACE.to_owned());
    match order.way {
        Way::Watch => {
            let mut watch = store.watch(scope, None);
            let (mut seen, mut objects) = (0, 0);
            loop {
                match any(&mut watch).await {
                    WatchEvent::Item(entry) => {
                        seen += 1;
                        objects += entry.value.len();
                    }
                    WatchEvent::Ready(_) => break,
                    // A listing that is begun again starts from nothing.
                    WatchEvent::Begin => (seen, objects) = (0, 0),
                    WatchEvent::Interrupted { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(seen, order.pods);
            gauge.answer(objects);
            let mut changed = std::collections::BTreeSet::<Key>::new();
            while changed.len() < CHANGES {
                match any(&mut watch).await {
                    WatchEvent::Put(entry) if is_changed(&entry) => drop(changed.insert(entry.key)),
                    WatchEvent::Put(_) | WatchEvent::Interrupted { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            gauge.answer(objects);
        }
        Way::List => {
            let entries = store.list(&scope).await.unwrap().entries;
            assert_eq!(entries.len(), order.pods);
            gauge.answer(entries.iter().map(|entry| entry.value.len()).sum());
        }
        Way::AtOnce => {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
            let all = api.ask("GET", &path, &Value::Null).await.unwrap();
            assert_eq!(all["items"].as_array().unwrap().len(), order.pods);
            gauge.answer(0);
        }
    }
}

fn is_changed(entry: &Entry) -> bool {
    let endpoint: WorkloadEndpoint = entry.decode().unwrap();
    endpoint.metadata.labels.get(TURN).is_some_and(|turn| *turn == format!("{TURN}-1"))
}

/// Measures the memory of this process.
struct Gauge {
    before: u64,
    start: Instant,
}

impl Gauge {
    fn start() -> Self {
        // proc(5): the peak becomes what is resident now.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        Self { before: resident("VmHWM:"), start: Instant::now() }
    }

    fn answer(&self, objects: usize) {
        let taken = Taken {
            memory: resident("VmHWM:") - self.before,
            objects: objects as u64,
            time: self.start.elapsed().as_millis(),
        };
        println!("{ANSWER}{}", serde_json::to_string(&taken).unwrap());
    }
}

/// A value of `/proc/self/status`, in bytes.
fn resident(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
