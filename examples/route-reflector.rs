//! A route reflector and two nodes that know nobody but it, in one process over loopback: each
//! node learns the other's pod addresses, with the other as next hop.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use calico_bgp::rib::PathView;
use calico_bgp::runtime::{Shutdown, SpeakerHandle};
use calico_bgp::speaker::{Config, PeerConfig};
use calico_core::RouteDistributor;
use ipnet::IpNet;

const AS: u32 = 64512;
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::new(AS, "192.0.2.254".parse()?);
    config.listen = vec!["127.0.0.1:0".parse()?]; // any free port; the default is 179
    config.cluster_id = Some("10.255.0.1".parse()?); // shared by reflectors of the same clients
    let reflector = SpeakerHandle::spawn(config)?;
    let clients = NODES.map(|address| {
        let mut client = PeerConfig::new(address.into(), AS);
        (client.rr_client, client.passive) = (true, true);
        client
    });
    reflector.set_peers(clients.to_vec()).await??;

    // Both nodes announce a service address besides their own block of pod addresses.
    let blocks: [IpNet; 2] = ["10.65.1.0/26".parse()?, "10.65.2.0/26".parse()?];
    let service: IpNet = "198.51.100.53/32".parse()?;
    let mut nodes = Vec::new();
    for (address, block) in NODES.into_iter().zip(blocks) {
        let mut config = Config::new(AS, address);
        config.listen = Vec::new(); // the nodes connect, the reflector waits
        let node = SpeakerHandle::spawn(config)?;
        let mut peer = PeerConfig::new(reflector.listening()[0].ip(), AS);
        peer.port = reflector.listening()[0].port();
        peer.local_address = Some(address.into());
        node.set_peers(vec![peer]).await??;
        RouteDistributor::announce(&node, vec![block, service]).await?;
        nodes.push(node);
    }

    // Originator and cluster list keep reflected routes from going in circles (RFC 4456).
    for path in paths(&nodes[0], blocks[1], 1).await? {
        println!("node 1 reaches {} via {}", blocks[1], next_hop(&path)?);
        println!("  originator: {:?}", path.attributes.originator_id.ok_or("not reflected")?);
        println!("  cluster list: {:?}", path.attributes.cluster_list);
    }

    // Two paths that are equal up to the metric share the traffic; the last steps choose the one
    // that clients are told.
    println!("the reflector reaches {service}");
    for path in paths(&reflector, service, 2).await? {
        let told = if path.best { "told to clients" } else { "not told" };
        let share = if path.multipath { "carries traffic" } else { "idle" };
        println!("  via {}: {share}, {told} ({})", next_hop(&path)?, path.decided_by);
    }

    nodes[1].shutdown(Shutdown::Cease("maintenance".to_owned())).await;
    let left = paths(&nodes[0], blocks[1], 0).await?.len();
    println!("node 2 is gone: {left} ways left from node 1 to {}", blocks[1]);
    Ok(())
}

/// Waits until there are so many ways to a prefix, best first.
async fn paths(
    speaker: &SpeakerHandle,
    prefix: IpNet,
    count: usize,
) -> Result<Vec<PathView>, Box<dyn Error>> {
    for _ in 0..1000 {
        let paths = speaker.route(prefix).await?.map_or_else(Vec::new, |route| route.paths);
        if paths.len() == count {
            return Ok(paths);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("not {count} ways to {prefix} within 10 s").into())
}

fn next_hop(path: &PathView) -> Result<IpAddr, &'static str> {
    path.attributes.next_hop.map(|hop| hop.address()).ok_or("a path without next hop")
}
