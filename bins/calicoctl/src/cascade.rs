//! What goes with a node when it is deleted, as in upstream's etcd mode.

use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{StoreError, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, IpPool};
use calico_ipam::{Ipam, Options};

use crate::failure::Failure;

/// Time for nodes to hear that a pool is about to go.
const POOL_PAUSE: Duration = Duration::from_millis(500);

/// Before a pool is deleted: no node takes a block of it any more, and claims on its blocks go.
/// Blocks in use stay, without an owner, until their addresses are released.
pub(crate) async fn of_pool(store: &Arc<dyn Datastore>, name: &str) -> Result<(), Failure> {
    let key = Key::resource(Kind::IpPool, None, name);
    let Some(entry) = store.find(&key).await? else { return Ok(()) };
    // What cannot be read is just deleted.
    let Ok(mut pool) = entry.decode::<IpPool>() else { return Ok(()) };
    if !pool.spec.disabled {
        pool.spec.disabled = true;
        store.update(key, pool.to_json(), entry.revision).await?;
        tokio::time::sleep(POOL_PAUSE).await;
    }
    let ipam = Ipam::new(Arc::clone(store), Options::default());
    ipam.release_pool_affinities(&pool.spec.cidr).await?;
    Ok(())
}

/// Deletes what belongs to `node` alone: its endpoints, its own peers and settings, its addresses
/// and blocks. The node itself stays, so that the command can be repeated if it fails half way.
pub(crate) async fn of_node(store: &Arc<dyn Datastore>, node: &str) -> Result<(), Failure> {
    let mut keys = Vec::new();
    for kind in [Kind::WorkloadEndpoint, Kind::HostEndpoint, Kind::BgpPeer] {
        for entry in store.list(&Scope::Kind(kind)).await?.entries {
            // What cannot be read cannot be known to be the node's.
            let Ok(resource) = entry.decode::<AnyResource>() else { continue };
            let of = resource.fields.get("spec").and_then(|spec| spec["node"].as_str());
            if of == Some(node) {
                keys.push(entry.key);
            }
        }
    }
    for kind in [Kind::FelixConfiguration, Kind::BgpConfiguration] {
        keys.push(Key::resource(kind, None, &format!("node.{node}")));
    }
    Ipam::new(Arc::clone(store), Options::default()).release_host(node).await?;
    keys.push(Key::IpamHost(node.to_owned()));
    for key in keys {
        match store.write(vec![Write::delete(key, None)]).await.map_err(|failed| failed.error) {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::memory::MemoryStore;
    use calico_core::resource::IpPoolSpec;
    use calico_ipam::AssignRequest;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn what_is_the_nodes_goes_and_the_rest_stays() {
        let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
        let put = async |kind: Kind, name: &str, spec: Value| {
            let value = json!({"kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec});
            let key = Key::resource(kind, Some("default"), name);
            store.put(key, value.to_string().into()).await.unwrap();
        };
        put(Kind::IpPool, "main", json!({"cidr": "10.0.0.0/16"})).await;
        for node in ["n1", "n2"] {
            put(Kind::Node, node, json!({})).await;
            put(Kind::WorkloadEndpoint, &format!("{node}-w"), json!({"node": node})).await;
            put(Kind::BgpPeer, &format!("{node}-peer"), json!({"node": node})).await;
            put(Kind::FelixConfiguration, &format!("node.{node}"), json!({})).await;
        }
        put(Kind::BgpPeer, "global", json!({"peerIP": "192.0.2.1"})).await;
        let ipam = Ipam::new(Arc::clone(&store), Options::default());
        for node in ["n1", "n2"] {
            let request = AssignRequest::new(node).handle(format!("h-{node}")).v4(1);
            let request = request.attribute("node", node);
            ipam.auto_assign(request).await.unwrap();
        }

        of_node(&store, "n1").await.unwrap();
        let left = store.list(&Scope::All).await.unwrap().entries;
        let left: Vec<String> = left.iter().map(|entry| entry.key.to_string()).collect();
        let of_n1: Vec<&String> = left.iter().filter(|path| path.contains("n1")).collect();
        assert_eq!(of_n1.len(), 1, "only the node itself is left: {of_n1:?}");
        for kept in ["bgppeers/global", "bgppeers/n2-peer", "default/n2-w", "handle/h-n2"] {
            assert!(left.iter().any(|path| path.ends_with(kept)), "{kept} in {left:?}");
        }
        of_node(&store, "n1").await.expect("it can be repeated");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_is_closed_before_it_goes() {
        let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
        let pool = IpPool::new("main", IpPoolSpec::new("10.0.0.0/16".parse().unwrap()));
        store.put(pool.key(), pool.to_json()).await.unwrap();
        let ipam = Ipam::new(Arc::clone(&store), Options::default());
        ipam.auto_assign(AssignRequest::new("n1").handle("h").v4(1)).await.unwrap();
        of_pool(&store, "main").await.unwrap();
        of_pool(&store, "unknown").await.unwrap();
        let stored: IpPool = store.get(&pool.key()).await.unwrap().decode().unwrap();
        assert!(stored.spec.disabled);
        assert_eq!(store.list(&Scope::Affinities).await.unwrap().entries, []);
        assert_eq!(ipam.blocks().await.unwrap()[0].owner, None, "in use, so it stays");
    }
}
