//! Random lives of nodes, with looks at outdated copies of the store.

use super::*;

/// Serves listings from copies that are outdated by up to so many changes, drawn for each; writes and
/// single reads go to the store itself.
#[derive(Debug)]
struct Outdated {
    inner: MemoryStore,
    copies: Arc<Mutex<VecDeque<Vec<Entry>>>>,
    draws: Mutex<u64>,
}

#[async_trait]
impl Datastore for Outdated {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        let mut listing = self.inner.list(scope).await?;
        let copies = self.copies.lock().unwrap();
        let mut draws = self.draws.lock().unwrap();
        *draws = scramble(*draws);
        let back = (*draws % 4) as usize;
        if let (1.., Some(copy)) = (back, copies.iter().rev().nth(back)) {
            let wanted = copy.iter().filter(|entry| scope.contains(&entry.key));
            listing.entries = wanted.cloned().collect();
        }
        Ok(listing)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        self.inner.write(writes).await
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        self.inner.watch(scope, from)
    }
}

/// What really is: nodes with their containers, and who has which address.
#[derive(Debug, Default)]
struct World {
    /// By node that runs: its containers with their addresses.
    nodes: BTreeMap<String, BTreeMap<String, Vec<IpAddr>>>,
    /// Addresses of tunnels, by node that runs.
    tunnels: BTreeMap<String, IpAddr>,
    containers: u64,
    freed: u64,
    came_back: u64,
    moved: u64,
    renamed: u64,
}

