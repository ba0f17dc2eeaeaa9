//! Two BGP speakers in one process, a node and its rack switch, exchange IPv4 and IPv6 prefixes
//! over loopback and print their tables: each path, and the step that decided between them.

use std::error::Error;
use std::time::Duration;

use calico_bgp::rib::RouteSource;
use calico_bgp::runtime::{Shutdown, SpeakerHandle};
use calico_bgp::speaker::{Config, PeerConfig};
use calico_bgp::wire::{Family, PathAttributes};
use ipnet::{AddrParseError, IpNet};

const NODE_AS: u32 = 64512;
const RACK_AS: u32 = 65001;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Port 0 is any free one, so that this runs without root; the default is port 179.
    let mut config = Config::new(RACK_AS, "192.0.2.254".parse()?);
    config.listen = vec!["127.0.0.1:0".parse()?];
    config.next_hop_v6 = Some("2001:db8::254".parse()?); // the session is over IPv4
    let rack = SpeakerHandle::spawn(config)?;

    let mut config = Config::new(NODE_AS, "192.0.2.1".parse()?);
    config.listen = Vec::new();
    config.next_hop_v6 = Some("2001:db8::1".parse()?);
    let node = SpeakerHandle::spawn(config)?;

    // The rack waits for the node, which connects from an address of its own.
    let both = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    let mut peer = PeerConfig::new("127.0.0.2".parse()?, NODE_AS);
    peer.families.clone_from(&both);
    peer.passive = true;
    rack.set_peers(vec![peer]).await??;
    let mut peer = PeerConfig::new("127.0.0.1".parse()?, RACK_AS);
    peer.families = both;
    peer.port = rack.listening()[0].port();
    peer.local_address = Some("127.0.0.2".parse()?);
    node.set_peers(vec![peer]).await??;

    // The service address is announced by both.
    let service = "198.51.100.53/32";
    rack.announce(nets(&["0.0.0.0/0", "::/0", service])?).await?;
    node.announce(nets(&["10.65.0.0/26", "fd00:65::/122", service])?).await?;

    for (name, speaker) in [("node", &node), ("rack", &rack)] {
        wait_for(speaker, 3).await?;
        println!("{name}:");
        for route in speaker.routes().await? {
            for path in &route.paths {
                let mark = if path.best { '*' } else { ' ' };
                let source = match path.source {
                    RouteSource::Peer { asn, .. } => {
                        let next_hop = path.attributes.next_hop.map(|hop| hop.address());
                        format!("from AS {asn} via {}", next_hop.ok_or("no next hop")?)
                    }
                    RouteSource::Local => "own".to_owned(),
                };
                let prefix = route.prefix.to_string();
                println!("  {mark} {prefix:17} {source:31} ({})", path.decided_by);
            }
        }
    }

    // The other side hears why, and drops the routes.
    node.shutdown(Shutdown::Cease("this node is being replaced".to_owned())).await;
    wait_for(&rack, 0).await?;
    let status = &rack.peers().await?[0];
    let reason = status.last_error.as_ref().ok_or("no reason")?;
    println!("rack: session is {}: {reason}", status.state);
    Ok(())
}

/// With attributes, such as communities or a MED, if one wants; `RouteDistributor::announce` is
/// the same without.
fn nets(texts: &[&str]) -> Result<Vec<(IpNet, PathAttributes)>, AddrParseError> {
    texts.iter().map(|text| Ok((text.parse()?, PathAttributes::default()))).collect()
}

/// Waits until the peer has told so many prefixes.
async fn wait_for(speaker: &SpeakerHandle, count: usize) -> Result<(), Box<dyn Error>> {
    for _ in 0..1000 {
        if speaker.peers().await?[0].prefixes_received == count {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("the peers did not agree within 10 s".into())
}
