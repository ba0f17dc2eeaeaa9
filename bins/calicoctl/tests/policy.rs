//! `calicoctl policy`: on files, and on a store that is served over a socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use calico_datastore::EmbeddedStore;
use calico_datastore::remote::{LocalListener, Server};
use serde_json::{Value, json};

const CLUSTER: &str = "\
apiVersion: projectcalico.org/v3
kind: List
items:
- {apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: n1-k8s-web-eth0,
    namespace: prod, labels: {app: web}}, spec: {orchestrator: k8s, workload: web, pod: web,
    endpoint: eth0, node: n1, interfaceName: cali1, ipNetworks: [10.65.0.1/32, 'fd65::1/128'],
    profiles: [projectcalico-default-allow]}}
- {apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: n2-k8s-db-eth0,
    namespace: prod, labels: {app: db}}, spec: {orchestrator: k8s, workload: db, pod: db,
    endpoint: eth0, node: n2, interfaceName: cali2, ipNetworks: [10.65.0.2/32],
    profiles: [projectcalico-default-allow], ports: [{name: sql, protocol: TCP, port: 5432}]}}
- {apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}, spec: {order: 10}}
- {apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: security.quarantine},
    spec: {tier: security, selector: all(), types: [Ingress], ingress: [
      {action: Deny, source: {nets: [203.0.113.0/24]}}, {action: Pass}]}}
- {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: db, namespace: prod},
    spec: {selector: app == 'db', ingress: [
      {action: Deny, protocol: UDP},
      {action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [sql]}}]}}
";

const STAGED: &str = "\
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: db, namespace: prod}
spec: {selector: app == 'db', ingress: [{action: Deny}]}
";

/// The policy without its rule for TCP.
const CLOSED: &str = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: prod}
spec: {selector: app == 'db', ingress: [{action: Deny, protocol: UDP}]}
";

fn calicoctl(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .args(arguments)
        .env("CALICO_DATASTORE_SOCKET", socket)
        .output()
        .unwrap()
}

/// What a command on these files prints; it succeeds and warns of nothing.
fn offline(files: &[&str], arguments: &str) -> String {
    let output = offline_output(files, arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && error.is_empty(), "{arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn offline_output(files: &[&str], arguments: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    for (number, text) in files.iter().enumerate() {
        std::fs::write(dir.path().join(format!("{number}.yaml")), text).unwrap();
    }
    std::fs::write(dir.path().join("change.txt"), CLOSED).unwrap();
    let change = dir.path().join("change.txt").to_string_lossy().into_owned();
    let arguments = arguments.replace("CHANGE", &change);
    let place = dir.path().to_string_lossy().into_owned();
    let mut all: Vec<&str> = arguments.split_whitespace().collect();
    all.extend(["--offline", &place]);
    calicoctl(Path::new("/nowhere"), &all)
}

