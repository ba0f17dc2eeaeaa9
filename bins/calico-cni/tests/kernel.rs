//! The program and the kernel: real interfaces in fresh network namespaces.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_cni::engine::{Engine, Journal, NetlinkPods, NoPolicy, Options, Parts, Verdict};
use calico_cni::protocol::serve;
use calico_core::key::{Key, Scope};
use calico_core::{Datastore, Kind};
use calico_datastore::EmbeddedStore;
use calico_datastore::remote::LocalListener;
use calico_ipam::Ipam;
use calico_netlink::testing::TestNet;
use common::{addresses, with};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A node's namespace and what is on its disk.
struct Node {
    net: TestNet,
    directory: TempDir,
}

impl Node {
    fn new() -> Option<Self> {
        let net = TestNet::new("node")?;
        // Something outside of the pods to talk to.
        net.output("ip", &["address", "add", "192.0.2.1/32", "dev", "lo"]);
        net.output("ip", &["address", "add", "2001:db8::1/128", "dev", "lo", "nodad"]);
        let node = Self { net, directory: tempfile::tempdir().unwrap() };
        let store = EmbeddedStore::open(node.path("store")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (name, cidr) in [("four", "10.65.0.0/24"), ("six", "fd00:65::/112")] {
            let pool = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"cidr":"{cidr}"}}}}"#);
            let key = Key::resource(Kind::IpPool, None, name);
            runtime.block_on(store.create(key, pool.into())).unwrap();
        }
        Some(node)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A configuration without agent.
    fn direct(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "net", "type": "calico", "nodename": "node1",
            "mtu": 1400, "ipam": { "type": "calico-ipam", "assign_ipv6": "true" },
            "datastore_path": self.path("store"), "journal_dir": self.path("journal"),
        })
    }

    fn through_agent(&self) -> Value {
        let mut config = with(self.direct(), "agent_socket", json!(self.path("cni.sock")));
        config.as_object_mut().unwrap().remove("datastore_path");
        config
    }

    fn cni(
        &self,
        verb: &str,
        config: &Value,
        container: &str,
        netns: &Path,
    ) -> Result<Value, Value> {
        let output = self.net.run(|| {
            let mut child = Command::new(env!("CARGO_BIN_EXE_calico-cni"))
                .env_clear()
                .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", container)])
                .envs([("CNI_IFNAME", "eth0"), ("CNI_PATH", "/usr/lib/cni")])
                .env("CNI_NETNS", netns)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let text = String::from_utf8(output.stdout).unwrap();
        let value = serde_json::from_str(&text).unwrap_or_default();
        if output.status.success() { Ok(value) } else { Err(value) }
    }

    /// Runs `while_up` with an agent that serves on this node.
    fn with_agent<T: Send>(&self, while_up: impl FnOnce() -> T + Send) -> T {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.net.run(|| {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let listener = LocalListener::bind(self.path("cni.sock")).unwrap();
                        let engine = self.engine();
                        engine.replay().await.unwrap();
                        ready.send(()).unwrap();
                        serve(listener, engine, async {
                            let _ = stopped.await;
                        })
                        .await;
                    });
                });
            });
            is_ready.recv_timeout(Duration::from_secs(10)).unwrap();
            let result = while_up();
            stop.send(()).unwrap();
            result
        })
    }

    fn engine(&self) -> Arc<Engine> {
        self.engine_after(Duration::ZERO)
    }

    /// An engine for which it is later.
    fn engine_after(&self, time: Duration) -> Arc<Engine> {
        let store: Arc<dyn Datastore> = Arc::new(EmbeddedStore::open(self.path("store")).unwrap());
        Arc::new(Engine::new(Parts {
            node: "node1".into(),
            ipam: Ipam::new(Arc::clone(&store), calico_ipam::Options::default()),
            store,
            network: Arc::new(NetlinkPods),
            policy: Arc::new(NoPolicy),
            journal: Journal::new(self.path("journal")),
            options: Options {
                clock: Arc::new(move || SystemTime::now() + time),
                ..Options::default()
            },
        }))
    }

    fn interfaces(&self) -> Vec<String> {
        let text = self.net.output("ip", &["-o", "link"]);
        let name = |line: &str| line.split([':', '@']).nth(1).unwrap().trim().to_owned();
        text.lines().map(name).filter(|name| name != "lo").collect()
    }

    /// Sees that nothing of any container is left, in the kernel or in the store.
    fn assert_clean(&self) {
        assert_eq!(self.interfaces(), [] as [&str; 0]);
        for family in ["-4", "-6"] {
            let routes = self.net.output("ip", &[family, "route"]);
            assert!(!routes.contains("cali"), "{routes}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = EmbeddedStore::open(self.path("store")).unwrap();
            for scope in [Scope::Handles, Scope::Kind(Kind::WorkloadEndpoint)] {
                assert_eq!(store.list(&scope).await.unwrap().entries, []);
            }
            let ipam = Ipam::new(Arc::new(store), calico_ipam::Options::default());
            let left = ipam.blocks().await.unwrap();
            assert!(left.iter().all(|block| block.allocations.is_empty()), "{left:?}");
        });
        assert_eq!(Journal::new(self.path("journal")).pending().unwrap().0.len(), 0);
    }
}

