//! The handle of a running speaker.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use tokio::sync::{Notify, mpsc, oneshot};

use super::driver::Driver;
use super::subscription::Shared;
use super::{RouteSubscription, SpawnError, SpeakerStopped, listener};
use crate::rib::{AdvertisedRoute, Explanation, ReceivedRoute, RouteView};
use crate::speaker::{
    Config, ConfigError, DynamicPeers, PeerChanges, PeerConfig, PeerStatus, Speaker,
};
use crate::wire::PathAttributes;

/// Commands that wait while the speaker is busy.
const COMMAND_QUEUE: usize = 64;

/// How a speaker ends its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shutdown {
    /// With a NOTIFICATION that carries this text (RFC 9003): the peers drop the routes.
    Cease(String),
    /// By closing the connections: peers with graceful restart keep the routes for the restart
    /// time (RFC 4724).
    GracefulRestart,
}

/// New subscribers on their way to the driver.
#[derive(Default)]
pub(super) struct Subscribers {
    pub(super) new: Mutex<Vec<Arc<Shared>>>,
    pub(super) wake: Notify,
}

impl Subscribers {
    pub(super) fn take(&self) -> Vec<Arc<Shared>> {
        std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the handle asks of the task that owns the speaker.
pub(super) enum Command {
    SetPeers(Vec<PeerConfig>, oneshot::Sender<Result<PeerChanges, ConfigError>>),
    SetDynamic(Vec<DynamicPeers>, oneshot::Sender<Result<(), ConfigError>>),
    Refresh(SocketAddr, oneshot::Sender<bool>),
    Announce(Vec<(IpNet, PathAttributes)>, oneshot::Sender<Vec<IpNet>>),
    Withdraw(Vec<IpNet>, oneshot::Sender<()>),
    NextHopMetric(IpAddr, Option<u32>, oneshot::Sender<()>),
    Reset(SocketAddr, oneshot::Sender<bool>),
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    Routes(Option<IpNet>, oneshot::Sender<Vec<RouteView>>),
    RoutesWithin(IpNet, oneshot::Sender<Vec<RouteView>>),
    Lookup(IpAddr, oneshot::Sender<Option<RouteView>>),
    Explain(IpNet, oneshot::Sender<Option<Explanation>>),
    Received(SocketAddr, oneshot::Sender<Option<Vec<ReceivedRoute>>>),
    Advertised(SocketAddr, oneshot::Sender<Option<Vec<AdvertisedRoute>>>),
    Inspect(Box<dyn FnOnce(&Speaker) + Send>),
    Shutdown(Shutdown, oneshot::Sender<()>),
}

/// A running speaker. Clones are handles of the same one; it ends with
/// [`shutdown`](Self::shutdown), or with a NOTIFICATION when the last handle is dropped.
///
/// Dropping a future of a method before it is ready leaves it open whether the command was
/// carried out; all commands can be repeated.
#[derive(Clone)]
pub struct SpeakerHandle {
    commands: mpsc::Sender<Command>,
    subscribers: Arc<Subscribers>,
    listening: Arc<[SocketAddr]>,
}

impl std::fmt::Debug for SpeakerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpeakerHandle").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl SpeakerHandle {
    /// Starts a speaker on the current tokio runtime.
    ///
    /// # Errors
    /// [`SpawnError`] for a configuration that cannot work or an address that cannot be
    /// listened on; nothing runs then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(config: Config) -> Result<Self, SpawnError> {
        let listeners = listener::bind(&config.listen)?;
        let listening = listeners
            .iter()
            .zip(&config.listen)
            .map(|(l, wanted)| l.local_addr().unwrap_or(*wanted))
            .collect();
        let seed = RandomState::new().hash_one(config.router_id);
        let speaker = Speaker::new(config, seed, Instant::now())?;
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let subscribers = Arc::new(Subscribers::default());
        let driver = Driver::new(speaker, listeners, queue, Arc::clone(&subscribers));
        tokio::spawn(driver.run());
        Ok(Self { commands, subscribers, listening })
    }

    /// The addresses that are listened on; with port 0 in the configuration, the real ports.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Makes these the peers; see [`Speaker::set_peers`].
    ///
    /// # Errors
    /// [`SpeakerStopped`]; inside, [`ConfigError`] if the peers cannot be: then nothing changed.
    pub async fn set_peers(
        &self,
        peers: Vec<PeerConfig>,
    ) -> Result<Result<PeerChanges, ConfigError>, SpeakerStopped> {
        self.ask(|reply| Command::SetPeers(peers, reply)).await
    }

    /// Makes these the prefixes of dynamic neighbours; see [`Speaker::set_dynamic`].
    ///
    /// # Errors
    /// [`SpeakerStopped`]; inside, [`ConfigError`] if they cannot be: then nothing changed.
    pub async fn set_dynamic(
        &self,
        dynamic: Vec<DynamicPeers>,
    ) -> Result<Result<(), ConfigError>, SpeakerStopped> {
        self.ask(|reply| Command::SetDynamic(dynamic, reply)).await
    }

