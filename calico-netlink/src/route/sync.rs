//! Carries the plan out, and follows the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use calico_core::dataplane::{DataplaneError, Route};
use ipnet::IpNet;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::config::RouteConfig;
use super::host::{self, HostRoute};
use super::kernel::KernelRoute;
use super::message;
use super::recursive;
use super::table::{Op, RouteTable, Standing};
use crate::address;
use crate::dataplane::RouteProgrammer;
use crate::link::{self, LinkFilter};
use crate::monitor::{Event, Follow, LinkChange, Monitor};
use crate::rtnl::{Connection, Outcome, RtnlError};

/// A first reading may be outdated by what happens meanwhile; a second one rarely is.
const ROUNDS: usize = 3;
/// Events come in bursts, and each of our own changes is one: they are taken together.
const GATHER: Duration = Duration::from_millis(20);
/// Between attempts to follow the kernel again after the socket broke.
const PAUSE: Duration = Duration::from_secs(1);

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
        let follower = tokio::spawn(follow(monitor, Arc::clone(&core)));
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

impl Core {
    fn resync(&mut self) -> Result<RouteReport, RtnlError> {
        let drift = self.read()?;
        Ok(RouteReport { drift, ..self.sync()? })
    }

    /// Reads interfaces and routes; returns how the routes differ from what is desired.
    fn read(&mut self) -> Result<Vec<String>, RtnlError> {
        let links = link::list(&mut self.connection, &LinkFilter::default())?;
        let routes = self.list()?;
        self.moved = true;
        self.others.send_replace(());
        Ok(self.table.observe(&links, routes))
    }

    /// Every route of our table, whoever made it.
    fn list(&mut self) -> Result<Vec<KernelRoute>, RtnlError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let query = message::query(family, self.table.config());
            let answers = match self.connection.dump(&query) {
                Ok(answers) => answers,
                // A table that nobody has used, or a kernel without IPv6.
                Err(RtnlError::Refused(refusal))
                    if matches!(refusal.errno, Errno::ENOENT | Errno::EOPNOTSUPP) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            routes.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => message::decode(message),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// Looks at these gateways again.
    fn look_up(&mut self, gateways: impl IntoIterator<Item = IpAddr>) -> Result<(), RtnlError> {
        let learned = self.table.config().via_protocol;
        for gateway in gateways {
            let hops = recursive::look_up(&mut self.connection, gateway, learned)?;
            self.table.gateway_seen(gateway, hops);
        }
        Ok(())
    }

    /// Carries out what there is to do.
    fn sync(&mut self) -> Result<RouteReport, RtnlError> {
        let mut changed = 0;
        if std::mem::take(&mut self.moved) {
            let gateways = self.table.far_gateways();
            self.look_up(gateways)?;
        }
        for round in 1..=ROUNDS {
            let ops = self.table.plan();
            if ops.is_empty() {
                break;
            }
            let config = self.table.config();
            let requests: Vec<_> = ops.iter().map(|op| message::request(op, config)).collect();
            let outcomes = match self.connection.exchange(&requests) {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    // Unknown what was done: everything is to be looked at again.
                    self.read()?;
                    return Err(error);
                }
            };
            let mut surprised = false;
            let mut refused = Vec::new();
            for (op, outcome) in ops.into_iter().zip(outcomes) {
                match settle(&op, outcome) {
                    Ok(()) => {
                        changed += 1;
                        self.table.done(op);
                    }
                    Err(reason) => {
                        surprised |= matches!(op, Op::Add(_)) && reason.errno == Errno::EEXIST;
                        let text = explain(&op, &reason);
                        self.table.refused(&op, text.clone());
                        refused.push((op, text));
                    }
                }
            }
            // Perhaps a next hop is on no link, but something leads to it.
            let destinations = refused.iter().filter(|(op, _)| !matches!(op, Op::Remove(_)));
            let gateways: BTreeSet<IpAddr> = destinations
                .flat_map(|(op, _)| self.table.gateways(&op.route().destination))
                .collect();
            self.look_up(gateways)?;
            let again = self.table.is_dirty();
            for (op, text) in &refused {
                if round == ROUNDS || !self.table.is_dirty_at(&op.route().destination) {
                    tracing::warn!(route = %op.route(), reason = %text, "route not made");
                }
            }
            if round == ROUNDS || !(surprised || again) {
                break;
            }
            // Something is where nothing was known to be: ours (the CNI program's) or another's.
            if surprised {
                self.read()?;
            }
        }
        Ok(RouteReport { changed, drift: Vec::new(), standing: self.standing() })
    }