#[test]
fn an_explanation_names_verdict_tier_policy_and_rule_and_why_not_earlier_ones() {
    let text = offline(&[CLUSTER], "policy explain --from prod/web --to prod/db:5432/TCP");
    assert_eq!(
        text,
        "\
prod/web -> prod/db: allowed by NetworkPolicy prod/db ingress rule 1, in tier default
from: 10.65.0.1, WorkloadEndpoint prod/n1-k8s-web-eth0 on n1, labels app=web
to: 10.65.0.2, WorkloadEndpoint prod/n2-k8s-db-eth0 on n2, labels app=db
10.65.0.1 -> 10.65.0.2 TCP/5432: allowed
egress:
  profiles
    Profile projectcalico-default-allow egress rule 0: Allow, matches
  => allowed by Profile projectcalico-default-allow egress rule 0
ingress:
  tier security
    GlobalNetworkPolicy security.quarantine ingress rule 0: Deny, no match: source.nets wants 203.0.113.0/24, the packet has 10.65.0.1
    GlobalNetworkPolicy security.quarantine ingress rule 1: Pass, matches
  tier default
    NetworkPolicy prod/db ingress rule 0: Deny, no match: protocol wants UDP, the packet has TCP
    NetworkPolicy prod/db ingress rule 1: Allow, matches
  => allowed by NetworkPolicy prod/db ingress rule 1
"
    );
    for (from, to, verdict) in [
        (
            "prod/web",
            "prod/db:sql",
            "allowed by NetworkPolicy prod/db ingress rule 1, in tier default",
        ),
        (
            "prod/web",
            "prod/db:53/udp",
            "denied by NetworkPolicy prod/db ingress rule 0, in tier default",
        ),
        ("prod/web", "prod/db", "denied by the end of tier default (ingress)"),
        (
            "203.0.113.9",
            "prod/web:80",
            "denied by GlobalNetworkPolicy security.quarantine ingress rule 0, in tier security",
        ),
        (
            "10.65.0.2",
            "10.65.0.1:80",
            "allowed by Profile projectcalico-default-allow ingress rule 0",
        ),
        (
            "prod/web",
            "[fd00::9]:443",
            "allowed by Profile projectcalico-default-allow egress rule 0",
        ),
    ] {
        let text = offline(&[CLUSTER], &format!("policy explain --from {from} --to {to}"));
        let first = text.lines().next().unwrap();
        assert!(first.ends_with(&format!(": {verdict}")), "{from} {to}: {first}");
    }
}

#[test]
fn an_explanation_as_json_carries_the_same() {
    let text =
        offline(&[CLUSTER], "policy explain --from prod/web --to prod/db:53/UDP --output json");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["to"], json!({"namespace": "prod", "name": "n2-k8s-db-eth0"}));
    assert_eq!(found["now"]["allowed"], json!(false));
    assert_eq!(found["now"]["decided"]["tier"], json!("default"));
    assert_eq!(found["now"]["decided"]["cause"]["rule"]["index"], json!(0));
    let steps = found["now"]["ingress"]["steps"].as_array().unwrap();
    let mismatch = steps.iter().find_map(|step| step["rule"]["mismatch"].as_object()).unwrap();
    assert_eq!(mismatch["clause"], json!("source.nets"));
    assert_eq!(found["ifStagedWereEnforced"], Value::Null);
}

#[test]
fn staged_policies_are_shown_as_what_they_would_do() {
    let text = offline(&[CLUSTER, STAGED], "policy explain --from prod/web --to prod/db:5432");
    let staged = text.lines().find(|line| line.starts_with("staged:")).unwrap();
    assert_eq!(
        staged,
        "staged: would be denied by NetworkPolicy prod/db ingress rule 0, in tier default if \
         enforced: StagedNetworkPolicy prod/db"
    );
    assert!(text.starts_with("prod/web -> prod/db: allowed by"), "{text}");
    let text = offline(&[CLUSTER, STAGED], "policy explain --from prod/web --to prod/db:53/UDP");
    assert!(text.ends_with("staged: no difference if enforced: StagedNetworkPolicy prod/db\n"));
}

#[test]
fn a_diff_tells_the_flows_that_change() {
    let text = offline(&[CLUSTER], "policy diff -f CHANGE");
    assert_eq!(
        text,
        "\
prod/web -> prod/db: TCP 5432
  allowed by NetworkPolicy prod/db ingress rule 1
  now denied by the end of tier default (ingress)
"
    );
    let closed = [CLUSTER.replace("name: db, namespace: prod}", "name: db2, namespace: prod}")];
    let text = offline(&[closed[0].as_str(), CLOSED], "policy diff -f CHANGE");
    assert_eq!(text, "No flow changes its verdict\n");
    let found: Value =
        serde_json::from_str(&offline(&[CLUSTER], "policy diff -f CHANGE -o json")).unwrap();
    assert_eq!(found["changes"][0]["after"]["allowed"], json!(false));
    let ports = json!({"ports": {"protocol": 6, "ports": {"first": 5432, "last": 5432}}});
    assert_eq!(found["changes"][0]["traffic"], json!([ports]));
}

/// A host endpoint that nobody can reach any more.
const NEW_HOST: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n2-all}
spec: {node: n2, interfaceName: '*', expectedIPs: [192.0.2.12]}
";

