//! What goes with a node when it is deleted, as in upstream's etcd mode.

use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::{StoreError, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::AnyResource;
use calico_ipam::{Ipam, Options};

use crate::failure::Failure;

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
}
