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

/// Refuses to work on a cluster of a release whose data this program does not know.
///
/// Clusters of upstream's releases 3.x have the same data; of our own releases it is the same
/// version. A cluster that says nothing is taken as it is.
pub(crate) fn check(cluster: &str) -> Result<(), Failure> {
    let plain = |text: &str| {
        let text = text.trim().trim_start_matches('v');
        text.split('-').next().unwrap_or_default().to_owned()
    };
    let (own, cluster) = (plain(env!("CARGO_PKG_VERSION")), plain(cluster));
    if cluster.is_empty() || cluster == own || cluster.starts_with("3.") {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "Version mismatch.\nClient Version:   v{own}\nCluster Version:  v{cluster}\nUse \
         --allow-version-mismatch to override."
    )))
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

    #[test]
    fn releases_with_the_same_data_get_along() {
        for fits in ["", "v3.32.0", "3.33.0-0.dev-5-gabc", concat!("v", env!("CARGO_PKG_VERSION"))]
        {
            assert!(check(fits).is_ok(), "{fits}");
        }
        for other in ["v4.0.0", "v2.6.12", "v0.0.9"] {
            let error = check(other).unwrap_err().to_string();
            assert!(error.contains("--allow-version-mismatch") && error.contains(other), "{error}");
        }
    }

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
