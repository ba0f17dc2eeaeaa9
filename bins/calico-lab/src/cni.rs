//! The lab as a container runtime: it runs the plugins of a configuration list, by the CNI
//! specification's protocol of environment and stdin.
//!
//! A real runtime comes with the tests of calico-cni; here the protocol itself is enough, and
//! what a plugin was asked and answered can be shown.

use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::error::LabError;
use crate::topology::Pod;
use crate::{netns, programs};

/// Where Debian's containernetworking-plugins puts its plugins.
const SYSTEM_PLUGINS: &str = "/usr/lib/cni";
/// Interface of every pod.
pub const INTERFACE: &str = "eth0";
/// How long one plugin may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a runtime says to the plugins about one pod.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub(crate) container: String,
    /// Namespace that the plugins run in: the node's.
    pub(crate) node_namespace: String,
    /// Namespace of the pod.
    pub(crate) namespace: String,
    /// The pod.
    pub(crate) pod: Pod,
    /// Its UID, if it is one of Kubernetes: its labels then are known from there.
    pub(crate) uid: Option<String>,
}

/// What an ADD gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// Interface of the node that leads to the pod.
    pub host_interface: String,
    /// The whole result, for DEL and CHECK.
    pub(crate) result: Value,
}

/// A network: its configuration list and where the plugins are.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    list: Value,
    path: Vec<PathBuf>,
}

