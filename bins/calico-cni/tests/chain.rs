//! A configuration list as runtimes carry it out: our plugin, then Debian's `bandwidth`, `portmap`
//! and `tuning`, each given what those before it answered.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use calico_netlink::testing::TestNet;
use common::machine::{Machine, pings};
use common::{addresses, with};
use serde_json::{Map, Value, json};

const PLUGINS: &str = "/usr/lib/cni";
/// Of the node.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST_PORT: u16 = 18_080;

/// What a runtime does with a configuration list (specification, section 3).
struct Runtime<'a> {
    node: &'a Machine,
    list: Vec<Value>,
    version: &'static str,
    directory: PathBuf,
    /// What the runtime passes to plugins that ask for a capability.
    arguments: Value,
}

impl<'a> Runtime<'a> {
    fn new(node: &'a Machine, version: &'static str, list: Vec<Value>, arguments: Value) -> Self {
        let directory = node.path("bin");
        std::fs::create_dir_all(&directory).unwrap();
        symlink(env!("CARGO_BIN_EXE_calico-cni"), directory.join("calico")).unwrap();
        for plugin in ["bandwidth", "portmap", "tuning"] {
            let installed = Path::new(PLUGINS).join(plugin);
            assert!(
                installed.exists(),
                "{} is missing: apt-get install containernetworking-plugins",
                installed.display()
            );
            symlink(installed, directory.join(plugin)).unwrap();
        }
        Self { node, list, version, directory, arguments }
    }

    /// Every plugin in order; the last answer.
    fn add(&self, container: &str, pod: &TestNet) -> Result<Value, Value> {
        let mut previous = Value::Null;
        for plugin in &self.list {
            previous = self.call("ADD", plugin, container, pod, &previous)?;
        }
        Ok(previous)
    }

    /// Every plugin but Debian's portmap (1.1.1), which looks for the rules of IPv4 among those of
    /// IPv6, too, and so fails whatever it finds.
    fn check(&self, container: &str, pod: &TestNet, added: &Value) -> Result<(), Value> {
        for plugin in self.list.iter().filter(|plugin| plugin["type"] != "portmap") {
            self.call("CHECK", plugin, container, pod, added)?;
        }
        Ok(())
    }

    fn del(&self, container: &str, pod: &TestNet, added: &Value) -> Result<(), Value> {
        for plugin in self.list.iter().rev() {
            self.call("DEL", plugin, container, pod, added)?;
        }
        Ok(())
    }

    fn call(
        &self,
        verb: &str,
        plugin: &Value,
        container: &str,
        pod: &TestNet,
        previous: &Value,
    ) -> Result<Value, Value> {
        let mut config = plugin.clone();
        (config["name"], config["cniVersion"]) = ("net".into(), self.version.into());
        let capabilities = plugin["capabilities"].as_object().cloned().unwrap_or_default();
        let asked = |(name, on): (&String, &Value)| {
            let value = self.arguments.get(name).filter(|_| on == &json!(true))?;
            Some((name.clone(), value.clone()))
        };
        let passed: Map<String, Value> = capabilities.iter().filter_map(asked).collect();
        if !passed.is_empty() {
            config["runtimeConfig"] = passed.into();
        }
        config.as_object_mut().unwrap().remove("capabilities");
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        self.run(verb, &config, container, pod)
    }

    fn run(
        &self,
        verb: &str,
        config: &Value,
        container: &str,
        pod: &TestNet,
    ) -> Result<Value, Value> {
        let program = self.directory.join(config["type"].as_str().unwrap());
        let output = self.node.net.run(|| {
            let mut child = Command::new(&program)
                .env_clear()
                // portmap runs iptables.
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", container)])
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", &self.directory)
                .env("CNI_NETNS", pod.netns().path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let text = String::from_utf8(output.stdout).unwrap();
        let value = serde_json::from_str(&text).unwrap_or_default();
        let plugin = config["type"].as_str().unwrap();
        if output.status.success() { Ok(value) } else { Err(json!({ plugin: value })) }
    }
}

/// Whether somebody in the pod answers at the node's port.
fn answers(node: &Machine, pod: &TestNet) -> bool {
    let listener = pod.run(|| TcpListener::bind(("0.0.0.0", 80)).unwrap());
    listener.set_nonblocking(true).unwrap();
    let target = SocketAddr::new(IpAddr::V4(OUTSIDE), HOST_PORT);
    let connected = node.net.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(20)));
    let Ok(mut client) = connected else { return false };
    // It is established, so the listener has it.
    listener.set_nonblocking(false).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"from the pod").unwrap();
    drop(server);
    let mut text = String::new();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.read_to_string(&mut text).unwrap();
    text == "from the pod"
}

fn chain(node: &Machine) -> Vec<Value> {
    let mut ours = node.direct();
    for key in ["name", "cniVersion"] {
        ours.as_object_mut().unwrap().remove(key);
    }
    vec![
        ours,
        json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
        json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }),
        json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "517" } }),
    ]
}

