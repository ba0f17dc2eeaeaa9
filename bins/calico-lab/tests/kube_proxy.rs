//! The real kube-proxy beside the agent, in its modes `nftables` and `iptables` (with Debian's
//! iptables-nft): services work, policy sees the addresses that it is about, and neither
//! disturbs the other's rules.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;
#[path = "kube_proxy/proxy.rs"]
mod proxy;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use calico_core::dataplane::{Verdict, VerdictEvent};
use calico_lab::topology::{StoreKind, Topology};
use calico_lab::{Lab, netns, probe};
use common::continuity::Talk;
use common::inside::{assert_undisturbed, nft, nft_file, own_table, packets, run};
use common::traffic::{ANSWER, SILENCE, answers, ask, programmed};
use common::{assert_gone, eventually, lab_name, turn};
use proxy::{Proxy, Service};
use serde_json::Value;

/// What is sent to an address of services that nobody has goes to `outside`, which sends it back:
/// the loop that BGP makes where it announces the services' range.
const TOPOLOGY: &str = r#"
nodes:
  - { name: node1, addresses: [172.30.0.11/24], routes: [{ to: 0.0.0.0/0, via: [172.30.0.100] }] }
  - { name: node2, addresses: [172.30.0.12/24], routes: [{ to: 0.0.0.0/0, via: [172.30.0.100] }] }
hosts:
  - { name: outside, addresses: [172.30.0.100/24], routes: [{ to: 10.0.0.0/24, via: [172.30.0.11] }] }
pools:
  - { name: pods-v4, cidr: 10.244.0.0/16, blockSize: 26, natOutgoing: true }
pods:
  - { name: client, node: node1, labels: { role: client } }
  - { name: near, node: node1, labels: { role: near }, tcp: [80] }
  - { name: web, node: node2, labels: { role: web }, tcp: [80] }
"#;

/// Of the cluster's range, which the API server has.
const WEB: &str = "10.0.0.100";
const LOCAL: &str = "10.0.0.101";
const NEAR: &str = "10.0.0.102";
const LATER: &str = "10.0.0.103";
const NOBODY: &str = "10.0.0.200";
const OUTSIDE: &str = "172.30.0.100";
const NODES: [&str; 2] = ["172.30.0.11", "172.30.0.12"];
/// Where a connection goes that lasts.
const ECHO: u16 = 9000;

const SERVICES: [Service<'static>; 3] = [
    Service {
        name: "web",
        address: WEB,
        node_port: 30080,
        external: "Cluster",
        tcp: &[80, ECHO],
        pod: Some("web"),
    },
    Service {
        name: "local",
        address: LOCAL,
        node_port: 30081,
        external: "Local",
        tcp: &[80],
        pod: Some("web"),
    },
    Service {
        name: "near",
        address: NEAR,
        node_port: 0,
        external: "",
        tcp: &[80],
        pod: Some("near"),
    },
];

/// What may enter `web`: the pods of a role, and what comes from an address.
fn policy(selector: &str, net: &str) -> String {
    format!(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{ name: protect-web, namespace: default }}
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - {{ action: Allow, protocol: TCP, source: {{ selector: \"{selector}\" }} }}
  - {{ action: Allow, protocol: TCP, source: {{ nets: [{net}/32] }} }}
  - {{ action: Deny }}
"
    )
}

/// Of the node's interface: everything passes, but for what is sent to one port of the node.
const PRE_DNAT: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: { name: node1-eth0, labels: { side: outer } }
spec: { node: node1, interfaceName: eth0 }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: host-open }
spec:
  selector: side == 'outer'
  types: [Ingress, Egress]
  ingress: [{ action: Allow }]
  egress: [{ action: Allow }]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: no-nodeport }
spec:
  selector: side == 'outer'
  preDNAT: true
  applyOnForward: true
  types: [Ingress]
  ingress:
  - { action: Deny, protocol: TCP, destination: { ports: [30080] } }
";

const LOOP_PREVENTION: &str = "
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: { name: default }
spec: { serviceClusterIPs: [{ cidr: 10.0.0.0/24 }] }
";

#[tokio::test]
async fn kube_proxy_and_policy_side_by_side() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("proxy");
    let text = format!("name: {name}\n{TOPOLOGY}");
    let mut topology = Topology::parse("proxy.yaml", &text).unwrap();
    topology.store = StoreKind::Kubernetes;
    let mut lab = Lab::up(topology, &text).await.unwrap();
    SERVICES.iter().for_each(|service| service.apply(&lab));
    loops(&lab).await;

    let mut times = Vec::new();
    for mode in ["nftables", "iptables"] {
        let started = Instant::now();
        // The second time, it finds and removes what it left in the other mode.
        let before = own_table(&lab, "node1");
        let proxies = ["node1", "node2"].map(|node| Proxy::start(&lab, node, mode));
        services_work(&lab).await;
        assert_eq!(own_table(&lab, "node1"), before, "{mode}: our table");
        policy_sees_who_it_is_about(&lab).await;
        established_connections_follow_policy(&lab).await;
        host_endpoints_come_first(&lab).await;
        neither_disturbs_the_other(&mut lab, proxies, mode).await;
        let path = "/api/v1/namespaces/default/services/later";
        lab.ask_kubernetes("DELETE", path, &Value::Null).unwrap();
        times.push(format!("{mode} {:.1} s", started.elapsed().as_secs_f64()));
    }
    println!("{}", times.join(", "));
    lab.remove().unwrap();
    assert_gone(&name);
}

