//! `cluster diags`: what somebody who was not here needs to see of the whole cluster, in one file:
//! everything in the datastore, and what Kubernetes says about nodes and pods.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use calico_core::Datastore;
use calico_core::key::Scope;
use clap::Args;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::node::diags::Bundle;

/// Flags of `cluster diags`.
#[derive(Debug, Args)]
pub(crate) struct DiagsArgs {
    /// Logs of this time only, such as 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<String>,
    /// Logs of at most so many pods; 0 is no limit
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    max_logs: usize,
    /// Accepted for scripts; programs are asked one after the other
    #[arg(long, hide = true, value_name = "NUMBER", default_value_t = 10)]
    max_parallelism: usize,
    /// Logs of the pods on these nodes first, separated by commas
    #[arg(long, value_name = "NODES", value_delimiter = ',')]
    focus_nodes: Vec<String>,
    /// Leave the files beside the archive
    #[arg(long)]
    skip_temp_dir_cleanup: bool,
    /// Where the file goes [default: the current directory]
    #[arg(short, long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// What Kubernetes is asked: file name, arguments of kubectl.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("version", &["version"]),
    ("nodes.yaml", &["get", "nodes", "-o", "yaml"]),
    ("pods", &["get", "pods", "--all-namespaces", "-o", "wide"]),
    ("daemonsets.yaml", &["get", "daemonsets", "--all-namespaces", "-o", "yaml"]),
    ("deployments.yaml", &["get", "deployments", "--all-namespaces", "-o", "yaml"]),
    ("services", &["get", "services", "--all-namespaces", "-o", "wide"]),
    ("networkpolicies.yaml", &["get", "networkpolicies", "--all-namespaces", "-o", "yaml"]),
    ("events", &["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"]),
    ("apiservices", &["get", "apiservices"]),
];

/// Collects everything, and returns what to print.
pub(crate) async fn collect(
    store: &dyn Datastore,
    args: &DiagsArgs,
    now: SystemTime,
) -> Result<String, Failure> {
    let into = args.output_dir.clone().unwrap_or_else(|| ".".into());
    let mut bundle = Bundle::new(&into, "calico-diagnostics", now);
    let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in store.list(&Scope::All).await?.entries {
        let kind = entry.key.kind().map_or_else(|| "IPAM".to_owned(), |kind| kind.to_string());
        let value = serde_json::from_str(&entry.value).unwrap_or_else(|_| json!(&*entry.value));
        let key = entry.key.to_string();
        let revision = entry.revision.to_string();
        kinds
            .entry(kind)
            .or_default()
            .push(json!({"key": key, "revision": revision, "value": value}));
    }
    let objects: usize = kinds.values().map(Vec::len).sum();
    for (kind, entries) in kinds {
        let text = format!("{:#}\n", Value::from(entries));
        bundle.write(&format!("datastore/{kind}.json"), text.as_bytes())?;
    }
    for (file, arguments) in QUESTIONS {
        bundle.ask(&format!("kubernetes/{file}"), "kubectl", arguments)?;
    }
    for (namespace, pod) in pods(args) {
        let mut arguments = vec!["logs", "--all-containers", "--prefix", "-n", &namespace, &pod];
        let since = args.since.as_ref().map(|since| format!("--since={since}"));
        arguments.extend(since.as_deref());
        bundle.ask(&format!("logs/{namespace}/{pod}.log"), "kubectl", &arguments)?;
    }
    let said = bundle.pack(args.skip_temp_dir_cleanup)?;
    Ok(format!(
        "Collected {objects} objects of the datastore\n{said}\
         They hold addresses, names and policy of this cluster: look before you share.\n"
    ))
}

/// Namespaces and names of Calico's pods, those of the nodes in focus first.
fn pods(args: &DiagsArgs) -> Vec<(String, String)> {
    let columns = "custom-columns=N:.metadata.namespace,P:.metadata.name,H:.spec.nodeName";
    let arguments = ["get", "pods", "--all-namespaces", "--no-headers", "-o", columns];
    let Ok(output) = crate::node::diags::ask("kubectl", &arguments) else { return Vec::new() };
    let text = String::from_utf8_lossy(&output);
    let mut found: Vec<(bool, String, String)> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(namespace), Some(pod)) = (words.next(), words.next()) else { continue };
        let node = words.next().unwrap_or_default();
        let is_calico = |text: &str| text.contains("calico") || text.contains("tigera");
        if is_calico(namespace) || is_calico(pod) {
            let focus = args.focus_nodes.iter().any(|it| it == node);
            found.push((!focus, namespace.to_owned(), pod.to_owned()));
        }
    }
    found.sort();
    let limit = if args.max_logs == 0 { usize::MAX } else { args.max_logs };
    found.into_iter().take(limit).map(|(_, namespace, pod)| (namespace, pod)).collect()
}

fn since(text: &str) -> Result<String, String> {
    let number = text.strip_suffix(['s', 'm', 'h']).unwrap_or_default();
    if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err("a number and s, m or h, such as 30m".to_owned())
}

#[cfg(test)]
mod tests {
    use calico_core::key::Key;
    use calico_core::kind::Kind;
    use calico_core::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn the_archive_has_every_object() {
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryStore::new();
        let key = Key::resource(Kind::IpPool, None, "main");
        let pool = r#"{"metadata": {"name": "main"}, "spec": {"cidr": "10.0.0.0/8"}}"#;
        store.create(key, pool.into()).await.unwrap();
        let args = DiagsArgs {
            since: None,
            max_logs: 5,
            max_parallelism: 1,
            focus_nodes: Vec::new(),
            skip_temp_dir_cleanup: true,
            output_dir: Some(dir.path().to_owned()),
        };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        let said = collect(&store, &args, now).await.unwrap();
        assert!(said.contains("Collected 1 objects"), "{said}");
        let root = dir.path().join("calico-diagnostics-20231114T221320Z");
        assert!(root.with_extension("tar.gz").exists(), "{said}");
        let text = std::fs::read_to_string(root.join("datastore/IPPool.json")).unwrap();
        assert!(text.contains("\"cidr\": \"10.0.0.0/8\""), "{text}");
    }

    #[test]
    fn times_are_as_upstream_takes_them() {
        assert!(since("30m").is_ok() && since("1h").is_ok());
        assert!(since("30").is_err() && since("m").is_err() && since("1d").is_err());
    }
}