fn arguments() -> Value {
    json!({
        "portMappings": [{ "hostPort": HOST_PORT, "containerPort": 80, "protocol": "tcp" }],
        "bandwidth": {
            "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
            "egressRate": 40_000_000, "egressBurst": 8_000_000,
        },
    })
}

#[test]
fn plugins_after_ours_find_what_they_need_and_leave_nothing() {
    let (Some(node), Some(pod)) = (Machine::new(), TestNet::new("pod")) else { return };
    let runtime = Runtime::new(&node, "1.0.0", chain(&node), arguments());
    let added = runtime.add("0f3c", &pod).unwrap();
    // The chain hands our answer on.
    let names: Vec<_> = (0..2).map(|nth| added["interfaces"][nth]["name"].as_str()).collect();
    assert_eq!(names, [Some("cali0f3c"), Some("eth0")], "{added}");
    assert_eq!(addresses(&added).len(), 2, "{added}");
    pings(&pod);
    assert_eq!(pod.output("cat", &["/proc/sys/net/core/somaxconn"]).trim(), "517");
    let queues = node.net.output("tc", &["qdisc", "show"]);
    assert!(queues.contains("rate 80Mbit") && queues.contains("rate 40Mbit"), "{queues}");
    assert!(answers(&node, &pod), "nobody answers at the port of the node");

    runtime.check("0f3c", &pod, &added).unwrap();
    // Each sees what became of its own.
    pod.output("sysctl", &["-qw", "net.core.somaxconn=99"]);
    let error = runtime.check("0f3c", &pod, &added).unwrap_err();
    assert!(error.get("tuning").is_some(), "{error}");
    pod.output("ip", &["address", "flush", "dev", "eth0"]);
    let error = runtime.check("0f3c", &pod, &added).unwrap_err();
    assert!(error.get("calico").is_some(), "{error}");

    runtime.del("0f3c", &pod, &added).unwrap();
    runtime.del("0f3c", &pod, &added).unwrap();
    assert!(!answers(&node, &pod), "the port is still open");
    let rules = node.net.output("iptables-save", &["-t", "nat"]);
    assert!(!rules.contains("0f3c"), "{rules}");
    node.assert_clean();

    // A plugin after ours fails: the runtime deletes the attachment, as the specification says.
    let mut broken = chain(&node);
    broken[3]["sysctl"] = json!({ "net.core.no_such_thing": "1" });
    let broken = Runtime { list: broken, ..runtime };
    let error = broken.add("0f3d", &pod).unwrap_err();
    assert!(error.get("tuning").is_some(), "{error}");
    broken.del("0f3d", &pod, &Value::Null).unwrap();
    node.assert_clean();
}

#[test]
fn our_own_bandwidth_needs_no_other_plugin() {
    let (Some(node), Some(pod)) = (Machine::new(), TestNet::new("pod")) else { return };
    let mut list = chain(&node);
    list.truncate(1);
    list[0]["capabilities"] = json!({ "bandwidth": true });
    let runtime = Runtime::new(&node, "1.0.0", list, arguments());
    let added = runtime.add("0f3c", &pod).unwrap();
    let queues = node.net.output("tc", &["qdisc", "show"]);
    assert!(queues.contains("tbf ca11: dev cali0f3c root"), "{queues}");
    assert!(queues.contains("rate 80Mbit") && queues.contains("rate 40Mbit"), "{queues}");
    pings(&pod);
    runtime.check("0f3c", &pod, &added).unwrap();
    runtime.del("0f3c", &pod, &added).unwrap();
    node.assert_clean();
}

/// With the verbs of version 1.1.0, which Debian's plugins do not know yet.
#[test]
fn what_the_runtime_no_longer_knows_is_collected() {
    let (Some(node), Some(kept)) = (Machine::new(), TestNet::new("pod")) else { return };
    let Some(lost) = TestNet::new("pod") else { return };
    let mut list = chain(&node);
    list.truncate(1);
    list[0]["capabilities"] = json!({ "bandwidth": true });
    let runtime = Runtime::new(&node, "1.1.0", list.clone(), arguments());
    let added = runtime.add("0f3c", &kept).unwrap();
    runtime.add("0f3d", &lost).unwrap();
    let named = with(with(list[0].clone(), "name", json!("net")), "cniVersion", json!("1.1.0"));
    runtime.run("STATUS", &named, "", &kept).unwrap();
    let valid = json!([{ "containerID": "0f3c", "ifname": "eth0" }]);
    let collect = with(named, "cni.dev/valid-attachments", valid);
    runtime.run("GC", &collect, "", &kept).unwrap();
    // One veth, and the queue of what it sends.
    let interfaces = node.interfaces();
    assert_eq!(interfaces.len(), 2, "{interfaces:?}");
    assert!(interfaces.contains(&"cali0f3c".to_owned()), "{interfaces:?}");
    pings(&kept);
    runtime.check("0f3c", &kept, &added).unwrap();
    runtime.del("0f3c", &kept, &added).unwrap();
    node.assert_clean();
}