#[test]
fn a_diff_tells_what_a_host_endpoint_shuts_off() {
    let settings = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\n\
        metadata: {name: default}\nspec: {failsafeInboundHostPorts: [{protocol: TCP, port: 22}], \
        failsafeOutboundHostPorts: []}\n";
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new.yaml");
    std::fs::write(&new, NEW_HOST).unwrap();
    let text = offline(&[CLUSTER, settings], &format!("policy diff -f {}", new.display()));
    for told in [
        "elsewhere (IPv4) -> node n2: TCP 1-21, TCP 23-65535, UDP, SCTP, ICMP type 8 code 0\n  \
         allowed by default: no policy applies\n  \
         now denied by default: no profile allowed it (ingress of the node)\n",
        "prod/web -> node n2: ",
    ] {
        assert!(text.contains(told), "{text}");
    }
}

/// The same cluster as `kubectl get -o yaml` shows it, with what has no say in policy.
const KUBERNETES: &str = "
apiVersion: v1
kind: List
items:
- { apiVersion: v1, kind: Namespace, metadata: { name: prod, labels: { team: shop } } }
- apiVersion: v1
  kind: Pod
  metadata: { name: web, namespace: prod, labels: { app: web } }
  spec: { nodeName: n1, containers: [] }
  status: { phase: Running, podIPs: [{ ip: 10.65.0.1 }] }
- apiVersion: v1
  kind: Pod
  metadata: { name: db, namespace: prod, labels: { app: db } }
  spec: { nodeName: n2, containers: [{ ports: [{ name: sql, containerPort: 5432 }] }] }
  status: { phase: Running, podIPs: [{ ip: 10.65.0.2 }] }
- { apiVersion: v1, kind: Pod, metadata: { name: waits, namespace: prod }, spec: {} }
- { apiVersion: apps/v1, kind: Deployment, metadata: { name: web, namespace: prod } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: prod }
spec:
  podSelector: { matchLabels: { app: db } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: web } } }], ports: [{ port: sql }] }]
";

#[test]
fn objects_of_kubernetes_count_in_files_as_they_do_in_a_cluster() {
    let output = offline_output(&[KUBERNETES], "policy explain --from prod/web --to prod/db:sql");
    let (text, notes) = (output.stdout, String::from_utf8(output.stderr).unwrap());
    let text = String::from_utf8(text).unwrap();
    let by = "NetworkPolicy prod/knp.default.db ingress rule 0, in tier default";
    assert!(text.starts_with(&format!("prod/web -> prod/db: allowed by {by}\n")), "{text}");
    assert_eq!(notes, "left out: Pod prod/waits: is on no node, or in the node's network\n");
    let output = offline_output(&[KUBERNETES], "policy explain --from prod/web --to prod/db:22");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("prod/web -> prod/db: denied by the end of tier default"), "{text}");
    let wrong = KUBERNETES.to_owned() + "---\n{apiVersion: projectcalico.org/v3, kind: Tier}\n";
    let output = offline_output(&[&wrong], "policy explain --from prod/web --to prod/db:22");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("metadata"), "{error}");
}

/// What stands before workloads and behind services.
const HOSTS: &str = "\
apiVersion: projectcalico.org/v3
kind: List
items:
- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1},
    spec: {bgp: {ipv4Address: 192.0.2.11/24}}}
- {apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: n1-all, labels: {host: n1}},
    spec: {node: n1, interfaceName: '*', expectedIPs: [192.0.2.11], ports: [{name: ssh, protocol: TCP, port: 2222}]}}
- {apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: n2-eth0, labels: {host: n2}},
    spec: {node: n2, interfaceName: eth0, expectedIPs: [192.0.2.12]}}
- {apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: bad, labels: {bad: 'yes'}},
    spec: {nets: [198.51.100.0/24]}}
- {apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: early},
    spec: {selector: has(host), preDNAT: true, applyOnForward: true, types: [Ingress], ingress: [
      {action: Deny, source: {selector: bad == 'yes'}}]}}
