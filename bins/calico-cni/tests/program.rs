//! The program as a runtime starts it: environment, stdin, stdout, exit code; an agent in this
//! process answers.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use calico_cni::protocol::serve;
use calico_datastore::remote::LocalListener;
use common::{Node, addresses};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::oneshot;

/// A node whose agent serves; the socket goes with it.
struct Agent {
    node: Node,
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    async fn start() -> Self {
        let node = Node::new().await;
        let socket = node.directory.path().join("cni.sock");
        let listener = LocalListener::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let engine = Arc::clone(&node.engine);
        let task = tokio::spawn(serve(listener, engine, async move {
            let _ = stopped.await;
        }));
        Self { node, socket, stop: Some(stop), task }
    }

    async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        let task = &mut self.task;
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }

    /// A plugin of the real list from the field, with our socket.
    fn config(&self, version: &str) -> Value {
        json!({
            "type": "calico", "name": "k8s-pod-network", "cniVersion": version,
            "etcd_endpoints": "http://10.96.232.136:6666", "log_level": "info", "mtu": 1500,
            "ipam": { "type": "calico-ipam" },
            "policy": { "type": "k8s", "k8s_api_root": "https://10.96.0.1:443",
                        "k8s_auth_token": "<auth token>" },
            "kubernetes": { "kubeconfig": "/etc/cni/net.d/calico-kubeconfig" },
            "agent_socket": self.socket,
            "journal_dir": self.node.directory.path().join("journal"),
        })
    }
}

fn environment(command: &str, container: &str, netns: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_COMMAND", command.into()),
        ("CNI_CONTAINERID", container.into()),
        ("CNI_NETNS", netns.display().to_string()),
        ("CNI_IFNAME", "eth0".into()),
        ("CNI_PATH", "/opt/cni/bin".into()),
        ("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{container}")),
    ]
}

/// Runs the program called `name`; `Err` if its exit code is not 0.
async fn run_as(name: &str, variables: &[(&str, String)], stdin: &str) -> Result<String, Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calico-cni"))
        .arg0(name)
        .env_clear()
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // A program that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes()).await;
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output());
    let output = output.await.expect("the program hangs").unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing goes to stderr");
    let stdout = String::from_utf8(output.stdout).unwrap();
    if output.status.success() { Ok(stdout) } else { Err(serde_json::from_str(&stdout).unwrap()) }
}

async fn run(variables: &[(&str, String)], stdin: &str) -> Result<String, Value> {
    run_as("calico", variables, stdin).await
}

#[tokio::test]
async fn a_pod_comes_is_checked_and_goes() {
    let agent = Agent::start().await;
    let netns = agent.node.netns("ns");
    let conf = agent.config("0.4.0");
    let add = run(&environment("ADD", "a", &netns), &conf.to_string()).await.unwrap();
    let result: Value = serde_json::from_str(&add).unwrap();
    assert_eq!((addresses(&result).len(), &result["cniVersion"]), (1, &json!("0.4.0")));
    assert_eq!(result["ips"][0]["version"], "4");

    let after = common::with(conf, "prevResult", result);
    assert_eq!(run(&environment("CHECK", "a", &netns), &after.to_string()).await.unwrap(), "");
    assert_eq!(run(&environment("DEL", "a", &netns), &after.to_string()).await.unwrap(), "");
    assert_eq!(run(&environment("DEL", "unknown", &netns), &after.to_string()).await.unwrap(), "");
    agent.node.assert_clean().await;
}

#[tokio::test]
async fn called_as_calico_ipam_it_sees_to_addresses_only() {
    let agent = Agent::start().await;
    let netns = agent.node.netns("ns");
    let conf = agent.config("1.0.0");
    let ipam = async |command: &str, conf: &Value| {
        let variables = environment(command, "a", &netns);
        run_as("/opt/cni/bin/calico-ipam", &variables, &conf.to_string()).await
    };
    let result: Value = serde_json::from_str(&ipam("ADD", &conf).await.unwrap()).unwrap();
    assert_eq!(result["routes"][0]["dst"], addresses(&result)[0]);
    assert!(result.get("interfaces").is_none() && agent.node.endpoints().await.is_empty());
    let after = common::with(conf, "prevResult", result);
    assert_eq!(ipam("CHECK", &after).await.unwrap(), "");
    assert_eq!(ipam("DEL", &after).await.unwrap(), "");
    assert_eq!(ipam("CHECK", &after).await.unwrap_err()["code"], 102);
    agent.node.assert_clean().await;
}

