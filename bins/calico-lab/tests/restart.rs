//! Agents are killed in a loop: no packet of established traffic is lost, no route goes, policy
//! stays in force, and pods come and go as before.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use calico_lab::Lab;
use common::continuity::{Monitor, interrupt};
use common::traffic::{SILENCE, assert_reaches, assert_routes, tcp, until_tcp};
use common::{assert_gone, lab_name, topology, turn};

/// How often each agent is killed.
const ROUNDS: usize = 3;

const ONE_PORT: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: protect-web, namespace: default }
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - { action: Allow, protocol: TCP, destination: { ports: [80] } }
  - { action: Allow, protocol: ICMP }
";

#[tokio::test]
async fn killed_agents_cost_no_packet_and_no_route() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("restart");
    let (topology, text) = topology("mesh.yaml", &name);
    let mut lab = Lab::up(topology, &text).await.unwrap();
    lab.apply_text(ONE_PORT).await.unwrap();
    let web = lab.pod("web").unwrap().address(false).unwrap();
    until_tcp(&lab, "client", (web, 8080).into(), false).await;

    let pings = Pings::start(&lab, "client", &web.to_string());
    let monitors: Vec<Monitor> =
        ["node1", "node2"].map(|node| Monitor::start(&lab, node)).into_iter().collect();
    for _ in 0..ROUNDS {
        for node in ["node1", "node2"] {
            lab.crash_agent(node).unwrap();
            // The first moments after a start are when state could be lost.
            for _ in 0..5 {
                assert!(!tcp(&lab, "client", (web, 8080).into(), SILENCE / 4).await.is_answered());
            }
            lab.wait_for_sessions().await.unwrap();
        }
    }
    lab.wait_for_routes().await.unwrap();
    let (sent, received) = pings.stop();
    assert!(sent > 100, "{sent} packets only");
    assert_eq!(sent, received, "packets were lost");
    for monitor in monitors {
        let gone = monitor.stop();
        assert!(gone.is_empty(), "routes went: {gone:?}");
    }

    assert_routes(&lab, false);
    assert_routes(&lab, true);
    assert_reaches(&lab, "web", "near").await;
    lab.delete_pod("default/near").await.unwrap();
    lab.remove().unwrap();
    assert_gone(&name);
}

/// A hundred pings a second.
struct Pings(Child);

impl Pings {
    fn start(lab: &Lab, from: &str, to: &str) -> Self {
        let namespace = lab.pod(from).unwrap().namespace().to_owned();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace, "ping", "-n", "-q", "-i", "0.01", to]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Packets sent and received.
    fn stop(self) -> (u64, u64) {
        // The last one may be on its way: ping is told to end, and waits for nothing.
        std::thread::sleep(Duration::from_millis(50));
        let text = interrupt(self.0);
        let summary = text.lines().find(|line| line.contains("packets transmitted")).unwrap();
        let number = |index: usize| {
            let part = summary.split(", ").nth(index).unwrap();
            part.split_whitespace().next().unwrap().parse().unwrap()
        };
        (number(0), number(1))
    }
}
