//! A host with two pods and an enforced policy, in network namespaces that end with the program:
//! veths, routes and nftables, all spoken to the kernel directly. Needs root.

use std::error::Error;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use calico_core::dataplane::{Dataplane, Transaction, Update};
use calico_core::resource::{
    Mode, ObjectMeta, WorkloadEndpoint, WorkloadEndpointSpec, read_manifest,
};
use calico_netlink::dataplane::{LinuxDataplane, NoRoutes, TABLE};
use calico_netlink::netns::{Netns, NetnsError};
use calico_netlink::nft::{Batch, Socket, wire::Family};
use calico_netlink::pod::{self, PodSpec};
use calico_netlink::{link, rtnl, sysctl};
use calico_policy::Graph;

fn main() -> Result<(), Box<dyn Error>> {
    // This thread moves into a fresh namespace that plays the host; the real one stays untouched.
    let host = Netns::create()?;
    host.enter()?;
    link::set_up(&mut rtnl::Connection::open()?, "lo")?;
    sysctl::prepare_host()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    // Closed from here on: interfaces named cali* are dropped until the dataplane knows them.
    let dataplane = LinuxDataplane::open(Arc::new(NoRoutes)).await?;
    let mut graph = Graph::for_node("host");
    let manifest = read_manifest(include_str!("policy.yaml"), Mode::Strict);
    for resource in manifest.map_err(|mistakes| format!("{mistakes:?}"))? {
        graph.handle_resource(&resource)?;
    }

    let (web, db) = (Netns::create()?, Netns::create()?);
    for (netns, app, address) in [(&web, "web", "10.65.0.2"), (&db, "db", "10.65.0.3")] {
        let made = pod::setup(&PodSpec {
            netns: netns.path().to_owned(),
            ifname: "eth0".to_owned(),
            host_ifname: format!("cali-{app}"),
            addresses: vec![address.parse()?],
            ..PodSpec::default()
        })?;
        println!("{} <-> {} of {app}, {address}", made.host.name, made.container.name);
        graph.handle(endpoint(app, address)?)?;
    }
    let server: SocketAddr = "10.65.0.3:5432".parse()?;
    let other: SocketAddr = "10.65.0.3:22".parse()?;
    let listeners = db.run(|| [server, other].map(TcpListener::bind))?;
    println!("before there is a policy: {}", connect(&web, server)?);

    // One transaction of nf_tables; when `apply` is back, the kernel has it.
    let mut updates = graph.flush();
    updates.push(Update::InSync);
    let applied = dataplane.apply(Transaction { revision: 1, updates }).await?;
    println!("revision {} is in force:", applied.revision);
    println!("  web -> db port 5432: {}", connect(&web, server)?);
    println!("  web -> db port 22: {}", connect(&web, other)?);
    println!("  db -> web port 80: {}", connect(&db, "10.65.0.2:80".parse()?)?);
    println!("these met a packet:");
    for counter in dataplane.rule_counters().await?.into_iter().filter(|c| c.packets > 0) {
        println!("  {}", counter.identity);
    }

    // Someone deletes the rules; the next comparison with the kernel brings them back.
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.delete_table();
    Socket::open()?.commit(&batch, None).await?;
    println!("without rules, web -> db port 22: {}", connect(&web, other)?);
    let repaired = dataplane.resync().await?.repaired;
    println!("repaired: {}", repaired.join("; "));
    println!("then, web -> db port 22: {}", connect(&web, other)?);

    drop(listeners);
    pod::teardown("cali-db", Some(db.path()), "eth0")?;
    println!("without cali-db, web -> db port 5432: {}", connect(&web, server)?);
    Ok(())
}

fn endpoint(app: &str, address: &str) -> Result<WorkloadEndpoint, Box<dyn Error>> {
    let metadata = ObjectMeta::namespaced("shop", app).with_label("app", app);
    let spec = WorkloadEndpointSpec {
        node: "host".to_owned(),
        interface_name: format!("cali-{app}"),
        ip_networks: vec![address.parse()?],
        profiles: vec!["projectcalico-default-allow".to_owned()],
        ..WorkloadEndpointSpec::default()
    };
    Ok(WorkloadEndpoint::with_metadata(metadata, spec))
}

/// Tries to connect from inside a pod.
fn connect(from: &Netns, to: SocketAddr) -> Result<String, NetnsError> {
    let result = from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)))?;
    Ok(match result {
        Ok(_) => "connected".to_owned(),
        Err(error) => error.kind().to_string(),
    })
}
