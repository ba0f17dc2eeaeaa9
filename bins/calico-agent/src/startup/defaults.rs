//! What a new cluster lacks: the first pools, and resources that others expect to be there.

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{
    BgpConfiguration, ClusterInformation, FelixConfiguration, IpPool, IpamConfiguration,
    IpamConfigurationSpec, Persistence,
};
use ipnet::IpNet;
use serde_json::json;
use tracing::info;

use super::detect::Interface;
use super::{ATTEMPTS, Startup, StartupError, pools};
use crate::init::create;

impl Startup {
    /// Makes the first pools.
    pub(super) async fn make_pools(
        &self,
        store: &dyn Datastore,
        kubeadm: &str,
        interfaces: &[Interface],
    ) -> Result<(), StartupError> {
        let entries = store.list(&Scope::Kind(Kind::IpPool)).await?.entries;
        let existing: Vec<IpNet> =
            entries.iter().filter_map(|it| Some(it.decode::<IpPool>().ok()?.spec.cidr)).collect();
        let host: Vec<IpNet> =
            interfaces.iter().flat_map(|interface| interface.addresses.clone()).collect();
        let variable = |name: &str| self.variable(name);
        let wanted = pools::wanted(&variable, kubeadm, &existing, &host, random());
        for pool in wanted.map_err(StartupError::Wrong)? {
            info!(pool = pool.metadata.name, cidr = %pool.spec.cidr, "the cluster has no pool yet");
            create(store, pool.key(), &pool).await?;
        }
        Ok(())
    }

    /// What upstream's other programs and its users expect to be there.
    pub(super) async fn make_defaults(
        &self,
        store: &dyn Datastore,
        kubeadm: bool,
    ) -> Result<(), StartupError> {
        let felix = |name: String, spec: serde_json::Value| {
            let spec = serde_json::from_value(spec);
            let spec = spec.map_err(|error| StartupError::Wrong(error.to_string()))?;
            Ok::<_, StartupError>(FelixConfiguration::new(name, spec))
        };
        let usual = json!({"reportingInterval": "0s", "logSeverityScreen": "Info"});
        let usual = felix("default".to_owned(), usual)?;
        create(store, usual.key(), &usual).await?;
        if self.kubernetes.is_none() {
            let own = json!({"defaultEndpointToHostAction": "Return"});
            let own = felix(format!("node.{}", self.node), own)?;
            create(store, own.key(), &own).await?;
        }
        let bgp = BgpConfiguration::new("default", <_>::default());
        create(store, bgp.key(), &bgp).await?;
        // What holds without it, too; upstream's programs look for the resource.
        let ipam = IpamConfigurationSpec {
            auto_allocate_blocks: Some(true),
            kube_virt_vm_address_persistence: Some(Persistence::Enabled),
            ..IpamConfigurationSpec::default()
        };
        let ipam = IpamConfiguration::new("default", ipam);
        create(store, ipam.key(), &ipam).await?;
        self.add_cluster_type(store, kubeadm).await
    }

    /// Says what kind of cluster it is, beside what others say.
    async fn add_cluster_type(
        &self,
        store: &dyn Datastore,
        kubeadm: bool,
    ) -> Result<(), StartupError> {
        let named = self.variable("CLUSTER_TYPE").unwrap_or_default();
        let own = named.split(',').map(str::trim).filter(|part| !part.is_empty());
        let own = own.chain(kubeadm.then_some("kubeadm"));
        let own: Vec<&str> = own.chain(self.kubernetes.as_ref().map(|_| "kdd")).collect();
        let key = Key::resource(Kind::ClusterInformation, None, "default");
        for _ in 0..ATTEMPTS {
            // Made by the agent at the same time; without it there is nothing to add to yet.
            let Some(entry) = store.find(&key).await? else {
                return Err(
                    StoreError::Unavailable { reason: format!("{key} is not made yet") }.into()
                );
            };
            let mut cluster: ClusterInformation = entry.decode()?;
            let before = cluster.spec.cluster_type.clone();
            let mut parts: Vec<&str> = before.split(',').filter(|part| !part.is_empty()).collect();
            for part in &own {
                if !parts.contains(part) {
                    parts.push(part);
                }
            }
            let after = parts.join(",");
            if after == before {
                return Ok(());
            }
            cluster.spec.cluster_type = after;
            match store.update(key.clone(), cluster.to_json(), entry.revision).await {
                Err(error) if error.is_conflict() => {}
                result => return Ok(result.map(drop)?),
            }
        }
        Ok(())
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use calico_core::memory::MemoryStore;
    use calico_core::resource::AnyResource;

    use super::*;

    #[tokio::test]
    async fn a_cluster_gets_what_upstream_gives_it_and_keeps_what_it_has() {
        let store = MemoryStore::new();
        let started =
            Startup { node: "n1".to_owned(), kubernetes: None, variables: <_>::default() };
        crate::init::ensure_initialized(&store, || "guid".into()).await.unwrap();
        started.make_defaults(&store, false).await.unwrap();
        let text = async |kind, name: &str| {
            let entry = store.get(&Key::resource(kind, None, name)).await.unwrap();
            let resource: AnyResource = entry.decode().unwrap();
            serde_json::to_value(&resource).unwrap()["spec"].clone()
        };
        assert_eq!(
            text(Kind::IpamConfiguration, "default").await,
            json!({"strictAffinity": false, "autoAllocateBlocks": true,
                "kubeVirtVMAddressPersistence": "Enabled"})
        );
        let felix = text(Kind::FelixConfiguration, "default").await;
        assert_eq!(felix["reportingInterval"], "0s");
        let own = text(Kind::FelixConfiguration, "node.n1").await;
        assert_eq!(own["defaultEndpointToHostAction"], "Return");

        let ipam = Key::resource(Kind::IpamConfiguration, None, "default");
        let entry = store.get(&ipam).await.unwrap();
        let strict = entry.value.replace("\"strictAffinity\":false", "\"strictAffinity\":true");
        assert_ne!(*entry.value, strict);
        store.update(ipam, strict.into(), entry.revision).await.unwrap();
        started.make_defaults(&store, false).await.unwrap();
        assert_eq!(text(Kind::IpamConfiguration, "default").await["strictAffinity"], true);
    }
}
