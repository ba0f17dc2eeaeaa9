//! Calculates what a node's dataplane has to know of pods and a policy, and explains packets.
//! All of it is pure: no cluster, no root, no async runtime.

use std::error::Error;

use calico_core::key::Key;
use calico_core::resource::{
    Mode, ObjectMeta, WorkloadEndpoint, WorkloadEndpointSpec, read_manifest,
};
use calico_policy::{Graph, eval::Packet};

const TCP: u8 = 6;

fn main() -> Result<(), Box<dyn Error>> {
    // In any order: first the policy as its author wrote it, then the pods. Only the endpoints of
    // node1 are ours to protect, but those of other nodes may talk to them.
    let mut graph = Graph::for_node("node1");
    let manifest = read_manifest(include_str!("policy.yaml"), Mode::Strict);
    for resource in manifest.map_err(|mistakes| format!("{mistakes:?}"))? {
        graph.handle_resource(&resource)?;
    }
    graph.handle(pod("node1", "db-0", "db", "10.65.0.2")?)?;
    graph.handle(pod("node2", "web-0", "web", "10.65.1.2")?)?;
    graph.handle(pod("node2", "batch-0", "batch", "10.65.1.3")?)?;
    tell("the first time, everything", &mut graph);
    for (id, what) in graph.describe_sets() {
        println!("set {id} holds the addresses of {what}\n");
    }

    graph.handle(pod("node2", "web-1", "web", "10.65.1.4")?)?;
    tell("another web server came", &mut graph);

    graph.handle(pod("node2", "batch-0", "batch", "10.65.1.9")?)?;
    tell("the batch job has a new address, which nobody here cares about", &mut graph);

    // The reference evaluator says what becomes of a packet, and why.
    let desired = graph.desired();
    for (from, port) in [("10.65.1.4", 5432), ("10.65.1.9", 5432)] {
        let packet = Packet::to_port(from.parse()?, "10.65.0.2".parse()?, TCP, port);
        println!("{}", desired.explain_packet(&packet));
    }

    let policy = "/calico/resources/v3/projectcalico.org/networkpolicies/shop/db".parse::<Key>()?;
    graph.handle_gone(&policy);
    tell("the policy is gone", &mut graph);
    Ok(())
}

fn pod(node: &str, name: &str, app: &str, ip: &str) -> Result<WorkloadEndpoint, Box<dyn Error>> {
    let metadata = ObjectMeta::namespaced("shop", name).with_label("app", app);
    let spec = WorkloadEndpointSpec {
        node: node.to_owned(),
        interface_name: format!("cali-{name}"),
        ip_networks: vec![ip.parse()?],
        profiles: vec!["projectcalico-default-allow".to_owned()],
        ..WorkloadEndpointSpec::default()
    };
    Ok(WorkloadEndpoint::with_metadata(metadata, spec))
}

/// Prints what a dataplane would be sent.
fn tell(what: &str, graph: &mut Graph) {
    println!("{what}:");
    for update in graph.flush() {
        println!("  {update}");
    }
    println!();
}