/// One cluster over some hours, in minutes.
async fn live(seed: u64, totals: &mut World) {
    let cluster = Cluster::with(&POOL).await;
    let store = &cluster.memory;
    let ipam = cluster.ipam();
    let copies = Arc::new(Mutex::new(VecDeque::new()));
    let outdated =
        Outdated { inner: store.clone(), copies: Arc::clone(&copies), draws: Mutex::new(seed) };
    let looker = cluster.ipam_on(Arc::new(outdated));
    // The copies are up to 3 minutes old; the grace time is longer.
    let settings = Settings { grace: Duration::from_secs(900), ..Settings::default() };
    let mut collectors: Vec<Collector> =
        (0..2).map(|_| Collector::new(settings, Some("n0"))).collect();
    let mut state = seed;
    let mut draw = |bound: u64| {
        state = scramble(state);
        state % bound
    };
    let mut world = World::default();
    // Nodes that lost their power, with the minute at which it was noticed.
    let mut dark: BTreeMap<String, u64> = BTreeMap::new();
    for minute in 0..240_u64 {
        cluster.seconds.fetch_add(60, std::sync::atomic::Ordering::Relaxed);
        let name = format!("n{}", draw(5));
        let runs = world.nodes.contains_key(&name);
        match draw(8) {
            // A node starts, perhaps again: first its resource, then its tunnel's address.
            0 | 1 if !runs => {
                cluster.node(&name, "{}").await;
                let handle = format!("vxlan-tunnel-addr-{name}");
                let held = ipam.addresses_by_handle(&handle).await.unwrap();
                let address = match held.first() {
                    Some(held) if ipam.confirm_address(*held, &handle).await.unwrap() => {
                        world.came_back += 1;
                        *held
                    }
                    _ => tunnel(&ipam, &name).await,
                };
                world.tunnels.insert(name.clone(), address);
                world.nodes.insert(name.clone(), BTreeMap::new());
                dark.remove(&name);
            }
            // A container starts.
            2..=4 if runs => {
                world.containers += 1;
                let container = format!("c{}", world.containers);
                let got = assign(&ipam, &name, &container).await;
                if !got.is_empty() {
                    endpoint(store, &name, &container, &got).await;
                    world.nodes.get_mut(&name).unwrap().insert(container, got);
                }
            }
            // A container moves to another node with its address: only its endpoint says so.
            5 if runs => {
                let to = world.nodes.keys().find(|to| **to != name).cloned();
                let container = world.nodes[&name].keys().next().cloned();
                if let (Some(to), Some(container)) = (to, container) {
                    let got = world.nodes.get_mut(&name).unwrap().remove(&container).unwrap();
                    forget_endpoint(store, &name, &container).await;
                    endpoint(store, &to, &container, &got).await;
                    world.nodes.get_mut(&to).unwrap().insert(container, got);
                    world.moved += 1;
                }
            }
            // A node loses its power; for now it is only paused, and its objects stay.
            6 if runs && name != "n0" => {
                if draw(3) == 0 {
                    // It had only got another name: containers and endpoints stay.
                    let containers = world.nodes.remove(&name).unwrap();
                    world.tunnels.remove(&name);
                    forget_node(store, &name).await;
                    let new = format!("renamed-{minute}");
                    cluster.node(&new, "{}").await;
                    world.tunnels.insert(new.clone(), tunnel(&ipam, &new).await);
                    world.nodes.insert(new, containers);
                    world.renamed += 1;
                } else {
                    dark.insert(name.clone(), minute + draw(30));
                }
            }
            _ => {}
        }
        // Who was dark for too long is given up: node and endpoints are deleted, containers are dead.
        for name in dark.clone().into_iter().filter(|(_, at)| *at == minute).map(|(name, _)| name) {
            dark.remove(&name);
            forget_node(store, &name).await;
            for container in world.nodes.remove(&name).into_iter().flatten() {
                forget_endpoint(store, &name, &container.0).await;
            }
            world.tunnels.remove(&name);
        }
        let all = store.list(&Scope::All).await.unwrap().entries;
        {
            let mut copies = copies.lock().unwrap();
            copies.push_back(all);
            if copies.len() > 4 {
                copies.pop_front();
            }
        }
        // Two collectors look, now and then; one is paused for an hour in between.
        for (nth, collector) in collectors.iter_mut().enumerate() {
            let paused = nth == 1 && (100..160).contains(&minute);
            if paused || draw(3) > 0 {
                continue;
            }
            let now = Duration::from_secs(minute * 60);
            if let Collected::Decided(decided) =
                looker.collect(collector, now, false).await.unwrap()
            {
                let freed = decided.iter().filter(|(_, deed)| *deed == Deed::Freed);
                world.freed += freed.flat_map(|(d, _)| d.subject.addresses()).count() as u64;
            }
        }
        // Nobody who lives has lost an address, and nobody has another's.
        let assigned: BTreeMap<String, String> = cluster.assigned().await.into_iter().collect();
        let mut seen = BTreeSet::new();
        for (node, containers) in &world.nodes {
            for (container, addresses) in containers {
                for ip in addresses {
                    let owner = assigned.get(&ip.to_string());
                    let expected = format!("net.{container}");
                    assert_eq!(
                        owner,
                        Some(&expected),
                        "seed {seed}, minute {minute}, {node}: {ip}"
                    );
                    assert!(seen.insert(*ip), "seed {seed}, minute {minute}: {ip} twice");
                }
            }
        }
        for (node, ip) in &world.tunnels {
            let owner = assigned.get(&ip.to_string());
            let expected = format!("vxlan-tunnel-addr-{node}");
            assert_eq!(owner, Some(&expected), "seed {seed}, minute {minute}: {ip}");
            assert!(seen.insert(*ip), "seed {seed}, minute {minute}: {ip} twice");
        }
    }
    // In the end nothing is left of whom is gone.
    copies.lock().unwrap().clear();
    for minute in 240..300 {
        let now = Duration::from_secs(minute * 60);
        looker.collect(&mut collectors[0], now, false).await.unwrap();
    }
    let living: BTreeSet<String> = world
        .nodes
        .values()
        .flat_map(|containers| containers.keys().map(|c| format!("net.{c}")))
        .chain(world.tunnels.keys().map(|node| format!("vxlan-tunnel-addr-{node}")))
        .collect();
    // What runs under a node's old name keeps all that is under that name.
    let listing = store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await.unwrap();
    let endpoints = listing.entries.iter().map(|entry| entry.decode::<WorkloadEndpoint>().unwrap());
    let busy: BTreeSet<String> = endpoints.map(|endpoint| endpoint.spec.node).collect();
    let blocks = ipam.blocks().await.unwrap();
    let allocations = || blocks.iter().flat_map(|block| &block.allocations);
    let node = |a: &Allocation| a.attributes.secondary["node"].clone();
    let lives = |a: &&Allocation| living.contains(a.attributes.handle_id.as_ref().unwrap());
    let busy: BTreeSet<String> =
        busy.into_iter().chain(allocations().filter(lives).map(node)).collect();
    for allocation in allocations() {
        let handle = allocation.attributes.handle_id.clone().unwrap();
        let node = &allocation.attributes.secondary["node"];
        // Of a node that is there, its own agent frees what is left; what runs under the old name
        // of a node keeps all that is under that name.
        let fine = living.contains(&handle)
            || world.nodes.contains_key(node)
            || (busy.contains(node) && handle.starts_with("vxlan"));
        assert!(fine, "seed {seed}: {handle} of {node} has {}", allocation.address);
    }
    assert_eq!(ipam.check().await.unwrap(), [], "seed {seed}");
    totals.freed += world.freed;
    totals.containers += world.containers;
    totals.came_back += world.came_back;
    totals.moved += world.moved;
    totals.renamed += world.renamed;
}

#[tokio::test]
async fn no_living_address_is_ever_freed() {
    let mut totals = World::default();
    for seed in 0..30 {
        live(seed, &mut totals).await;
    }
    let World { freed, containers, came_back, moved, renamed, .. } = totals;
    println!(
        "{containers} containers, {moved} moved; {came_back} nodes came back, {renamed} got another \
         name; {freed} addresses freed"
    );
    // A simulation without what it is about would prove nothing.
    for count in [freed, containers, came_back, moved, renamed] {
        assert!(count > 20, "{totals:?}");
    }
}