impl Network {
    /// The list of a node, whose agent has its sockets in `run_dir`. `plugins` is a directory for
    /// the names under which calico-cni is called.
    pub(crate) fn of_node(
        node: &str,
        run_dir: &Path,
        plugins: PathBuf,
        v4: bool,
        v6: bool,
    ) -> Result<Self, LabError> {
        let list = json!({
            "name": "k8s-pod-network",
            "cniVersion": "0.3.0",
            "plugins": [
                {
                    "type": "calico",
                    "log_level": "info",
                    "nodename": node,
                    "mtu": 0,
                    "agent_socket": run_dir.join("cni.sock"),
                    "ipam": {
                        "type": "calico-ipam",
                        "assign_ipv4": v4.to_string(),
                        "assign_ipv6": v6.to_string(),
                    },
                    "policy": { "type": "k8s" },
                },
                { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
            ],
        });
        let program = programs::own("calico-cni")?;
        fs::create_dir_all(&plugins).map_err(LabError::file("make", &plugins))?;
        for name in ["calico", "calico-ipam"] {
            let link = plugins.join(name);
            if !link.exists() {
                symlink(&program, &link).map_err(LabError::file("link", &link))?;
            }
        }
        Ok(Self { list, path: vec![plugins, SYSTEM_PLUGINS.into()] })
    }

    /// The list, for people.
    pub(crate) const fn list(&self) -> &Value {
        &self.list
    }

    /// Runs ADD through the list, each plugin with the result of the one before.
    pub(crate) async fn add(&self, sandbox: &Sandbox) -> Result<Attachment, LabError> {
        let mut result = None;
        for plugin in self.plugins() {
            let answer = self.call("ADD", plugin, result.as_ref(), sandbox).await?;
            let parsed = serde_json::from_slice(&answer);
            result = Some(parsed.map_err(|error| {
                let text = String::from_utf8_lossy(&answer);
                fault("ADD", sandbox, plugin, format!("its result is no JSON ({error}): {text}"))
            })?);
        }
        let result: Value = result.unwrap_or_default();
        let attachment = Attachment {
            addresses: addresses(&result),
            host_interface: host_interface(&result).unwrap_or_default(),
            result,
        };
        if attachment.addresses.is_empty() {
            let reason = format!("the result has no address: {}", attachment.result);
            return Err(fault(
                "ADD",
                sandbox,
                self.plugins().next().unwrap_or(&Value::Null),
                reason,
            ));
        }
        Ok(attachment)
    }

    /// Runs DEL through the list, backwards, as the specification wants it.
    pub(crate) async fn delete(
        &self,
        sandbox: &Sandbox,
        attachment: Option<&Attachment>,
    ) -> Result<(), LabError> {
        let plugins: Vec<&Value> = self.plugins().collect();
        for plugin in plugins.into_iter().rev() {
            let previous = attachment.map(|attachment| &attachment.result);
            self.call("DEL", plugin, previous, sandbox).await?;
        }
        Ok(())
    }

    fn plugins(&self) -> impl Iterator<Item = &Value> {
        self.list["plugins"].as_array().into_iter().flatten()
    }

    /// What the plugin reads: its part of the list with the list's name and version, the result
    /// so far, and what of the pod concerns its capabilities.
    fn input(&self, plugin: &Value, previous: Option<&Value>, sandbox: &Sandbox) -> Value {
        let (pod, uid_known) = (&sandbox.pod, sandbox.uid.is_some());
        let mut input = plugin.as_object().cloned().unwrap_or_else(Map::new);
        input.remove("capabilities");
        for key in ["name", "cniVersion"] {
            input.insert(key.to_owned(), self.list[key].clone());
        }
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        if uid_known {
            return Value::Object(input);
        }
        // Labels have no place in the specification; its conventions give them this one
        // (CONVENTIONS.md, "labels").
        let labels: Vec<Value> =
            pod.labels.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        input.insert("args".to_owned(), json!({ "cni": { "labels": labels } }));
        Value::Object(input)
    }

    async fn call(
        &self,
        verb: &'static str,
        plugin: &Value,
        previous: Option<&Value>,
        sandbox: &Sandbox,
    ) -> Result<Vec<u8>, LabError> {
        let failed = |reason| fault(verb, sandbox, plugin, reason);
        let name = plugin["type"].as_str().unwrap_or_default();
        let program = self.path.iter().map(|it| it.join(name)).find(|it| it.exists());
        let program = program.ok_or_else(|| {
            failed(format!(
                "no such program; run `apt-get install {}`",
                "containernetworking-plugins"
            ))
        })?;
        let path: Vec<_> = self.path.iter().map(|it| it.to_string_lossy()).collect();
        let pod = &sandbox.pod;
        let mut args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
            pod.namespace, pod.name, sandbox.container
        );
        if let Some(uid) = &sandbox.uid {
            args.push_str(&format!(";K8S_POD_UID={uid}"));
        }
        let mut child = tokio::process::Command::new("ip")
            .args(["netns", "exec", &sandbox.node_namespace])
            .arg(program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.container)
            .env("CNI_NETNS", netns::path(&sandbox.namespace))
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", args)
            .env("CNI_PATH", path.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let input = self.input(plugin, previous, sandbox).to_string();
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read its input says why in its answer.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = timeout(PATIENCE, child.wait_with_output()).await;
        let output = output
            .map_err(|_elapsed| failed(format!("no answer within {} s", PATIENCE.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(failed(error_of(&output)))
    }
}

/// A fresh container id: 64 hexadecimal digits, as runtimes make them.
pub(crate) fn container_id() -> Result<String, LabError> {
    const SOURCE: &str = "/dev/urandom";
    let mut bytes = [0; 32];
    fs::File::open(SOURCE)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(LabError::file("read", SOURCE))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn fault(verb: &'static str, sandbox: &Sandbox, plugin: &Value, reason: String) -> LabError {
    let plugin = plugin["type"].as_str().unwrap_or("?").to_owned();
    LabError::Cni { verb, pod: sandbox.pod.id(), plugin, reason }
}

/// The error object that a plugin prints, or else its last words.
fn error_of(output: &std::process::Output) -> String {
    let error: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&output.stderr);
    match (error["code"].as_i64(), error["msg"].as_str()) {
        (Some(code), Some(message)) => {
            let details = error["details"].as_str().unwrap_or_default();
            let separator = if details.is_empty() { "" } else { ": " };
            format!("code {code}: {message}{separator}{details}")
        }
        _ => format!("{}: {}", output.status, stderr.trim()),
    }
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.parse::<IpNet>().ok()).map(|ip| ip.addr()).collect()
}

/// The first interface without a sandbox is the node's side.
fn host_interface(result: &Value) -> Option<String> {
    let interfaces = result["interfaces"].as_array()?.iter();
    let mut host = interfaces.filter(|it| it["sandbox"].as_str().unwrap_or_default().is_empty());
    host.next()?["name"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        Network {
            list: json!({
                "name": "net", "cniVersion": "0.3.0",
                "plugins": [{ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }],
            }),
            path: Vec::new(),
        }
    }

    fn pod() -> Pod {
        let text = "name: t\nnodes: [{ name: n, addresses: [10.0.0.1/8] }]\n\
                    pools: [{ name: p, cidr: 192.168.0.0/16 }]\n\
                    pods: [{ name: a, node: n, labels: { app: web } }]";
        crate::topology::Topology::parse("test", text).unwrap().pods.remove(0)
    }

    #[test]
    fn a_plugin_reads_its_part_and_the_result_so_far() {
        let network = network();
        let plugin = network.plugins().next().unwrap();
        let mut sandbox = Sandbox {
            container: "c".into(),
            node_namespace: "n".into(),
            namespace: "p".into(),
            pod: pod(),
            uid: None,
        };
        let input = network.input(plugin, Some(&json!({ "ips": [] })), &sandbox);
        assert_eq!(
            input,
            json!({
                "type": "portmap", "snat": true, "name": "net", "cniVersion": "0.3.0",
                "prevResult": { "ips": [] },
                "args": { "cni": { "labels": [{ "key": "app", "value": "web" }] } },
            })
        );
        sandbox.uid = Some("u".to_owned());
        assert!(network.input(plugin, None, &sandbox).get("args").is_none());
    }

    #[test]
    fn a_result_is_read() {
        let result = json!({
            "interfaces": [{ "name": "cali1" }, { "name": "eth0", "sandbox": "/run/netns/x" }],
            "ips": [{ "address": "10.0.0.1/32" }, { "address": "fd00::1/128" }],
        });
        assert_eq!(host_interface(&result).as_deref(), Some("cali1"));
        let expected: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
    }
}
