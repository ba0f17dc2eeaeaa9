//! A node on the real kernel: a network namespace, an embedded store, and the program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_cni::engine::{Engine, Journal, NetlinkPods, NoPolicy, Options, Parts};
use calico_cni::protocol::serve;
use calico_core::key::{Key, Scope};
use calico_core::{Datastore, Kind};
use calico_datastore::EmbeddedStore;
use calico_datastore::remote::LocalListener;
use calico_ipam::Ipam;
use calico_netlink::testing::TestNet;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::with;

/// A node's namespace and what is on its disk.
pub struct Machine {
    pub net: TestNet,
    pub directory: TempDir,
}

impl Machine {
    pub fn new() -> Option<Self> {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A configuration without agent.
    pub fn direct(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "net", "type": "calico", "nodename": "node1",
            "mtu": 1400, "ipam": { "type": "calico-ipam", "assign_ipv6": "true" },
            "datastore_path": self.path("store"), "journal_dir": self.path("journal"),
        })
    }

    pub fn through_agent(&self) -> Value {
        let mut config = with(self.direct(), "agent_socket", json!(self.path("cni.sock")));
        config.as_object_mut().unwrap().remove("datastore_path");
        config
    }

    pub fn cni(
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
    pub fn with_agent<T: Send>(&self, while_up: impl FnOnce() -> T + Send) -> T {
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

    pub fn engine(&self) -> Arc<Engine> {
        self.engine_after(Duration::ZERO)
    }

    /// An engine for which it is later.
    pub fn engine_after(&self, time: Duration) -> Arc<Engine> {
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

    pub fn interfaces(&self) -> Vec<String> {
        let text = self.net.output("ip", &["-o", "link"]);
        let name = |line: &str| line.split([':', '@']).nth(1).unwrap().trim().to_owned();
        text.lines().map(name).filter(|name| name != "lo").collect()
    }

    /// Sees that nothing of any container is left, in the kernel or in the store.
    pub fn assert_clean(&self) {
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

pub fn pings(pod: &TestNet) {
    for target in ["192.0.2.1", "2001:db8::1"] {
        assert!(pod.pings(target.parse().unwrap(), 3), "the pod cannot reach {target}");
    }
}
