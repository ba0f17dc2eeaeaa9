//! A pod that runs BIRD has a session with its node, and a peer that no subnet leads to is reached
//! by its gateway.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use calico_lab::Lab;
use common::traffic::{block, gateways};
use common::{assert_gone, eventually, lab_name, topology, turn};

/// What the pod announces.
const BEHIND_POD: &str = "10.88.1.0/24";

const RESOURCES: &str = "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: { name: default }
spec: { defaultEndpointToHostAction: Accept }
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: { name: default }
spec: { localWorkloadPeeringIPV4: 169.254.1.179 }
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: { name: virtual-routers }
spec: { nodeSelector: all(), localWorkloadSelector: role == 'web', asNumber: 65401 }
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: { name: far }
spec: { node: node1, peerIP: 203.0.113.9, asNumber: 65009, reachableBy: 172.30.0.12 }
";

#[tokio::test]
async fn a_pod_exchanges_routes_with_its_node() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("workload");
    let (topology, text) = topology("mesh.yaml", &name);
    let lab = Lab::up(topology, &text).await.unwrap();
    lab.apply_text(RESOURCES).await.unwrap();
    let web = lab.pod("web").unwrap();
    let (address, namespace) = (web.address(false).unwrap(), web.namespace().to_owned());
    let bird = Bird::start(&lab, &namespace, &address.to_string());

    // To others the node tells the pod's address as the next hop, as upstream's does inside the AS.
    let behind = BEHIND_POD.parse().unwrap();
    let interface = &web.attachment.host_interface;
    eventually("the node has the pod's route", || {
        let text = lab.route_text("node2", false).unwrap();
        text.lines().any(|line| {
            let by_pod = line.contains(&format!("via {address} dev {interface} "));
            line.starts_with(BEHIND_POD) && by_pod
        })
    });
    // The pod: blocks of both, and nothing that is no pod's.
    let of_client = block(&lab, "client", false).to_string();
    eventually("the pod knows the blocks", || bird.routes().contains(&of_client));
    let routes = bird.routes();
    assert!(routes.contains(&block(&lab, "web", false).to_string()), "{routes}");
    assert!(!routes.contains("172.30."), "{routes}");

    let far = "203.0.113.9/32".parse().unwrap();
    eventually("a route to a far peer", || {
        gateways(&lab, "node1", far) == ["172.30.0.12".parse::<std::net::IpAddr>().unwrap()]
    });
    assert_eq!(gateways(&lab, "node2", far), [] as [std::net::IpAddr; 0]);

    // A pod is no peer any more: its routes go everywhere.
    lab.calicoctl(&["delete", "bgppeer", "virtual-routers"]).await.unwrap();
    eventually("the route goes", || gateways(&lab, "node2", behind).is_empty());
    drop(bird);
    lab.remove().unwrap();
    assert_gone(&name);
}

/// BIRD in a pod.
struct Bird {
    process: Child,
    socket: PathBuf,
}

impl Bird {
    fn start(lab: &Lab, namespace: &str, address: &str) -> Self {
        let directory = lab.run_dir("web-bird");
        fs::create_dir_all(&directory).unwrap();
        let (configuration, socket) = (directory.join("bird.conf"), directory.join("bird.ctl"));
        let text = format!(
            "router id {address};\nprotocol device {{}}\n\
             protocol static {{ ipv4; route {BEHIND_POD} blackhole; }}\n\
             protocol bgp node {{ local {address} as 65401; neighbor 169.254.1.179 as 64512; \
             multihop; connect retry time 1; connect delay time 1; error wait time 1, 2; \
             ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n"
        );
        fs::write(&configuration, text).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "bird", "-f"]);
        command.args([Path::new("-c"), &configuration, Path::new("-s"), &socket]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        Self { process: command.spawn().unwrap(), socket }
    }

    fn routes(&self) -> String {
        let mut command = Command::new("birdc");
        command.arg("-s").arg(&self.socket).args(["show", "route"]);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        // `ip netns exec` becomes the program, so this is BIRD.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
