//! Gives pods on two nodes an IPv4 and an IPv6 address each, shows who has what, and takes some
//! back. The store is in memory here; any other `Datastore` does as well, shared by all nodes.

use std::error::Error;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::memory::MemoryStore;
use calico_core::resource::{IpPool, IpPoolSpec};
use calico_ipam::{AssignRequest, Ipam, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = Arc::new(MemoryStore::new());
    for (name, range) in [("pods-v4", "10.65.0.0/16"), ("pods-v6", "fd00:65::/48")] {
        let pool = IpPool::new(name, IpPoolSpec::new(range.parse()?));
        store.create(pool.key(), pool.to_json()).await?;
    }

    // Each node would have its own `Ipam` on the same store; nothing but the store is shared.
    let ipam = Ipam::new(store, Options::default());
    for (node, pod) in [("node1", "web-0"), ("node1", "web-1"), ("node2", "db-0")] {
        let request = AssignRequest::new(node)
            .handle(format!("demo.{pod}")) // what releases the addresses again
            .attribute("pod", pod) // kept with each address, for people
            .v4(1)
            .v6(1);
        let assigned = ipam.auto_assign(request).await?.complete()?;
        println!("{pod} on {node} has {} and {}", assigned.v4[0].ip, assigned.v6[0].ip);
    }

    println!("\nblocks:");
    for block in ipam.blocks().await? {
        let owner = block.owner.map_or_else(|| "nobody".to_owned(), |owner| owner.to_string());
        println!("  {} of {owner}: {} free", block.cidr, block.free);
    }

    println!("\nweb-1 is gone and gives back {:?}", ipam.release_by_handle("demo.web-1").await?);
    println!("again, by mistake: {:?}", ipam.release_by_handle("demo.web-1").await?);

    // A pool that cannot serve a request says why.
    let mut picky = AssignRequest::new("node1").handle("demo.picky").v4(1);
    picky.v4_pools = vec!["public".to_owned()];
    if let Err(refusal) = ipam.auto_assign(picky).await {
        println!("\nrefused: {refusal}");
    }
    println!("inconsistencies in the store: {}", ipam.check().await?.len());
    Ok(())
}
