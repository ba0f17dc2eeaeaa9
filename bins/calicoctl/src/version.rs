//! `version`.

use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::ClusterInformation;

use crate::failure::Failure;
use crate::output::table::Table;

/// Version of this program.
pub(crate) fn client() -> String {
    lines(&[
        ("Client Version:", concat!("v", env!("CARGO_PKG_VERSION"))),
        ("Git commit:", option_env!("CALICO_GIT_COMMIT").unwrap_or("unknown")),
    ])
}

/// Version of the cluster, as it says itself.
pub(crate) async fn cluster(store: &dyn Datastore) -> Result<String, Failure> {
    let key = Key::resource(Kind::ClusterInformation, None, "default");
    let spec = match store.find(&key).await? {
        Some(entry) => entry.decode::<ClusterInformation>()?.spec,
        None => Default::default(),
    };
    let known = |text: String| if text.is_empty() { "unknown".to_owned() } else { text };
    let (version, kind) = (known(spec.calico_version), known(spec.cluster_type));
    Ok(lines(&[("Cluster Version:", &version), ("Cluster Type:", &kind)]))
}

fn lines(pairs: &[(&str, &str)]) -> String {
    let mut table = Table::new(&["Cluster Version:", ""]);
    table.rows = pairs.iter().map(|(a, b)| vec![(*a).to_owned(), (*b).to_owned()]).collect();
    let text = table.aligned();
    // The heading only sets the width.
    text.split_once('\n').map_or_else(String::new, |(_, rows)| rows.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::memory::MemoryStore;

    #[tokio::test]
    async fn versions_are_aligned() {
        assert!(client().starts_with("Client Version:    v0."), "{}", client());
        let store = MemoryStore::new();
        let unknown = "Cluster Version:   unknown\nCluster Type:      unknown\n";
        assert_eq!(cluster(&store).await.unwrap(), unknown);
        let info = r#"{"spec":{"calicoVersion":"v3.32.0","clusterType":"lab,bgp"}}"#;
        let key = Key::resource(Kind::ClusterInformation, None, "default");
        store.put(key, info.into()).await.unwrap();
        let known = "Cluster Version:   v3.32.0\nCluster Type:      lab,bgp\n";
        assert_eq!(cluster(&store).await.unwrap(), known);
    }
}