fn pings(pod: &TestNet) {
    for target in ["192.0.2.1", "2001:db8::1"] {
        assert!(pod.pings(target.parse().unwrap(), 3), "the pod cannot reach {target}");
    }
}

#[test]
fn without_an_agent_a_pod_gets_its_network_and_loses_it() {
    let (Some(node), Some(pod)) = (Node::new(), TestNet::new("pod")) else { return };
    let netns = pod.netns().path();
    let config = node.direct();
    let result = node.cni("ADD", &config, "0f3c", netns).unwrap();
    assert_eq!(result["interfaces"][0]["name"], "cali0f3c");
    assert_eq!(result["interfaces"][1]["mtu"], 1400);
    let shown = pod.output("ip", &["address", "show", "dev", "eth0"]);
    for address in addresses(&result) {
        assert!(shown.contains(&address), "{shown}");
        let bare = address.split('/').next().unwrap();
        let family = if bare.contains(':') { "-6" } else { "-4" };
        let routes = node.net.output("ip", &[family, "route"]);
        assert!(routes.contains(&format!("{bare} dev cali0f3c")), "{routes}");
    }
    assert!(shown.contains(result["interfaces"][1]["mac"].as_str().unwrap()), "{shown}");
    pings(&pod);

    let same = node.cni("ADD", &config, "0f3c", netns).unwrap();
    assert_eq!(same, result, "a repeated ADD");
    let after = with(config, "prevResult", result);
    node.cni("CHECK", &after, "0f3c", netns).unwrap();
    pod.output("ip", &["address", "flush", "dev", "eth0"]);
    assert_eq!(node.cni("CHECK", &after, "0f3c", netns).unwrap_err()["code"], 102);
    node.cni("DEL", &after, "0f3c", netns).unwrap();
    node.cni("DEL", &after, "0f3c", netns).unwrap();
    node.assert_clean();
}

#[test]
fn a_deletion_without_the_agent_removes_the_interface_and_is_finished_by_the_next() {
    let (Some(node), Some(pod)) = (Node::new(), TestNet::new("pod")) else { return };
    let netns = pod.netns().path();
    let config = node.through_agent();
    node.with_agent(|| {
        node.cni("ADD", &config, "0f3c", netns).unwrap();
        pings(&pod);
    });
    assert_eq!(node.interfaces(), ["cali0f3c"], "the network outlives the agent");
    pings(&pod);
    node.cni("DEL", &config, "0f3c", netns).unwrap();
    assert_eq!(node.interfaces(), [] as [&str; 0]);
    node.with_agent(|| ());
    node.assert_clean();
}

#[test]
fn a_vanished_namespace_is_no_obstacle() {
    let (Some(node), Some(pod)) = (Node::new(), TestNet::new("pod")) else { return };
    let netns = pod.netns().path().to_owned();
    let config = node.direct();
    node.cni("ADD", &config, "0f3c", &netns).unwrap();
    drop(pod);
    node.cni("DEL", &config, "0f3c", &netns).unwrap();
    node.assert_clean();
    assert_eq!(node.cni("ADD", &config, "0f3c", &netns).unwrap_err()["code"], 3);
    node.assert_clean();
}

#[test]
fn what_is_in_the_way_is_told_and_left_alone() {
    let (Some(node), Some(pod)) = (Node::new(), TestNet::new("pod")) else { return };
    // Somebody else's interface has the name.
    node.net.output("ip", &["link", "add", "cali0f3c", "type", "bridge"]);
    let error = node.cni("ADD", &node.direct(), "0f3c", pod.netns().path()).unwrap_err();
    assert_eq!(error["code"], 102, "{error}");
    assert!(error["details"].as_str().unwrap().contains("cali0f3c"), "{error}");
    assert_eq!(node.interfaces(), ["cali0f3c"]);
    node.net.output("ip", &["link", "delete", "cali0f3c"]);
    node.assert_clean();

    // The host's own namespace is not a container's.
    let own = node.net.netns().path();
    let error = node.cni("ADD", &node.direct(), "0f3c", own).unwrap_err();
    assert_eq!(error["code"], 7, "{error}");
    node.net.output("ip", &["link", "add", "eth0", "type", "bridge"]);
    node.cni("DEL", &node.direct(), "0f3c", own).unwrap();
    assert_eq!(node.interfaces(), ["eth0"], "a DEL took the host's interface");
}