/// Packets to a service's address that nobody serves: without kube-proxy, all of them.
async fn loops(lab: &Lab) {
    nft_file(
        lab,
        "outside",
        "table ip seen { chain in { type filter hook prerouting priority raw; \
         ip daddr 10.0.0.200 counter; }; }",
    );
    let client = lab.pod("client").unwrap().namespace();
    let to: SocketAddr = (addr(NOBODY), 80).into();
    assert!(!probe::tcp(client, to, SILENCE).await.unwrap().is_answered());
    let counted = || packets(&nft(lab, "outside", &["list", "table", "ip", "seen"]));
    assert!(counted() > 0, "without loop prevention they leave the node");
    lab.apply_text(LOOP_PREVENTION).await.unwrap();
    let chain = ["list", "chain", "inet", "calico", "cali-cidr-block"];
    eventually("the range of services is known", || {
        run(lab, "node1", &[&["nft"], &chain[..]].concat(), "").is_ok()
    });
    let before = counted();
    let dropped = || packets(&nft(lab, "node1", &chain));
    eventually("packets that nobody translates are dropped", || {
        let started = dropped();
        let _ = netns::enter(client, || std::net::TcpStream::connect_timeout(&to, SILENCE / 4));
        dropped() > started
    });
    assert_eq!(counted(), before, "and do not leave the node any more");
}

async fn services_work(lab: &Lab) {
    let client = lab.pod("client").unwrap().namespace();
    let near = lab.pod("near").unwrap().namespace();
    let outside = lab.namespace("outside");
    let node1 = lab.namespace("node1");
    for (from, address, port, answer) in [
        (client, WEB, 80, "web"),
        (client, LOCAL, 80, "web"),
        (client, NEAR, 80, "near"),
        // From a pod to itself, by way of its service.
        (near, NEAR, 80, "near"),
        (near, WEB, 80, "web"),
        (&node1, WEB, 80, "web"),
        (&outside, NODES[0], 30080, "web"),
        (&outside, NODES[1], 30080, "web"),
        (&outside, NODES[1], 30081, "web"),
        (client, NODES[0], 30080, "web"),
    ] {
        answers(from, (addr(address), port).into(), answer).await;
    }
    // No pod of it is there.
    let to: SocketAddr = (addr(NODES[0]), 30081).into();
    assert!(!probe::tcp(&outside, to, SILENCE).await.unwrap().is_answered());
}

/// By the pod's address after the translation of the service's, and by the source as it is then:
/// the node's where kube-proxy puts that in its place before the packet comes to the pod's node.
async fn policy_sees_who_it_is_about(lab: &Lab) {
    let client = lab.pod("client").unwrap().namespace();
    let near = lab.pod("near").unwrap();
    let outside = lab.namespace("outside");
    let mut verdicts = lab.verdicts("node2").await.unwrap();
    lab.apply_text(&policy("role == 'client'", "192.0.2.1")).await.unwrap();
    programmed(lab, "node2", "web").await;
    answers(client, (addr(WEB), 80).into(), "web").await;
    let web = lab.pod("web").unwrap().address(false).unwrap();
    for (from, to, source) in [
        (near.namespace(), (WEB, 80), near.address(false).unwrap()),
        // Its node replaces the source on the way to another node...
        (outside.as_str(), (NODES[0], 30080), addr(NODES[0])),
        // ...but on the pod's own node only behind policy...
        (&outside, (NODES[1], 30080), addr(OUTSIDE)),
        // ...and not at all where the service asks for that.
        (&outside, (NODES[1], 30081), addr(OUTSIDE)),
    ] {
        let to: SocketAddr = (addr(to.0), to.1).into();
        assert!(!probe::tcp(from, to, SILENCE).await.unwrap().is_answered(), "{from} to {to}");
        let denied = |event: &VerdictEvent| {
            event.verdict == Verdict::Denied && event.flow.destination == web
        };
        let event = verdicts.find(ANSWER, denied).await.unwrap();
        let event = event.unwrap_or_else(|| panic!("no verdict about {from} to {to}"));
        assert_eq!(event.flow.source, source, "{from} to {to}: {event:?}");
        let cause = event.cause.to_string();
        assert!(cause.contains("protect-web ingress rule 2"), "{cause}");
        // Until the kernel gives up the connection, it sends again.
        verdicts = lab.verdicts("node2").await.unwrap();
    }
    for (net, open, shut) in [
        (NODES[0], (NODES[0], 30080), (NODES[1], 30080)),
        (OUTSIDE, (NODES[1], 30081), (NODES[0], 30080)),
    ] {
        lab.apply_text(&policy("role == 'client'", net)).await.unwrap();
        programmed(lab, "node2", "web").await;
        answers(&outside, (addr(open.0), open.1).into(), "web").await;
        let to: SocketAddr = (addr(shut.0), shut.1).into();
        assert!(!probe::tcp(&outside, to, SILENCE).await.unwrap().is_answered(), "{net}: {to}");
    }
}

