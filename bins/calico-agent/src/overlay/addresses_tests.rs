use calico_core::memory::MemoryStore;

use super::*;

struct Cluster {
    store: MemoryStore,
    addresses: Addresses,
}

impl Cluster {
    async fn new() -> Self {
        let store = MemoryStore::new();
        for (name, cidr) in [("one", "10.1.0.0/24"), ("two", "10.2.0.0/24")] {
            let pool = json!({"metadata": {"name": name}, "spec": {"cidr": cidr}});
            let key = Key::resource(Kind::IpPool, None, name);
            store.put(key, pool.to_string().into()).await.unwrap();
        }
        let node = json!({"metadata": {"name": "n1"}, "spec": {}});
        let key = Key::resource(Kind::Node, None, "n1");
        store.put(key, node.to_string().into()).await.unwrap();
        let addresses = Self::start(&store);
        Self { store, addresses }
    }

    /// What a program that was just started knows.
    fn start(store: &MemoryStore) -> Addresses {
        let store: Arc<dyn Datastore> = Arc::new(store.clone());
        let ipam = Ipam::new(Arc::clone(&store), calico_ipam::Options::default());
        Addresses { node: "n1".into(), store, ipam, sure: BTreeMap::new() }
    }

    async fn spec(&self) -> Value {
        let entry = self.store.get(&Key::resource(Kind::Node, None, "n1")).await.unwrap();
        serde_json::from_str::<Value>(&entry.value).unwrap()["spec"].clone()
    }

    async fn present(&self, kind: TunnelKind) -> Option<IpAddr> {
        let spec = self.spec().await;
        let found = kind.field().iter().fold(&spec, |at, step| &at[*step]);
        found.as_str().map(|text| text.parse().unwrap())
    }

    /// Settles with these pools; the address that the Node resource names then.
    async fn settle(&mut self, kind: TunnelKind, pools: &[&str]) -> Option<IpAddr> {
        let pools = pools.iter().map(|pool| pool.parse().unwrap()).collect();
        let wanted = WantedAddress { pools, present: self.present(kind).await };
        self.addresses.settle(kind, &wanted).await.unwrap();
        let now = self.present(kind).await;
        let handle = self.addresses.handle(kind);
        let held = self.addresses.ipam.addresses_by_handle(&handle).await.unwrap();
        assert_eq!(held, now.into_iter().collect::<Vec<_>>(), "of the handle, and in the Node");
        now
    }
}

const ONE: &str = "10.1.0.0/24";
const TWO: &str = "10.2.0.0/24";

#[tokio::test]
async fn an_address_follows_its_pools() {
    let mut cluster = Cluster::new().await;
    for kind in [TunnelKind::Ipip, TunnelKind::VxlanV4] {
        assert_eq!(cluster.settle(kind, &[]).await, None);
        let first = cluster.settle(kind, &[ONE]).await.unwrap();
        assert_eq!(cluster.settle(kind, &[ONE, TWO]).await, Some(first));
        // After a restart, too.
        cluster.addresses = Cluster::start(&cluster.store);
        assert_eq!(cluster.settle(kind, &[TWO, ONE]).await, Some(first));
        // The pool is disabled, or no longer selects the node.
        let second = cluster.settle(kind, &[TWO]).await.unwrap();
        assert!(second.to_string().starts_with("10.2."), "{second}");
        assert_eq!(cluster.settle(kind, &[]).await, None);
    }
    assert_eq!(cluster.spec().await, json!({}), "not even an empty `bgp` stays");
    assert_eq!(cluster.addresses.ipam.check().await.unwrap(), []);
}

#[tokio::test]
async fn an_address_that_somebody_took_away_is_replaced() {
    let mut cluster = Cluster::new().await;
    let kind = TunnelKind::VxlanV4;
    let first = cluster.settle(kind, &[ONE]).await.unwrap();
    let ipam = cluster.addresses.ipam.clone();
    ipam.release_by_handle("vxlan-tunnel-addr-n1").await.unwrap();
    let other = AssignIp { handle: Some("net.c".into()), ..AssignIp::new("n1", first) };
    ipam.assign_ip(other).await.unwrap();
    cluster.addresses.sure.clear();
    let second = cluster.settle(kind, &[ONE]).await.unwrap();
    assert_ne!(second, first);
}

#[tokio::test]
async fn addresses_of_older_versions_get_a_handle() {
    let kind = TunnelKind::Ipip;
    for (handle, adopted) in
        [(None, true), (Some("ipip-tunnel-addr-n1"), true), (Some("net.c"), false)]
    {
        let mut cluster = Cluster::new().await;
        let address: IpAddr = "10.1.0.7".parse().unwrap();
        let ipam = cluster.addresses.ipam.clone();
        let mut old = AssignIp::new("n1", address);
        old.handle = handle.map(str::to_owned);
        ipam.assign_ip(old).await.unwrap();
        if adopted && let Some(handle) = handle {
            // Somebody deleted the handle.
            cluster.store.delete(Key::Handle(handle.into()), None).await.unwrap();
        }
        tell("n1", &cluster.store, kind, Some(address)).await.unwrap();
        let now = cluster.settle(kind, &[ONE]).await.unwrap();
        assert_eq!(now == address, adopted, "{handle:?}");
        let owner = ipam.lookup(now).await.unwrap().unwrap().attributes.secondary;
        assert_eq!(owner["type"], "ipipTunnelAddress");
        // Where its pool is gone, so is it.
        assert_eq!(cluster.settle(kind, &[]).await, None);
    }
}
