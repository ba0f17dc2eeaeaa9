//! Three nodes in a full mesh, IPv4 and IPv6: sessions, routes, traffic, policy, removal.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::SocketAddr;

use calico_core::dataplane::{Direction, Verdict, VerdictEvent};
use calico_lab::Lab;
use common::traffic::{
    ANSWER, SILENCE, addresses, ask, assert_reaches, assert_routes, programmed, sessions, tcp,
    until_tcp,
};
use common::{assert_gone, host_links, lab_name, topology, turn};
use serde_json::Value;

#[tokio::test]
async fn three_nodes_in_a_mesh() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("mesh");
    let links = host_links();
    let (topology, text) = topology("mesh.yaml", &name);
    let mut lab = Lab::up(topology, &text).await.unwrap();

    everyone_has_a_session_with_everyone(&lab).await;
    assert_routes(&lab, false);
    assert_routes(&lab, true);
    assert_reaches(&lab, "client", "web").await;
    assert_reaches(&lab, "other", "web").await;
    assert_reaches(&lab, "web", "near").await;
    assert_reaches(&lab, "client", "near").await;
    a_policy_decides_and_says_so(&lab).await;
    an_agent_may_crash(&mut lab).await;
    a_deleted_pod_leaves_nothing(&mut lab).await;

    let removed = lab.remove().unwrap();
    // Three nodes, the fabric, and three pods: the fourth was deleted.
    assert_eq!(removed.namespaces, 7);
    assert_gone(&name);
    assert_eq!(host_links(), links, "the machine's own interfaces");
}

async fn everyone_has_a_session_with_everyone(lab: &Lab) {
    for node in &lab.topology().nodes {
        let others = lab.topology().nodes.iter().filter(|other| other.name != node.name);
        let mut expected: Vec<(String, String)> = others
            .flat_map(|other| &other.addresses)
            .map(|address| (address.addr().to_string(), "NodeMesh".to_owned()))
            .collect();
        expected.sort();
        assert_eq!(sessions(lab, &node.name).await, expected, "{}", node.name);
    }
}

const DENY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: protect-web, namespace: default }
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - action: Deny
";

const ALLOW_ONE_PORT: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: protect-web, namespace: default }
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - action: Allow
    protocol: TCP
    source: { selector: role == 'client' }
    destination: { ports: [80] }
";

async fn a_policy_decides_and_says_so(lab: &Lab) {
    let web = addresses(lab, "web");
    let mut verdicts = lab.verdicts("node2").await.unwrap();
    let mut reason = async |to: SocketAddr| {
        let denied = |event: &VerdictEvent| {
            event.verdict == Verdict::Denied
                && event.flow.destination == to.ip()
                && event.flow.destination_port == Some(to.port())
        };
        let event = verdicts.find(ANSWER, denied).await.unwrap();
        let event = event.unwrap_or_else(|| panic!("no verdict about {to}"));
        let interface = &lab.pod("web").unwrap().attachment.host_interface;
        assert_eq!(*event.interface, **interface);
        assert_eq!(event.direction, Direction::Ingress);
        event.cause.to_string()
    };

    lab.apply_text(DENY).await.unwrap();
    programmed(lab, "node2", "web").await;
    let elsewhere = ask(lab, "node1", &["endpoint", "wait", "--programmed", "web"]).await;
    let elsewhere = elsewhere.unwrap_err();
    assert!(elsewhere.contains("is on node node2"), "{elsewhere}");
    for address in web {
        let to = (address, 80).into();
        assert!(!tcp(lab, "client", to, SILENCE).await.is_answered(), "{to}");
        let rule = "NetworkPolicy default/protect-web ingress rule 0";
        assert!(reason(to).await.contains(rule), "{}", reason(to).await);
    }
    // The policy protects one pod, not its neighbours.
    assert_reaches(lab, "web", "other").await;

    lab.apply_text(ALLOW_ONE_PORT).await.unwrap();
    programmed(lab, "node2", "web").await;
    for address in web {
        assert!(tcp(lab, "client", (address, 80).into(), ANSWER).await.is_answered());
        let to = (address, 8080).into();
        assert!(!tcp(lab, "client", to, SILENCE).await.is_answered(), "{to}");
        assert!(reason(to).await.contains("end of tier default"), "{}", reason(to).await);
        let to = (address, 80).into();
        assert!(!tcp(lab, "other", to, SILENCE).await.is_answered(), "from another pod: {to}");
    }

    the_log_names_both_ends(lab, web[0].to_string()).await;

    lab.calicoctl(&["delete", "networkpolicy", "protect-web", "--namespace", "default"])
        .await
        .unwrap();
    until_tcp(lab, "other", (web[0], 8080).into(), true).await;
}

async fn the_log_names_both_ends(lab: &Lab, web: String) {
    let log = ["policy", "log", "--pod", "client", "--policy", "protect-web", "-o", "json"];
    let said = ask(lab, "node2", &log).await.unwrap();
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_web = |line: &Value| line["destination"]["address"] == web.as_str();
    let found = lines.filter(of_web).collect::<Vec<_>>();
    assert!(!found.is_empty(), "{said}");
    for line in found {
        assert_eq!(line["verdict"], "denied");
        assert_eq!(line["node"], "node2");
        assert_eq!(line["by"], "NetworkPolicy default/protect-web ingress rule 0");
        assert_eq!(line["source"]["name"], "default/client");
        assert_eq!(line["endpoint"], "default/web");
    }
    let said = ask(lab, "node2", &["policy", "log", "--verdict", "denied"]).await.unwrap();
    assert!(
        said.contains("-> default/web (") && said.contains("the end of tier default"),
        "{said}"
    );
    assert_eq!(ask(lab, "node1", &log).await.unwrap(), "", "nothing was dropped there");
}

/// Traffic goes on while the agents of both ends are gone and come back.
async fn an_agent_may_crash(lab: &mut Lab) {
    for node in ["node2", "node1"] {
        lab.crash_agent(node).unwrap();
        assert_reaches(lab, "client", "web").await;
    }
    lab.wait_for_sessions().await.unwrap();
    lab.wait_for_routes().await.unwrap();
    assert_routes(lab, false);
    assert_routes(lab, true);
    assert_reaches(lab, "client", "web").await;
}

async fn a_deleted_pod_leaves_nothing(lab: &mut Lab) {
    let near = lab.pod("near").unwrap().clone();
    lab.delete_pod("default/near").await.unwrap();
    for v6 in [false, true] {
        let text = lab.route_text("node1", v6).unwrap();
        assert!(!text.contains(&near.attachment.host_interface), "{text}");
        let address = near.address(v6).unwrap();
        assert!(!text.lines().any(|line| line.starts_with(&format!("{address} "))), "{text}");
    }
    let weps = lab.calicoctl(&["get", "workloadendpoints", "--all-namespaces"]).await.unwrap();
    assert!(weps.contains("client") && !weps.contains("near"), "{weps}");
}