#[test]
fn twenty_pods_at_once_come_and_go() {
    let Some(node) = Node::new() else { return };
    let pods: Option<Vec<TestNet>> = (0..20).map(|_| TestNet::new("pod")).collect();
    let Some(pods) = pods else { return };
    let config = node.through_agent();
    node.with_agent(|| {
        let all = |verb: &'static str| {
            std::thread::scope(|scope| {
                let threads: Vec<_> = pods
                    .iter()
                    .enumerate()
                    .map(|(nth, pod)| {
                        let (node, config) = (&node, &config);
                        let container = format!("c{nth}");
                        scope.spawn(move || node.cni(verb, config, &container, pod.netns().path()))
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap().unwrap())
                    .collect::<Vec<_>>()
            })
        };
        let results = all("ADD");
        let unique: std::collections::BTreeSet<_> = results.iter().flat_map(addresses).collect();
        assert_eq!(unique.len(), 40);
        pods.iter().for_each(pings);
        all("DEL");
    });
    node.assert_clean();
}

#[test]
fn addresses_of_host_local_come_and_go() {
    let (Some(node), Some(pod)) = (Node::new(), TestNet::new("pod")) else { return };
    let data = node.path("host-local");
    let ipam = json!({
        "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": data,
        "routes": [{ "dst": "192.0.2.0/24" }],
    });
    // The newest version that Debian's plugin knows.
    let config = with(with(node.direct(), "ipam", ipam), "cniVersion", json!("1.0.0"));
    let given = || {
        let entries = std::fs::read_dir(data.join("net")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("10.")).collect::<Vec<_>>()
    };
    let netns = pod.netns().path();
    let result = node.cni("ADD", &config, "0f3c", netns).unwrap();
    assert_eq!(addresses(&result), ["10.99.0.2/32"]);
    assert_eq!(given(), ["10.99.0.2"]);
    assert!(pod.pings("192.0.2.1".parse().unwrap(), 3));
    let routes = pod.output("ip", &["route"]);
    assert!(routes.contains("192.0.2.0/24") && !routes.contains("default"), "{routes}");
    node.cni("CHECK", &with(config.clone(), "prevResult", result), "0f3c", netns).unwrap();
    node.cni("DEL", &config, "0f3c", netns).unwrap();
    assert_eq!(given(), [""; 0]);

    // With the default routes as well.
    let all = with(config.clone(), "include_default_routes", json!(true));
    node.cni("ADD", &all, "0f3d", netns).unwrap();
    assert!(pod.output("ip", &["route"]).contains("default via 169.254.1.1"));
    node.cni("DEL", &all, "0f3d", netns).unwrap();

    // An ADD that fails gives the address back.
    let error = node.cni("ADD", &config, "0f3e", Path::new("/run/netns/none")).unwrap_err();
    assert_eq!((error["code"].as_u64(), given().len()), (Some(3), 0), "{error}");
    for (ipam, words) in [
        (json!({ "type": "host-local", "subnet": "usePodCidr" }), "usePodCidr"),
        (json!({ "type": "no-such-plugin" }), "no such plugin"),
        (json!({ "type": "../../bin/sh" }), "not a path"),
        (json!({ "type": "host-local", "subnet": "nonsense" }), "host-local failed"),
    ] {
        let bad = with(config.clone(), "ipam", ipam);
        let error = node.cni("ADD", &bad, "0f3f", netns).unwrap_err();
        assert!(error["code"].is_u64() && error.to_string().contains(words), "{error}");
    }
    node.assert_clean();
}

#[test]
fn after_a_reboot_addresses_come_back_and_those_in_use_stay() {
    let (Some(node), Some(lost)) = (Node::new(), TestNet::new("pod")) else { return };
    let Some(alive) = TestNet::new("pod") else { return };
    let config = node.direct();
    node.cni("ADD", &config, "lost", lost.netns().path()).unwrap();
    node.cni("ADD", &config, "alive", alive.netns().path()).unwrap();
    // The namespace goes, and with it the interface; no DEL ever comes.
    drop(lost);
    for _ in 0..500 {
        // The kernel takes its time.
        if node.interfaces() == ["calialive"] {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let found = node.net.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(node.engine_after(Duration::from_secs(3600)).reconcile(false)).unwrap()
    });
    let verdicts: Vec<_> = found.suspects.iter().map(|s| (s.handle.as_str(), &s.verdict)).collect();
    assert_eq!(verdicts, [("net.lost", &Verdict::Freed)], "{found:?}");
    pings(&alive);
    assert_eq!(node.interfaces(), ["calialive"]);
    node.cni("DEL", &config, "alive", alive.netns().path()).unwrap();
    node.assert_clean();
}
