//! What a driver knows of the store: pools, settings, own blocks, handles.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::{Entry, Revision, StoreError};
use calico_core::key::{Key, OwnerType, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{
    AffinityState, BlockAffinityValue, IpPool, IpReservation, IpamConfig, IpamConfiguration,
    IpamHandle, Node,
};
use futures_util::future::{try_join, try_join4};
use ipnet::IpNet;
use tracing::warn;

use crate::plan::block::{Block, Cooldown};
use crate::plan::owner::Owner;
use crate::plan::pool::{Labels, Pool};
use crate::plan::reserved::Reserved;

/// Handles kept by a resident view; beyond, they are read again when needed.
const MAX_HANDLES: usize = 4096;

/// Pools and settings of the cluster, as one owner of blocks sees them.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) pools: Vec<Pool>,
    pub(crate) reserved: Reserved,
    pub(crate) config: IpamConfig,
    pub(crate) node: Labels,
}

/// State of the store that was read, or written by us, as of some moment. Every use is checked by
/// compare-and-swap.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) cluster: Cluster,
    /// Claims of the owner.
    pub(crate) own: BTreeMap<IpNet, (AffinityState, Revision)>,
    /// Blocks, own and others.
    pub(crate) blocks: HashMap<IpNet, (Block, Revision)>,
    pub(crate) handles: HashMap<String, (IpamHandle, Revision)>,
}

impl View {
    /// Reads what an assignment of `owner` on `node` needs, except for blocks.
    pub(crate) async fn load(
        store: &dyn Datastore,
        owner: &Owner,
        node: &str,
    ) -> Result<Self, StoreError> {
        let (cluster, own) = try_join(Cluster::load(store, node), claims(store, owner)).await?;
        Ok(Self { cluster, own, ..Self::default() })
    }

    pub(crate) fn remember_handle(&mut self, id: &str, handle: IpamHandle, revision: Revision) {
        if self.handles.len() >= MAX_HANDLES {
            self.handles.clear();
        }
        self.handles.insert(id.to_owned(), (handle, revision));
    }

    /// Own blocks whose claim is complete.
    pub(crate) fn confirmed(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.own
            .iter()
            .filter(|(_, (state, _))| *state == AffinityState::Confirmed)
            .map(|(cidr, _)| *cidr)
    }

    /// Forgets blocks of others, which somebody else may change at any time.
    pub(crate) fn forget_foreign(&mut self) {
        let own = &self.own;
        self.blocks.retain(|cidr, _| own.contains_key(cidr));
    }
}

impl Cluster {
    pub(crate) async fn load(store: &dyn Datastore, node: &str) -> Result<Self, StoreError> {
        let (pools, reservations) = (Scope::Kind(Kind::IpPool), Scope::Kind(Kind::IpReservation));
        let node = Key::resource(Kind::Node, None, node);
        let (pools, reservations, config, node) = try_join4(
            store.list(&pools),
            store.list(&reservations),
            config(store),
            store.find(&node),
        )
        .await?;
        Ok(Self {
            pools: read_pools(&pools.entries),
            reserved: read_reserved(&reservations.entries),
            config,
            node: node.as_ref().map(read_labels).unwrap_or_default(),
        })
    }

    pub(crate) fn cooldown(&self) -> Cooldown {
        cooldown(&self.config)
    }

    /// The pool that holds `block`.
    pub(crate) fn pool_of(&self, block: &IpNet) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.cidr.contains(block))
    }
}

/// How long released addresses rest.
pub(crate) fn cooldown(config: &IpamConfig) -> Cooldown {
    Cooldown { rest: std::time::Duration::from_secs(u64::from(config.ip_cooldown_seconds)) }
}

/// IPAM's settings: those of its own key, else of the resource, else the defaults.
pub(crate) async fn config(store: &dyn Datastore) -> Result<IpamConfig, StoreError> {
    if let Some(entry) = store.find(&Key::IpamConfig).await? {
        return entry.decode();
    }
    let resource = Key::resource(Kind::IpamConfiguration, None, "default");
    match store.find(&resource).await? {
        Some(entry) => Ok((&entry.decode::<IpamConfiguration>()?.spec).into()),
        None => Ok(IpamConfig::default()),
    }
}

/// The claims of `owner`.
pub(crate) async fn claims(
    store: &dyn Datastore,
    owner: &Owner,
) -> Result<BTreeMap<IpNet, (AffinityState, Revision)>, StoreError> {
    let scope = match owner.kind {
        OwnerType::Host => Scope::AffinitiesOf(owner.name.clone()),
        _ => Scope::Affinities,
    };
    let listing = store.list(&scope).await?;
    Ok(listing.entries.iter().filter_map(|entry| read_claim(owner, entry)).collect())
}

/// A claim of `owner`; `None` if the entry is something else. A claim that cannot be read counts
/// as pending, so that it is made good before use.
pub(crate) fn read_claim(
    owner: &Owner,
    entry: &Entry,
) -> Option<(IpNet, (AffinityState, Revision))> {
    let Key::Affinity { owner_type, owner: name, block } = &entry.key else { return None };
    if *owner_type != owner.kind || *name != owner.name {
        return None;
    }
    let state = entry.decode::<BlockAffinityValue>().ok().and_then(|value| value.state);
    Some((*block, (state.unwrap_or(AffinityState::Pending), entry.revision)))
}

/// Pools that can be used; others are reported and left out, so that one bad pool does not stop
/// the rest.
pub(crate) fn read_pools(entries: &[Entry]) -> Vec<Pool> {
    let read = |entry: &Entry| {
        let pool: IpPool = entry.decode().map_err(|error| error.to_string())?;
        Pool::new(&pool).map_err(|error| error.to_string())
    };
    let usable = |entry| read(entry).inspect_err(|error| warn!(%error, "ignoring an IP pool")).ok();
    entries.iter().filter_map(usable).collect()
}

pub(crate) fn read_reserved(entries: &[Entry]) -> Reserved {
    let read = |entry: &Entry| {
        entry
            .decode::<IpReservation>()
            .inspect_err(|error| warn!(%error, "ignoring an IP reservation"))
            .map(|reservation| reservation.spec.reserved_cidrs)
            .unwrap_or_default()
    };
    Reserved::new(entries.iter().flat_map(read).map(|cidr| cidr.0))
}

pub(crate) fn read_labels(entry: &Entry) -> Labels {
    entry.decode::<Node>().map(|node| node.metadata.labels).unwrap_or_default()
}

/// Reads one block; `None` if there is none.
pub(crate) async fn block(
    store: &Arc<dyn Datastore>,
    cidr: IpNet,
) -> Result<Option<(Block, Revision)>, StoreError> {
    match store.find(&Key::Block(cidr)).await? {
        Some(entry) => Ok(Some((Block::read(&entry)?, entry.revision))),
        None => Ok(None),
    }
}

/// Reads one handle; `None` if there is none.
pub(crate) async fn handle(
    store: &Arc<dyn Datastore>,
    id: &str,
) -> Result<Option<(IpamHandle, Revision)>, StoreError> {
    match store.find(&Key::Handle(id.to_owned())).await? {
        Some(entry) => Ok(Some((entry.decode()?, entry.revision))),
        None => Ok(None),
    }
}