- {apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: security.hosts},
    spec: {tier: security, selector: has(host), types: [Ingress], ingress: [
      {action: Allow, protocol: TCP, destination: {ports: [ssh]}}]}}
- {apiVersion: projectcalico.org/v3, kind: StagedKubernetesNetworkPolicy,
    metadata: {name: web, namespace: prod}, spec: {podSelector: {matchLabels: {app: web}}}}
";

/// What is behind the services of the cluster.
const SLICES: &str = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: prod, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints:
- {addresses: [10.65.0.2]}
- {addresses: [203.0.113.7]}
- {addresses: [10.65.0.1], conditions: {ready: false}}
ports: [{name: sql, protocol: TCP, port: 5432}]
";

#[test]
fn nodes_host_endpoints_and_services_are_ends_too() {
    let first = |from: &str, to: &str| {
        let files = [CLUSTER, HOSTS, SLICES];
        let output = offline_output(&files, &format!("policy explain --from {from} --to {to}"));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{from} {to}: {error}");
        (String::from_utf8(output.stdout).unwrap(), error)
    };
    for (from, to, said) in [
        // Policies of hosts judge what comes to a pod from elsewhere.
        (
            "198.51.100.9",
            "prod/web:80",
            "outside -> prod/web: denied by GlobalNetworkPolicy early ingress rule 0, in tier default\n\
             from: 198.51.100.9, in GlobalNetworkSet bad\n",
        ),
        (
            "prod/db",
            "prod/web:80",
            "prod/db -> prod/web: allowed by Profile projectcalico-default-allow ingress rule 0\n",
        ),
        ("203.0.113.9", "node/n1:22", "outside -> node n1: allowed by the list of failsafe ports"),
        (
            "192.0.2.99",
            "hep/n1-all:ssh",
            "outside -> node n1: allowed by GlobalNetworkPolicy security.hosts ingress rule 0, in tier",
        ),
        // A host always reaches its own workloads.
        ("hep/n1-all", "prod/web:80", "node n1 -> prod/web: allowed by default: no policy applies"),
        ("prod/web", "192.0.2.11:80", "prod/web -> node n1: denied by defaultEndpointToHostAction"),
        ("hep/n1-all", "prod/db:5432", "node n1 -> prod/db: denied by"),
    ] {
        let (text, error) = first(from, to);
        println!("{text}{error}");
        assert!(text.starts_with(said), "{from} {to}: {text}{error}");
    }
    let (text, error) = first("198.51.100.9", "prod/db:sql");
    assert!(text.starts_with("outside -> prod/db: denied by GlobalNetworkPolicy early"), "{text}");
    assert!(error.contains("taken to pass node n2 over eth0 (host endpoint n2-eth0)"), "{error}");

    // One answer for each backend that is ready.
    let (text, _) = first("prod/web", "svc/prod/db:sql");
    let verdicts: Vec<&str> = text.lines().filter(|line| line.starts_with("prod/web ->")).collect();
    assert_eq!(
        verdicts,
        [
            "prod/web -> prod/db: allowed by NetworkPolicy prod/db ingress rule 1, in tier default",
            "prod/web -> outside: allowed by Profile projectcalico-default-allow egress rule 0",
        ]
    );
    assert_eq!(first("prod/web", "svc/prod/db"), first("prod/web", "svc/prod/db:5432"));
    let files = [CLUSTER, HOSTS, SLICES];
    let output = offline_output(&files, "policy explain --from prod/web --to svc/prod/db -o json");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found.as_array().map(Vec::len), Some(2));
    assert_eq!(found[1]["to"], Value::Null);

    // A staged policy of Kubernetes is converted as one of Kubernetes' own.
    let (text, _) = first("prod/db", "prod/web:80");
    let staged = text.lines().find(|line| line.starts_with("staged:")).unwrap();
    assert_eq!(
        staged,
        "staged: would be denied by the end of tier default (ingress) if enforced: \
         StagedKubernetesNetworkPolicy prod/web"
    );
}