#[tokio::test]
async fn version_gc_and_status_are_answered() {
    let agent = Agent::start().await;
    let only = |command: &str| vec![("CNI_COMMAND", command.to_owned())];
    let version = run(&only("VERSION"), r#"{"cniVersion":"1.0.0"}"#).await.unwrap();
    let version: Value = serde_json::from_str(&version).unwrap();
    let all = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    assert_eq!(version["supportedVersions"], json!(all));

    let conf = agent.config("1.1.0");
    assert_eq!(run(&only("STATUS"), &conf.to_string()).await.unwrap(), "");
    let netns = agent.node.netns("ns");
    run(&environment("ADD", "lost", &netns), &conf.to_string()).await.unwrap();
    let none = common::with(conf, "cni.dev/valid-attachments", json!([]));
    assert_eq!(run(&only("GC"), &none.to_string()).await.unwrap(), "");
    agent.node.assert_clean().await;
}

#[tokio::test]
async fn bad_input_gets_an_error_with_its_code_and_leaves_nothing() {
    let agent = Agent::start().await;
    let netns = agent.node.netns("ns");
    let good = environment("ADD", "a", &netns);
    let without =
        |name: &str| -> Vec<_> { good.iter().filter(|(key, _)| *key != name).cloned().collect() };
    let conf = agent.config("1.1.0");
    let text = conf.to_string();
    let future = common::with(conf.clone(), "cniVersion", json!("3.0.0")).to_string();
    let nameless = common::with(conf.clone(), "name", json!("")).to_string();
    type Variables<'v> = &'v [(&'static str, String)];
    let set = |key: &str, value: Value| common::with(conf.clone(), key, value).to_string();
    let wish = |value: Value| set("runtimeConfig", value);
    let as_pod = |name: &str, value: &str| {
        let mut variables = without(name);
        variables.push((name.to_owned().leak(), value.to_owned()));
        variables
    };
    let check = environment("CHECK", "a", &netns);
    let cases: [(Variables<'_>, &str, u64, &str); 24] = [
        (&good, "", 6, "JSON object"),
        (&good, "{\"name\":", 6, "EOF"),
        (&good, &future, 1, "3.0.0"),
        (&good, &nameless, 7, "no name"),
        (&without("CNI_COMMAND"), &text, 4, "CNI_COMMAND"),
        (&without("CNI_CONTAINERID"), &text, 4, "CNI_CONTAINERID is missing"),
        (&without("CNI_NETNS"), &text, 4, "CNI_NETNS is missing"),
        (&environment("ADD", "../../etc", &netns), &text, 4, "invalid"),
        (&environment("ADD", "a", Path::new("/run/netns/vanished")), &text, 3, "vanished"),
        (&environment("ADD", "a\n", &netns), &text, 4, "CNI_CONTAINERID"),
        (&as_pod("CNI_IFNAME", "sixteen-bytes-xx"), &text, 4, "at most 15 bytes"),
        (&as_pod("CNI_IFNAME", "a/b"), &text, 4, "CNI_IFNAME"),
        (&as_pod("CNI_ARGS", "K8S_POD_NAME"), &text, 4, "NAME=VALUE"),
        (&as_pod("CNI_ARGS", "IP=here"), &text, 7, "CNI_ARGS IP"),
        (&as_pod("CNI_NETNS", "relative/../path"), &text, 3, "relative"),
        (&good, &wish(json!({ "ips": ["10.0.0.256"] })), 7, "runtimeConfig.ips"),
        (&good, &wish(json!({ "mac": "01:00:5e:00:00:01" })), 7, "one station"),
        (&good, &wish(json!("ips")), 6, "runtimeConfig"),
        (&good, &set("readiness_gates", json!(["ftp://x"])), 2, "only http://"),
        (&good, &set("ipam", json!({ "type": "no-such" })), 2, "no such plugin"),
        (&check, &text, 7, "needs prevResult"),
        (&check, &set("prevResult", json!([1])), 6, "no JSON object"),
        (&check, &set("prevResult", json!({ "ips": [{ "address": "1.2.3" }] })), 6, "1.2.3"),
        (&environment("GC", "a", &netns), &text, 7, "valid-attachments"),
    ];
    for (variables, stdin, code, words) in cases {
        let error = run(variables, stdin).await.unwrap_err();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].is_string() && error.to_string().contains(words), "{error}");
        agent.node.assert_clean().await;
    }
}

#[tokio::test]
async fn without_an_agent_an_add_fails_and_a_del_is_noted() {
    let mut agent = Agent::start().await;
    let netns = agent.node.netns("ns");
    let conf = agent.config("1.1.0").to_string();
    run(&environment("ADD", "a", &netns), &conf).await.unwrap();
    agent.stop().await;
    let error = run(&environment("ADD", "b", &netns), &conf).await.unwrap_err();
    assert_eq!(error["code"], 11);
    assert!(error["details"].as_str().unwrap().contains("cni.sock"), "{error}");
    let error = run(&[("CNI_COMMAND", "STATUS".into())], &conf).await.unwrap_err();
    assert_eq!(error["code"], 50);

    // The file that stands for a namespace here is none, so no interface is touched.
    assert_eq!(run(&environment("DEL", "a", &netns), &conf).await.unwrap(), "");
    assert_eq!(agent.node.engine.replay().await.unwrap().done, 1);
    agent.node.assert_clean().await;
}

#[tokio::test]
async fn an_agent_that_goes_away_in_the_middle_is_told() {
    let node = Node::new().await;
    let socket = node.directory.path().join("cni.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        // Takes the request and hangs up.
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
    });
    let conf = json!({ "name": "net", "cniVersion": "1.0.0", "agent_socket": socket });
    let variables = environment("ADD", "a", &node.netns("ns"));
    let error = run(&variables, &conf.to_string()).await.unwrap_err();
    assert_eq!(error["code"], 11);
    thread.join().unwrap();
}

#[tokio::test]
async fn the_agent_survives_garbage() {
    let agent = Agent::start().await;
    let socket = agent.socket.clone();
    tokio::task::spawn_blocking(move || {
        let huge = u32::MAX.to_be_bytes();
        let no_json = [&4_u32.to_be_bytes()[..], b"what"].concat();
        let half = [0, 0];
        for garbage in [&huge[..], &no_json, &half] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(garbage).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            if garbage != half {
                assert!(String::from_utf8_lossy(&answer).contains(r#"\"code\":6"#), "{answer:?}");
            }
        }
    })
    .await
    .unwrap();
    let conf = agent.config("1.1.0").to_string();
    assert!(run(&[("CNI_COMMAND", "STATUS".into())], &conf).await.is_ok());
}