    /// Asks a peer for all its routes again (RFC 2918). Returns whether it was asked.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn request_refresh(&self, peer: SocketAddr) -> Result<bool, SpeakerStopped> {
        self.ask(|reply| Command::Refresh(peer, reply)).await
    }

    /// Announces routes of this speaker, with attributes. Returns those that mean nothing beyond
    /// one link and were left out.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn announce(
        &self,
        routes: Vec<(IpNet, PathAttributes)>,
    ) -> Result<Vec<IpNet>, SpeakerStopped> {
        self.ask(|reply| Command::Announce(routes, reply)).await
    }

    /// Takes back routes of this speaker.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn withdraw(&self, prefixes: Vec<IpNet>) -> Result<(), SpeakerStopped> {
        self.ask(|reply| Command::Withdraw(prefixes, reply)).await
    }

    /// Tells the metric of the way to a next hop, or with `None` that there is none.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn set_next_hop_metric(
        &self,
        next_hop: IpAddr,
        metric: Option<u32>,
    ) -> Result<(), SpeakerStopped> {
        self.ask(|reply| Command::NextHopMetric(next_hop, metric, reply)).await
    }

    /// Resets the session of a peer. Returns whether the peer is known.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn reset(&self, peer: SocketAddr) -> Result<bool, SpeakerStopped> {
        self.ask(|reply| Command::Reset(peer, reply)).await
    }

    /// All peers with state, counters and last error.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, SpeakerStopped> {
        self.ask(Command::Peers).await
    }

    /// The whole table, sorted by prefix: every path, which is best, and which step decided.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn routes(&self) -> Result<Vec<RouteView>, SpeakerStopped> {
        self.ask(|reply| Command::Routes(None, reply)).await
    }

    /// One destination of the table.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn route(&self, prefix: IpNet) -> Result<Option<RouteView>, SpeakerStopped> {
        Ok(self.ask(|reply| Command::Routes(Some(prefix), reply)).await?.pop())
    }

    /// The destinations inside a prefix, itself included, sorted by prefix.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn routes_within(&self, prefix: IpNet) -> Result<Vec<RouteView>, SpeakerStopped> {
        self.ask(|reply| Command::RoutesWithin(prefix, reply)).await
    }

    /// The destination that packets to an address take: that with the longest prefix.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn lookup(&self, address: IpAddr) -> Result<Option<RouteView>, SpeakerStopped> {
        self.ask(|reply| Command::Lookup(address, reply)).await
    }

    /// One destination: its paths, which steps decided between them, and for each peer what it
    /// hears of the best one, or why it hears nothing. [`peers`](Self::peers) has the addresses
    /// of the peers by number.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn explain(&self, prefix: IpNet) -> Result<Option<Explanation>, SpeakerStopped> {
        self.ask(|reply| Command::Explain(prefix, reply)).await
    }

    /// The routes that a peer told, sorted by prefix, before and after import policy; `None` for
    /// a peer that is not known.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn received(
        &self,
        peer: SocketAddr,
    ) -> Result<Option<Vec<ReceivedRoute>>, SpeakerStopped> {
        self.ask(|reply| Command::Received(peer, reply)).await
    }

    /// The routes that a peer was told, sorted by prefix, with the attributes that it was sent;
    /// `None` for a peer that is not known.
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn advertised(
        &self,
        peer: SocketAddr,
    ) -> Result<Option<Vec<AdvertisedRoute>>, SpeakerStopped> {
        self.ask(|reply| Command::Advertised(peer, reply)).await
    }

    /// Asks the speaker anything. Everything else waits meanwhile, so look at a large table in
    /// [pages](crate::rib::Rib::page).
    ///
    /// # Errors
    /// [`SpeakerStopped`]
    pub async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Speaker) -> T + Send + 'static,
    ) -> Result<T, SpeakerStopped> {
        // Whoever asked may have gone.
        let answer = |reply: oneshot::Sender<T>| {
            Command::Inspect(Box::new(move |speaker| drop(reply.send(look(speaker)))))
        };
        self.ask(answer).await
    }

    /// Follows the best routes, those of this speaker included.
    pub fn subscribe(&self) -> RouteSubscription {
        let (shared, subscription) = Shared::new();
        let late = Arc::clone(&shared);
        self.subscribers.new.lock().unwrap_or_else(PoisonError::into_inner).push(shared);
        if self.commands.is_closed() {
            late.close();
        }
        self.subscribers.wake.notify_one();
        subscription
    }

    /// Ends the speaker; ready when the last bytes are sent. Later calls of any method find it
    /// stopped, and calling this again does nothing.
    pub async fn shutdown(&self, how: Shutdown) {
        // A speaker that is stopped already is what was asked for.
        let _ = self.ask(|reply| Command::Shutdown(how, reply)).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, SpeakerStopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_closed| SpeakerStopped)?;
        answer.await.map_err(|_closed| SpeakerStopped)
    }
}