async fn established_connections_follow_policy(lab: &Lab) {
    let client = lab.pod("client").unwrap().namespace();
    let web = lab.pod("web").unwrap();
    let at: SocketAddr = (web.address(false).unwrap(), ECHO).into();
    let mut talk = Talk::open(client, (addr(WEB), ECHO).into(), web.namespace(), at);
    assert!(talk.goes_on(ANSWER));
    lab.apply_text(&policy("role == 'near'", OUTSIDE)).await.unwrap();
    eventually("the connection is cut", || !talk.goes_on(Duration::from_secs(1)));
    lab.apply_text(&policy("role == 'client'", OUTSIDE)).await.unwrap();
    eventually("it goes on", || talk.goes_on(ANSWER));
    lab.calicoctl(&["delete", "networkpolicy", "protect-web", "-n", "default"]).await.unwrap();
    programmed(lab, "node2", "web").await;
}

/// What is sent to the port of a node is judged there before the service's translation.
async fn host_endpoints_come_first(lab: &Lab) {
    let outside = lab.namespace("outside");
    let mut verdicts = lab.verdicts("node1").await.unwrap();
    lab.apply_text(PRE_DNAT).await.unwrap();
    let to: SocketAddr = (addr(NODES[0]), 30080).into();
    eventually("the port is shut", || {
        let connect = || std::net::TcpStream::connect_timeout(&to, SILENCE).is_err();
        netns::enter(&outside, connect).unwrap()
    });
    let denied = |event: &VerdictEvent| event.verdict == Verdict::Denied;
    let event = verdicts.find(ANSWER, denied).await.unwrap().expect("a verdict");
    assert_eq!((event.flow.destination, event.flow.destination_port), (to.ip(), Some(to.port())));
    assert!(event.cause.to_string().contains("no-nodeport ingress rule 0"), "{event:?}");
    let client = lab.pod("client").unwrap().namespace();
    answers(client, (addr(WEB), 80).into(), "web").await;
    answers(&outside, (addr(NODES[1]), 30080).into(), "web").await;
    let names = [("hep", "node1-eth0"), ("gnp", "host-open"), ("gnp", "no-nodeport")];
    for (kind, name) in names {
        lab.calicoctl(&["delete", kind, name]).await.unwrap();
    }
    answers(&outside, to, "web").await;
}

/// kube-proxy is killed and writes its rules anew, the agent is killed and adopts its own.
async fn neither_disturbs_the_other(lab: &mut Lab, proxies: [Proxy; 2], mode: &str) {
    let client = lab.pod("client").unwrap().namespace().to_owned();
    let web = lab.pod("web").unwrap();
    let at: SocketAddr = (web.address(false).unwrap(), ECHO).into();
    let mut talk = Talk::open(&client, (addr(WEB), ECHO).into(), web.namespace(), at);
    let own = own_table(lab, "node1");
    proxies.into_iter().for_each(Proxy::kill);
    answers(&client, (addr(WEB), 80).into(), "web").await;
    let _proxies = ["node1", "node2"].map(|node| Proxy::start(lab, node, mode));
    let later = Service { name: "later", address: LATER, node_port: 0, ..SERVICES[0] };
    later.apply(lab);
    answers(&client, (addr(LATER), 80).into(), "web").await;
    assert_eq!(own_table(lab, "node1"), own, "{mode}: our table");

    let theirs = theirs(lab, "node1");
    assert!(theirs.contains(WEB) && theirs.contains(LATER), "{theirs}");
    lab.crash_agent("node1").unwrap();
    answers(&client, (addr(WEB), 80).into(), "web").await;
    lab.wait_for_sessions().await.unwrap();
    let endpoint = ask(lab, "node1", &["endpoint", "wait", "--programmed", "client"]).await;
    assert!(endpoint.unwrap().contains("in force"));
    assert_eq!(self::theirs(lab, "node1"), theirs, "{mode}: the rules of kube-proxy");
    assert_eq!(own_table(lab, "node1"), own, "{mode}: our table");
    answers(&client, (addr(LATER), 80).into(), "web").await;
    assert!(talk.goes_on(ANSWER), "{mode}: a connection through a service");
    assert_undisturbed(lab);
}

/// All tables of others, without what is counted.
fn theirs(lab: &Lab, node: &str) -> String {
    let all = nft(lab, node, &["--stateless", "list", "tables"]);
    let others = all.lines().filter(|line| !line.contains("inet calico"));
    let list = |line: &str| {
        let words: Vec<&str> = ["--stateless", "list"].into_iter().chain(line.split(' ')).collect();
        nft(lab, node, &words)
    };
    others.map(list).collect()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}
