//! `ipam configure`: IPAM's settings.

use calico_core::Datastore;
use calico_core::datastore::{Revision, StoreError, Write};
use calico_core::key::Key;
use calico_core::resource::{IpamConfig, IpamConfiguration, IpamConfigurationSpec, Persistence};

use crate::failure::Failure;

/// Attempts at the settings while others write them.
const TRIES: u32 = 5;

/// What to set; the rest stays.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    pub(crate) strict_affinity: Option<bool>,
    pub(crate) max_blocks_per_host: Option<u32>,
    pub(crate) persistence: Option<Persistence>,
    pub(crate) cooldown_seconds: Option<u32>,
}

/// Changes the settings, if they make sense together.
pub(crate) async fn run(store: &dyn Datastore, settings: Settings) -> Result<String, Failure> {
    let said = describe(settings);
    if said.is_empty() {
        return Err(Failure::Usage(
            "nothing to set; give --strictaffinity, --max-blocks-per-host, \
             --kubevirt-ip-persistence or --ip-cooldown-seconds"
                .to_owned(),
        ));
    }
    let mut tries = 1;
    loop {
        let (mut config, revision): (IpamConfig, Option<Revision>) =
            match store.find(&Key::IpamConfig).await? {
                Some(entry) => (entry.decode()?, Some(entry.revision)),
                None => (IpamConfig::default(), None),
            };
        apply(&mut config, settings);
        let spec = IpamConfigurationSpec::from(&config);
        IpamConfiguration::new("default", spec)
            .validate()
            .map_err(|errors| Failure::Invalid { name: "IPAM configuration".to_owned(), errors })?;
        config.auto_allocate_blocks.get_or_insert(true);
        let text = serde_json::to_string(&config).map_err(std::io::Error::from)?;
        let write = match revision {
            Some(revision) => Write::update(Key::IpamConfig, text, revision),
            None => Write::create(Key::IpamConfig, text),
        };
        match store.write(vec![write]).await.map_err(StoreError::from) {
            Ok(_) => return Ok(said),
            Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn apply(config: &mut IpamConfig, settings: Settings) {
    if let Some(strict) = settings.strict_affinity {
        config.strict_affinity = strict;
    }
    if let Some(blocks) = settings.max_blocks_per_host {
        config.max_blocks_per_host = blocks;
    }
    if settings.persistence.is_some() {
        config.kube_virt_vm_address_persistence = settings.persistence;
    }
    if let Some(seconds) = settings.cooldown_seconds {
        config.ip_cooldown_seconds = seconds;
    }
}

fn describe(settings: Settings) -> String {
    let text = |value: Option<&dyn ToString>| value.map(ToString::to_string);
    let mut out = String::new();
    for (name, value) in [
        ("StrictAffinity", text(settings.strict_affinity.as_ref().map(|v| v as &dyn ToString))),
        ("MaxBlocksPerHost", text(settings.max_blocks_per_host.as_ref().map(|v| v as _))),
        ("KubeVirtVMAddressPersistence", text(settings.persistence.as_ref().map(|v| v as _))),
        ("IPCooldownSeconds", text(settings.cooldown_seconds.as_ref().map(|v| v as _))),
    ] {
        if let Some(value) = value {
            out.push_str(&format!("Successfully set {name} to: {value}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::memory::MemoryStore;

    #[tokio::test]
    async fn settings_change_one_by_one_and_must_fit() {
        let store = MemoryStore::new();
        let fails = async |settings, part: &str| {
            let error = run(&store, settings).await.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails(Settings::default(), "nothing to set").await;
        let limit = Settings { max_blocks_per_host: Some(4), ..Settings::default() };
        fails(limit, "needs strictAffinity: true").await;
        let strict = Settings { strict_affinity: Some(true), ..Settings::default() };
        let said = run(&store, strict).await.unwrap();
        assert_eq!(said, "Successfully set StrictAffinity to: true\n");
        run(&store, limit).await.unwrap();
        let stored = store.get(&Key::IpamConfig).await.unwrap().value;
        let expected =
            r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4}"#;
        assert_eq!(&*stored, expected);
        let long = Settings { cooldown_seconds: Some(5000), ..Settings::default() };
        fails(long, "ipCooldownSeconds").await;
    }
}
