//! `ipam split`: one pool becomes several smaller ones, with the blocks as they are.

use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::Write;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, IpPool};
use ipnet::IpNet;

use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::stored::{Stamp, new_text};

/// Most pools that one may become.
const MAX_POOLS: u32 = 1 << 12;

/// Which pool.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    Cidr(IpNet),
    Name(String),
}

/// Splits a pool into `number` parts. The datastore must be locked: no block may be claimed
/// while pools overlap.
pub(crate) async fn run(
    store: Arc<dyn Datastore>,
    number: u32,
    which: &Which,
    stamp: &Stamp,
) -> Result<String, Failure> {
    if !Cluster::read(&*store).await?.is_some_and(|cluster| cluster.is_locked()) {
        return Err(Failure::Usage(
            "the datastore is not locked; run `calicoctl datastore migrate lock` first".to_owned(),
        ));
    }
    let (pool, entry) = find(&*store, which).await?;
    let parts = parts(&pool, number)?;
    let mut writes = Vec::new();
    let mut closed = pool.clone();
    closed.spec.disabled = true;
    closed.metadata.resource_version.clear();
    writes.push(Write::update(pool.key(), closed.to_json(), entry));
    let mut names = Vec::new();
    for (nth, cidr) in parts.into_iter().enumerate() {
        let name = format!("split-{}-{nth}", pool.name());
        let key = Key::resource(Kind::IpPool, None, &name);
        let mut part = IpPool::new(name.clone(), pool.spec.clone());
        part.metadata.labels = pool.metadata.labels.clone();
        part.metadata.annotations = pool.metadata.annotations.clone();
        part.spec.cidr = cidr;
        // Left by an attempt that was cut off: it knows whether the pool was enabled.
        let found = store.find(&key).await?;
        match found.and_then(|entry| entry.decode::<IpPool>().ok()) {
            Some(found) if found.spec.cidr == cidr => {}
            Some(_) => {
                return Err(Failure::Usage(format!("there is another IP pool {name} already")));
            }
            None => writes.push(Write::create(key, new_text(AnyResource::from(part), stamp))),
        }
        names.push(format!("  {name}: {cidr}\n"));
    }
    writes.push(Write::delete(pool.key(), None));
    store.write(writes).await.map_err(|failed| Failure::Store(failed.error))?;
    Ok(format!(
        "Successfully split IP pool {} ({}) into {number}:\n{}",
        pool.name(),
        pool.spec.cidr,
        names.concat()
    ))
}

async fn find(
    store: &dyn Datastore,
    which: &Which,
) -> Result<(IpPool, calico_core::datastore::Revision), Failure> {
    for entry in store.list(&Scope::Kind(Kind::IpPool)).await?.entries {
        let Ok(pool) = entry.decode::<IpPool>() else { continue };
        let wanted = match which {
            Which::Cidr(cidr) => pool.spec.cidr == *cidr,
            Which::Name(name) => pool.name() == name,
        };
        if wanted {
            return Ok((pool, entry.revision));
        }
    }
    Err(Failure::Usage(match which {
        Which::Cidr(cidr) => format!("there is no IP pool {cidr}"),
        Which::Name(name) => format!("there is no IP pool {name}"),
    }))
}

fn parts(pool: &IpPool, number: u32) -> Result<Vec<IpNet>, Failure> {
    if !number.is_power_of_two() || !(2..=MAX_POOLS).contains(&number) {
        return Err(Failure::Usage(format!(
            "a pool is split into 2, 4, 8, ... pools (at most {MAX_POOLS}), not into {number}"
        )));
    }
    let cidr = pool.spec.cidr;
    let length = u32::from(cidr.prefix_len()) + number.trailing_zeros();
    let length = u8::try_from(length).ok().filter(|length| *length <= pool.spec.block_size());
    let subnets = length.and_then(|length| cidr.subnets(length).ok());
    subnets.map(Iterator::collect).ok_or_else(|| {
        Failure::Usage(format!(
            "{cidr} cannot be split into {number} pools: each would be smaller than a block of /{}",
            pool.spec.block_size()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::leaky_store;
    use super::*;
    use calico_ipam::{Ipam, Options};

    const STAMP: Stamp = Stamp { now: std::time::UNIX_EPOCH, uid: || "u".to_owned() };

    #[tokio::test]
    async fn a_pool_becomes_several_and_nobody_loses_an_address() {
        let store = leaky_store().await;
        let run =
            async |number, which: &Which| run(Arc::clone(&store), number, which, &STAMP).await;
        let by_name = Which::Name("main".into());
        for (number, part) in [(3, "not into 3"), (1, "not into 1"), (8, "smaller than a block")] {
            let error = run(number, &by_name).await.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let ipam = Ipam::new(Arc::clone(&store), Options::default());
        let before = ipam.blocks().await.unwrap();
        let said = run(2, &Which::Cidr("10.65.0.0/24".parse().unwrap())).await.unwrap();
        assert_eq!(
            said,
            "Successfully split IP pool main (10.65.0.0/24) into 2:\n  split-main-0: \
             10.65.0.0/25\n  split-main-1: 10.65.0.128/25\n"
        );
        assert_eq!(ipam.blocks().await.unwrap(), before);
        let pools = ipam.utilization().await.unwrap();
        assert_eq!(pools.len(), 2);
        assert_eq!(pools.iter().map(|pool| pool.in_use).sum::<u128>(), 3);
        assert!(run(2, &by_name).await.unwrap_err().to_string().contains("no IP pool main"));
        crate::cluster::set_ready(&*store, true).await.unwrap();
        assert!(run(2, &by_name).await.unwrap_err().to_string().contains("not locked"));
    }
}
