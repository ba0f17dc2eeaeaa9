//! `datastore migrate export`.

use calico_core::Datastore;
use calico_core::datastore::Entry;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::AnyResource;

use super::file::{Contents, Item};
use super::rename::for_kubernetes;
use crate::cluster::Cluster;
use crate::failure::Failure;

/// Upstream's order: what others refer to comes first.
const ORDER: &[Kind] = &[
    Kind::IpPool,
    Kind::BgpPeer,
    Kind::Tier,
    Kind::GlobalNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::GlobalNetworkSet,
    Kind::HostEndpoint,
    Kind::KubeControllersConfiguration,
    Kind::NetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
    Kind::NetworkSet,
    Kind::Node,
    Kind::BgpConfiguration,
    Kind::FelixConfiguration,
    Kind::IpReservation,
    Kind::BgpFilter,
];

/// Everything that the datastore holds, as a file. With `kubernetes`, what upstream's export for
/// Kubernetes has: nodes by their names there, without what Kubernetes knows itself.
pub(crate) async fn export(store: &dyn Datastore, kubernetes: bool) -> Result<String, Failure> {
    let locked = Cluster::read(store).await?.is_some_and(|cluster| cluster.is_locked());
    if !locked {
        return Err(Failure::Usage(
            "the datastore is not locked, so it may change meanwhile; run `calicoctl datastore \
             migrate lock` first"
                .to_owned(),
        ));
    }
    // One listing is one moment.
    let mut contents = collect(store.list(&Scope::All).await?.entries)?;
    if kubernetes {
        contents.resources.retain(|resource| ORDER.contains(&resource.kind));
        for_kubernetes(&mut contents);
    }
    Ok(contents.write().map_err(std::io::Error::from)?)
}

fn collect(entries: Vec<Entry>) -> Result<Contents, Failure> {
    let mut contents = Contents::default();
    for entry in entries {
        if let Key::Resource { kind, .. } = &entry.key {
            // Who runs the workloads says it anew wherever the data goes (upstream leaves it out).
            if kind.is_internal() {
                continue;
            }
            let mut resource: AnyResource = entry.decode()?;
            // Of this datastore only; some keep it in the text, some do not.
            resource.metadata.resource_version.clear();
            if entry.key == Cluster::key() {
                contents.cluster = Some(resource);
            } else {
                contents.resources.push(resource);
            }
            continue;
        }
        let value = match &*entry.value {
            // An old way to write a claim.
            "" => serde_json::json!({}),
            _ => entry.decode()?,
        };
        let item = Item { key: entry.key, value, ttl: 0 };
        match &item.key {
            Key::Block(_) => contents.ipam.blocks.push(item),
            Key::Affinity { .. } => contents.ipam.block_affinities.push(item),
            Key::Handle(_) => contents.ipam.handles.push(item),
            Key::IpamConfig => contents.ipam.config = Some(item),
            Key::IpamHost(_) => contents.ipam.hosts.push(item),
            other => {
                return Err(Failure::Usage(format!("{other} cannot be exported by this version")));
            }
        }
    }
    let rank = |resource: &AnyResource| {
        ORDER.iter().position(|kind| *kind == resource.kind).unwrap_or(ORDER.len())
    };
    contents.resources.sort_by_key(rank);
    Ok(contents)
}
