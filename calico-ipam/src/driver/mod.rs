//! The thin part with IO: compare-and-swap loops over any [`Datastore`].

mod allocator;
mod assign;
mod assign_ip;
mod check;
mod claim;
mod collect;
mod commit;
mod confirm;
mod host;
mod job;
mod machine;
mod owners;
mod release;
mod report;
mod service;
mod together;
pub(crate) mod view;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use calico_core::Datastore;
use calico_core::resource::IpamConfig;

pub use self::allocator::Allocator;
pub use self::collect::{Collected, Deed};
pub use self::host::HostReleased;
pub use self::owners::{Left, OwnerAttributes, OwnerChange};
pub use self::report::{BlockReport, BlockUse, Finding, PoolUse, UNPOOLED};
pub use self::service::Served;
pub use self::together::Ending;

use self::view::View;
use crate::error::IpamError;
use crate::plan::owner::Owner;
use crate::request::{AssignRequest, Assigned};

/// Tells the time. Passed in, so that tests and simulations bring their own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Settings of the driver. What the cluster decides is in the datastore instead.
#[derive(Clone)]
pub struct Options {
    /// Where the time of claims and releases comes from.
    pub clock: Clock,
    /// How often an operation is repeated when other writers were faster. Upstream: 100.
    pub retries: u32,
    /// Blocks that a node may own when neither request nor settings limit them. Upstream: 20.
    pub blocks_per_host: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { clock: Arc::new(SystemTime::now), retries: 100, blocks_per_host: 20 }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("retries", &self.retries)
            .field("blocks_per_host", &self.blocks_per_host)
            .finish_non_exhaustive()
    }
}

/// IP address management on a datastore, shared by every node without coordination.
///
/// Cheap to clone. Every call reads what it needs and writes by compare-and-swap; an
/// [`Allocator`] does the same with a memory. Any future may be dropped at any time: no address
/// is then given twice, and [`release_by_handle`](Self::release_by_handle) frees whatever the
/// dropped call assigned.
#[derive(Debug, Clone)]
pub struct Ipam {
    store: Arc<dyn Datastore>,
    options: Options,
}

impl Ipam {
    /// IPAM on `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Datastore>, options: Options) -> Self {
        Self { store, options }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Datastore> {
        &self.store
    }

    /// IPAM's settings in the datastore.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn config(&self) -> Result<IpamConfig, IpamError> {
        Ok(view::config(&*self.store).await?)
    }

    /// Assigns addresses of both families in one go: from blocks of the node, from new blocks, and
    /// from blocks of others, in this order.
    ///
    /// There may be fewer than asked for; see [`Assigned::complete`].
    ///
    /// # Errors
    ///
    /// [`IpamError::NoPool`] before anything is assigned. [`IpamError::Contention`] and
    /// [`IpamError::Store`] leave nothing behind if the store can be reached; if not, release the
    /// handle later.
    pub async fn auto_assign(&self, request: AssignRequest) -> Result<Assigned, IpamError> {
        let owner = request.owner();
        let mut view = View::load(&*self.store, &owner, &request.node).await?;
        let mut session = Session { ipam: self, view: &mut view, owner };
        let mut answers = session.assign(&[request], &|_, _| Vec::new()).await;
        let outcome = answers.pop().map(|outcome| outcome.assigned);
        outcome.unwrap_or_else(|| Err(IpamError::invalid("no request")))
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.options.clock)()
    }

    pub(crate) fn nanos(&self) -> u64 {
        let nanos = self.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// One operation of one owner of blocks, on what is known of the store.
pub(crate) struct Session<'a> {
    pub(crate) ipam: &'a Ipam,
    pub(crate) view: &'a mut View,
    pub(crate) owner: Owner,
}