#[test]
fn a_network_is_explained_as_a_whole_or_by_its_parts() {
    let text = offline(&[CLUSTER], "policy explain --from 203.0.113.64/26 --to prod/web:80");
    let first: Vec<&str> = text.lines().take(4).collect();
    assert_eq!(
        first,
        [
            "203.0.113.64/26 -> prod/web:80: the same for all of its addresses, such as",
            "outside -> prod/web: denied by GlobalNetworkPolicy security.quarantine ingress rule 0, \
             in tier security",
            "from: 203.0.113.65, in no network set",
            "to: 10.65.0.1, WorkloadEndpoint prod/n1-k8s-web-eth0 on n1, labels app=web",
        ]
    );
    assert_eq!(
        offline(&[CLUSTER, STAGED], "policy explain --from 0.0.0.0/0 --to prod/db:5432"),
        "\
0.0.0.0/0 -> prod/db:5432: depends on the address
  0.0.0.0/0 (but for what follows): denied by the end of tier default (ingress); staged: would be \
denied by NetworkPolicy prod/db ingress rule 0 if enforced: StagedNetworkPolicy prod/db
  203.0.113.0/24: denied by GlobalNetworkPolicy security.quarantine ingress rule 0, in tier security
  10.65.0.1/32: allowed by NetworkPolicy prod/db ingress rule 1, in tier default; staged: would be \
denied by NetworkPolicy prod/db ingress rule 0 if enforced: StagedNetworkPolicy prod/db
"
    );
    let text = offline(&[CLUSTER], "policy explain --from prod/web --to [fd00::/8]:443 -o json");
    let found: Value = serde_json::from_str(&text).unwrap();
    let nets: Vec<&Value> = found.as_array().unwrap().iter().map(|part| &part["net"]).collect();
    assert_eq!(nets, [&json!("fd00::/8"), &json!("fd65::1/128")]);
}

#[test]
fn mistakes_are_told() {
    for (arguments, part) in [
        ("policy explain --from prod/web --to prod/nobody", "no pod and no WorkloadEndpoint"),
        ("policy explain --from prod/web --to prod/dv", "; did you mean prod/db?"),
        ("policy explain --from web --to prod/db", "; did you mean prod/web?"),
        ("policy explain --from prod/web --to hep/n1", "no HostEndpoint n1; `calicoctl get hep`"),
        ("policy explain --from prod/web --to node/n1", "no node n1; `calicoctl get nodes`"),
        ("policy explain --from 203.0.113.0/24 --to 10.0.0.0/8:80", "only one of the two ends"),
        ("policy explain --from 2001:db8::/32 --to prod/db:80", "no address of the same family"),
        ("policy explain --from prod/web --to svc/prod/sql", "no endpoints of a service prod/sql"),
        ("policy explain --from svc/prod/sql --to prod/web", "name one of its pods"),
        (
            "policy explain --from prod/web --to prod/db:http",
            "no port of name \"http\"; its ports are sql",
        ),
        ("policy explain --from prod/web --to prod/db:8/ICMP", "leave the port out for a ping"),
        ("policy explain --from fd65::1 --to prod/db:1", "no address of the same family"),
        ("policy explain --from prod/web --to prod/db -o yaml", "use text or json"),
    ] {
        let output = offline_output(&[CLUSTER], arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert!(error.contains(part), "{arguments}: {error}");
    }
}

#[test]
fn live_data_comes_from_the_datastore() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path().join("calico.db")).unwrap());
    let socket = dir.path().join("datastore.sock");
    {
        let _in_runtime = runtime.enter();
        let listener = LocalListener::bind(&socket).unwrap();
        runtime.spawn(Server::run(listener, store, std::future::pending()));
    }
    let file = dir.path().join("cluster.yaml");
    std::fs::write(&file, CLUSTER).unwrap();
    let applied = calicoctl(&socket, &["apply", "-f", &file.to_string_lossy()]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let explain = ["policy", "explain", "--from", "prod/web", "--to", "prod/db:sql"];
    let output = calicoctl(&socket, &explain);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("TCP/5432: allowed"), "{text}");
}
