//! Carries the plan out, and follows the kernel.

mod core;
mod follow;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use calico_core::dataplane::{DataplaneError, Route};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::config::RouteConfig;
use super::host::{self, HostRoute};
use super::table::{RouteTable, Standing};
use crate::address;
use crate::dataplane::RouteProgrammer;
use crate::link::{self, LinkFilter};
use crate::monitor::{Follow, Monitor};
use crate::rtnl::{Connection, RtnlError};

/// A first reading may be outdated by what happens meanwhile; a second one rarely is.
const ROUNDS: usize = 3;

/// What came of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteReport {
    /// How many changes the kernel carried out.
    pub changed: usize,
    /// How the kernel differed from the desired state before the call, if it was compared.
    pub drift: Vec<String>,
    /// Desired routes that are not in the kernel, and why: refused, or waiting for an interface.
    /// They are made as soon as they can be.
    pub standing: Vec<(IpNet, Standing)>,
}

/// Makes the kernel's routes as desired, and keeps them so. See the [module](super).
///
/// A route that cannot be made (yet) is no error of a call, for one wrong route must not stop
/// the others; see [`RouteReport::standing`].
#[derive(Debug)]
pub struct RouteSync {
    core: Arc<Mutex<Core>>,
    follower: JoinHandle<()>,
}

#[derive(Debug)]
struct Core {
    connection: Connection,
    table: RouteTable,
    /// Whether what leads to gateways on no link may have changed.
    moved: bool,
    /// Told when routes or interfaces changed that are not ours.
    others: watch::Sender<()>,
}

impl RouteSync {
    /// Reads the routes of the calling thread's namespace and starts to follow them. Changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// See [`RtnlError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(config: RouteConfig) -> Result<Self, RtnlError> {
        // Follow first, read then: nothing falls between.
        let monitor = Monitor::open(Follow { routes: true })?;
        let mut connection = Connection::open()?;
        connection.answer_within(config.answer_within)?;
        let others = watch::Sender::new(());
        let mut core = Core { connection, table: RouteTable::new(config), moved: false, others };
        core.read()?;
        let core = Arc::new(Mutex::new(core));
        let follower = tokio::spawn(follow::follow(monitor, Arc::clone(&core)));
        Ok(Self { core, follower })
    }

    /// Desires some routes, and none to the destinations in `gone`.
    ///
    /// Safe to drop: the change then takes effect in the background.
    ///
    /// # Errors
    ///
    /// If the conversation with the kernel fails; the next call tries again.
    pub async fn change(&self, have: &[Route], gone: &[IpNet]) -> Result<RouteReport, RtnlError> {
        let (have, gone) = (have.to_vec(), gone.to_vec());
        self.with_core(move |core| {
            for destination in gone {
                core.table.forget(destination);
            }
            for route in have {
                core.table.desire(route);
            }
            core.sync()
        })
        .await
    }

    /// Desires exactly these routes: the desired state is complete. Compares with the kernel,
    /// repairs, and removes those of ours that are not desired; without `learned` not those over
    /// other routers, which may still be learned. Safe to drop, like
    /// [`change`](Self::change).
    ///
    /// # Errors
    ///
    /// See [`change`](Self::change).
    pub async fn replace_all(
        &self,
        routes: &[Route],
        learned: bool,
    ) -> Result<RouteReport, RtnlError> {
        let routes = routes.to_vec();
        self.with_core(move |core| {
            core.table.desire_exactly(&routes, learned);
            core.resync()
        })
        .await
    }

    /// Another configuration holds from now on: routes of ours that are not as it wants them are
    /// made anew, the new one before the old one goes. Safe to drop, like
    /// [`change`](Self::change).
    ///
    /// # Errors
    ///
    /// See [`change`](Self::change).
    pub async fn configure(&self, config: RouteConfig) -> Result<RouteReport, RtnlError> {
        self.with_core(move |core| {
            if *core.table.config() == config {
                return Ok(RouteReport { standing: core.standing(), ..RouteReport::default() });
            }
            core.connection.answer_within(config.answer_within)?;
            core.table.configure(config);
            // What the kernel has and was not ours may be so now.
            core.read()?;
            core.sync()
        })
        .await
    }

    /// Compares with the kernel and repairs. Safe to drop, like [`change`](Self::change).
    ///
    /// # Errors
    ///
    /// See [`change`](Self::change).
    pub async fn resync(&self) -> Result<RouteReport, RtnlError> {
        self.with_core(Core::resync).await
    }

    /// Tells when routes that are not ours, or interfaces, may have changed: then
    /// [`host_routes`](Self::host_routes) may say something else.
    #[must_use]
    pub fn others_changed(&self) -> watch::Receiver<()> {
        lock(&self.core).others.subscribe()
    }

    /// The routes of the host that are not ours, sorted, at most so many; and how many more there
    /// are. Reads all of the kernel's.
    ///
    /// # Errors
    ///
    /// If the conversation with the kernel fails.
    pub async fn host_routes(&self, most: usize) -> Result<(Vec<HostRoute>, usize), RtnlError> {
        blocking(&self.core, move |core| {
            let links = link::list(&mut core.connection, &LinkFilter::default())?;
            let addresses = address::list(&mut core.connection, None)?;
            let routes = core.list()?;
            Ok(host::of(&core.table, &links, &addresses, &routes, most))
        })
        .await
    }

    /// Desired routes that are not in the kernel now, and why.
    #[must_use]
    pub fn standing(&self) -> Vec<(IpNet, Standing)> {
        lock(&self.core).standing()
    }

    /// From now on only calls look at the kernel.
    #[cfg(test)]
    pub(super) fn stop_following(&self) {
        self.follower.abort();
    }

    async fn with_core(
        &self,
        work: impl FnOnce(&mut Core) -> Result<RouteReport, RtnlError> + Send + 'static,
    ) -> Result<RouteReport, RtnlError> {
        blocking(&self.core, work).await
    }
}

impl Drop for RouteSync {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

#[async_trait]
impl RouteProgrammer for RouteSync {
    async fn change(&self, have: &[Route], gone: &[IpNet]) -> Result<(), DataplaneError> {
        self.change(have, gone).await.map(drop).map_err(unavailable)
    }

    async fn replace_all(
        &self,
        routes: &[Route],
        learned: bool,
    ) -> Result<Vec<String>, DataplaneError> {
        self.replace_all(routes, learned).await.map(|report| report.drift).map_err(unavailable)
    }
}

async fn blocking<T: Send + 'static>(
    core: &Arc<Mutex<Core>>,
    work: impl FnOnce(&mut Core) -> Result<T, RtnlError> + Send + 'static,
) -> Result<T, RtnlError> {
    let core = Arc::clone(core);
    match tokio::task::spawn_blocking(move || work(&mut lock(&core))).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => {
                Err(RtnlError::Io { doing: "change routes", source: std::io::Error::other(error) })
            }
        },
    }
}

/// After a panic in the middle, the next resync puts right what is wrong.
fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: RtnlError) -> DataplaneError {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    DataplaneError::Unavailable { reason }
}