    fn standing(&self) -> Vec<(IpNet, Standing)> {
        self.table.standing().map(|(at, standing)| (at, standing.clone())).collect()
    }

    fn digest(&mut self, event: Event) -> Result<(), RtnlError> {
        if !matches!(&event, Event::Route(message) | Event::RouteGone(message)
            if message::decode(message).is_some_and(|route| self.table.owns(&route)))
        {
            self.moved = true;
            self.others.send_replace(());
        }
        match event {
            Event::Link(event) if event.change == LinkChange::Gone => {
                self.table.link_gone(event.link.index);
            }
            Event::Link(event) => self.table.link_seen(&event.link),
            Event::Route(message) => {
                if let Some(route) = message::decode(&message) {
                    self.table.route_seen(route);
                }
                // It may lead to a gateway that could not be reached before.
                self.table.retry();
            }
            Event::RouteGone(message) => {
                if let Some(route) = message::decode(&message) {
                    self.table.route_gone(&route);
                }
                self.table.retry();
            }
            Event::Resync => {
                let drift = self.read()?;
                tracing::info!(differences = drift.len(), "read routes again after a loss");
            }
        }
        Ok(())
    }
}

fn settle(op: &Op, outcome: Outcome) -> Result<(), crate::rtnl::Refusal> {
    match outcome {
        Ok(_) => Ok(()),
        // Gone already, with its interface or by another's hand.
        Err(refusal)
            if matches!(op, Op::Remove(_))
                && matches!(refusal.errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV) =>
        {
            Ok(())
        }
        Err(refusal) => Err(refusal),
    }
}

fn explain(op: &Op, refusal: &crate::rtnl::Refusal) -> String {
    match op {
        Op::Add(_) if refusal.errno == Errno::EEXIST => {
            "a route that is not ours is in its place; remove that one, or give ours another \
             metric"
                .into()
        }
        _ => refusal.to_string(),
    }
}

async fn follow(mut monitor: Monitor, core: Arc<Mutex<Core>>) {
    loop {
        match gather(&mut monitor).await {
            Ok(events) => {
                let done = blocking(&core, move |core| {
                    for event in events {
                        core.digest(event)?;
                    }
                    core.sync()
                });
                if let Err(error) = done.await {
                    tracing::error!(%error, "cannot keep routes as desired");
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot follow the kernel's routes; starting again");
                monitor = reopen(&core).await;
            }
        }
    }
}

/// At least one event, and those that follow closely.
async fn gather(monitor: &mut Monitor) -> Result<Vec<Event>, RtnlError> {
    let mut events = vec![monitor.next().await?];
    let more = async {
        loop {
            match monitor.next().await {
                Ok(event) => events.push(event),
                Err(error) => return error,
            }
        }
    };
    match tokio::time::timeout(GATHER, more).await {
        Ok(error) => Err(error),
        Err(_elapsed) => Ok(events),
    }
}

async fn reopen(core: &Arc<Mutex<Core>>) -> Monitor {
    loop {
        tokio::time::sleep(PAUSE).await;
        match Monitor::open(Follow { routes: true }) {
            Ok(monitor) => match blocking(core, Core::resync).await {
                Ok(_) => return monitor,
                Err(error) => tracing::error!(%error, "cannot read routes"),
            },
            Err(error) => tracing::error!(%error, "cannot follow the kernel's routes"),
        }
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
