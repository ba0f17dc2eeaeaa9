//! What programming the kernel costs beside `nft -f`.

use std::time::Instant;

use calico_core::dataplane::{Dataplane as _, Update};
use calico_netlink::nft::wire::Family;
use calico_netlink::nft::{Socket, Tracker};
use calico_netlink::testing::TestNet;

use super::{apply, endpoint, id, median, nft, open, profile, ratio, rules, runtime, set};

pub(crate) fn run() {
    let Some(host) = TestNet::new("bench") else { return };
    host.run(|| runtime().block_on(programming()));
    let Some(host) = TestNet::new("bench") else { return };
    host.run(|| runtime().block_on(one_endpoint()));
}

/// 10,000 rules and 100,000 members of sets, from nothing.
async fn programming() {
    let mut updates: Vec<Update> = (0..100).map(|n| set(n, 1000)).collect();
    updates.push(profile());
    updates.extend((0..1000).map(|n| rules(n, 100)));
    updates.extend((0..100).map(|n| endpoint(n, n * 10..n * 10 + 10)));
    updates.push(Update::InSync);
    let path = std::env::temp_dir().join(format!("calico-bench-{}.nft", std::process::id()));
    let (mut ours, mut theirs, mut encoding, mut kernel) = (vec![], vec![], vec![], vec![]);
    for _ in 0..5 {
        let dataplane = open().await;
        ours.push(apply(&dataplane, updates.clone()).await);
        let mut socket = Socket::open().unwrap();
        let (table, ..) = socket.read_table(Family::Inet, "calico").await.unwrap();
        std::fs::write(&path, nft(&["list", "table", "inet", "calico"])).unwrap();
        dataplane.remove_all().await.unwrap();
        drop(dataplane);

        let mut tracker = Tracker::new(Family::Inet, "calico");
        let table = table.unwrap();
        for (name, set) in &table.sets {
            tracker.put_set(name, set.clone());
        }
        for (name, chain) in &table.chains {
            tracker.put_chain(name, chain.clone());
        }
        let started = Instant::now();
        let batch = tracker.batch();
        encoding.push(started.elapsed());
        let started = Instant::now();
        socket.commit(&batch, None).await.unwrap();
        kernel.push(started.elapsed());
        nft(&["flush", "ruleset"]);

        let started = Instant::now();
        nft(&["-f", path.to_str().unwrap()]);
        theirs.push(started.elapsed());
        nft(&["flush", "ruleset"]);
    }
    std::fs::remove_file(&path).unwrap();
    let (ours, theirs) = (median(ours), median(theirs));
    println!("10,000 rules and 100,000 members of sets, from nothing (median of 5):");
    println!("  ours, from updates to the acknowledgement  {ours:?}");
    println!("  of that the batch as bytes                 {:?}", median(encoding));
    println!("  of that the kernel (send to answer)        {:?}", median(kernel));
    println!("  nft -f with the same ruleset               {theirs:?}");
    println!("  ratio                                      {:.1}", ratio(theirs, ours));
}

/// One endpoint more among 2,000.
async fn one_endpoint() {
    let dataplane = open().await;
    let mut updates = vec![profile(), set(0, 10), rules(0, 1), Update::InSync];
    updates.extend((0..2000).map(|n| endpoint(n, [0])));
    apply(&dataplane, updates).await;
    let listed = nft(&["list", "map", "inet", "calico", "cali-to-wl-dispatch"]);
    let to = chain_of(&listed);
    let listed = nft(&["list", "map", "inet", "calico", "cali-from-wl-dispatch"]);
    let from = chain_of(&listed);
    let listed = nft(&["list", "map", "inet", "calico", "cali40workload-sources"]);
    let by_source = chain_of(&listed);
    let path = std::env::temp_dir().join(format!("calico-bench-{}.nft", std::process::id()));
    let (mut ours, mut theirs) = (vec![], vec![]);
    for n in 2000..2021 {
        ours.push(apply(&dataplane, vec![endpoint(n, [0])]).await);
        apply(&dataplane, vec![Update::EndpointRemoved(id(n))]).await;
        let script = format!(
            "add element inet calico cali-to-wl-dispatch {{ \"cali{n}\" : goto {to} }}\n\
             add element inet calico cali-from-wl-dispatch {{ \"cali{n}\" : goto {from} }}\n\
             add element inet calico cali40workload-sources {{ \"cali{n}\" . 10.65.7.208 : goto {by_source} }}\n"
        );
        std::fs::write(&path, &script).unwrap();
        let started = Instant::now();
        nft(&["-f", path.to_str().unwrap()]);
        theirs.push(started.elapsed());
        dataplane.resync().await.unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    let (ours, theirs) = (median(ours), median(theirs));
    println!("one endpoint more among 2,000 (median of 21):");
    println!("  ours                                       {ours:?}");
    println!("  nft -f with the same change                {theirs:?}");
    println!("  ratio                                      {:.1}", ratio(theirs, ours));
}

/// The chain that the first interface of a listed map leads to.
fn chain_of(listed: &str) -> String {
    let after = listed.split("goto ").nth(1).unwrap();
    after.split([',', ' ', '}', '\n']).next().unwrap().to_owned()
}
