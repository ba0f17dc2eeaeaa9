//! The node's BGP speaker, started and changed as its [`SpeakerPlan`] says.

mod view;

pub use view::{Report, RouterView};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_bgp::runtime::{Shutdown, SpeakerHandle};
use calico_bgp::speaker::{Config, PeerChanges};
use calico_bgp::wire::PathAttributes;
use calico_core::routes::{RouteDistributor, RouteEvent, RouteStream};
use calico_peering::{Identity, Session, SpeakerPlan};
use calico_router::program;
use futures_util::StreamExt;
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use self::view::View;
use crate::config::Bgp;

/// The file in the run directory that says that a speaker ran here since the host started: its
/// successor asks the peers for their routes before it drops what the kernel has (RFC 4724).
const MARKER: &str = "bgp-running";

/// Time after which a speaker that could not start is tried again: an address to listen on may be
/// on its way.
const RETRY: Duration = Duration::from_secs(2);

/// Events that wait for the agent; the speaker waits when there are more.
const QUEUE: usize = 1024;

/// Starts, changes and stops the speaker.
#[derive(Debug)]
pub struct Router {
    enabled: bool,
    listen_port: Option<u16>,
    marker: PathBuf,
    /// Events with the number of the speaker that they come from.
    sender: mpsc::Sender<(u64, RouteEvent)>,
    receiver: mpsc::Receiver<(u64, RouteEvent)>,
    /// Number of the latest speaker; events of earlier ones are void.
    speaker: u64,
    /// What is to be told without a speaker.
    silence: VecDeque<RouteEvent>,
    announced: BTreeSet<IpNet>,
    /// Announced prefixes with another LOCAL_PREF than the usual one.
    preferred: BTreeMap<IpNet, u32>,
    /// What was asked for last.
    plan: Option<Arc<SpeakerPlan>>,
    running: Option<Running>,
    retry: Option<Instant>,
    view: watch::Sender<Option<Arc<View>>>,
}

#[derive(Debug)]
struct Running {
    identity: Identity,
    handle: SpeakerHandle,
    started: SystemTime,
    forward: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.forward.abort();
    }
}

impl Router {
    /// A router that leaves its marker in `run_dir`. Without `bgp` it never speaks.
    #[must_use]
    pub fn new(bgp: Option<&Bgp>, run_dir: &Path) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self {
            enabled: bgp.is_some(),
            listen_port: bgp.and_then(|bgp| bgp.listen_port),
            marker: run_dir.join(MARKER),
            sender,
            receiver,
            speaker: 0,
            silence: VecDeque::new(),
            announced: BTreeSet::new(),
            preferred: BTreeMap::new(),
            plan: None,
            running: None,
            retry: None,
            view: watch::channel(None).0,
        }
    }

    /// For those who ask about the speaker.
    #[must_use]
    pub fn view(&self) -> RouterView {
        RouterView::new(self.view.subscribe())
    }

    /// The next news from other routers. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> RouteEvent {
        loop {
            if let Some(event) = self.silence.pop_front() {
                return event;
            }
            // `self.sender` keeps the channel open.
            if let Some((speaker, event)) = self.receiver.recv().await
                && speaker == self.speaker
            {
                return event;
            }
        }
    }

    /// Whether there may be a speaker.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether there is a speaker.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// When [`retry`](Self::retry) wants to be called.
    #[must_use]
    pub const fn retry_at(&self) -> Option<Instant> {
        self.retry
    }

    /// Tries again to start the speaker.
    pub async fn retry(&mut self) {
        self.retry = None;
        if let Some(plan) = self.plan.clone() {
            self.follow(plan).await;
        }
    }

    /// Makes the speaker as the plan says; sessions that the change does not concern go on.
    pub async fn configure(&mut self, plan: Option<SpeakerPlan>) {
        let Some(plan) = plan.filter(|_| self.enabled) else {
            (self.plan, self.retry) = (None, None);
            return self.stop("BGP was turned off").await;
        };
        program::set_bgp_log(plan.log_severity);
        let plan = Arc::new(plan);
        let before = self.plan.replace(Arc::clone(&plan));
        let running = self.running.is_some();
        self.follow(Arc::clone(&plan)).await;
        let told_otherwise = before.is_some_and(|before| !before.announces_like(&plan));
        if running && told_otherwise {
            self.announce(self.announced.iter().copied().collect(), Vec::new()).await;
        }
    }

    async fn follow(&mut self, plan: Arc<SpeakerPlan>) {
        let mut identity = plan.identity.clone();
        if let Some(port) = self.listen_port {
            identity.listen.iter_mut().for_each(|address| address.set_port(port));
        }
        if self.running.as_ref().is_some_and(|running| running.identity != identity) {
            self.stop("the configuration of this speaker changed").await;
        }
        if self.running.is_none() && !self.start(identity).await {
            self.retry = Some(Instant::now() + RETRY);
            return;
        }
        let Some(running) = &self.running else { return };
        let peers = plan.sessions.iter().map(Session::peer_config).collect();
        match running.handle.set_peers(peers).await {
            Ok(Ok(changes)) => {
                let PeerChanges { added, removed, restarted, adjusted } = changes;
                if added.is_empty() && removed.is_empty() && restarted.is_empty() {
                    debug!(?adjusted, "what peers are told changed");
                } else {
                    info!(?added, ?removed, ?restarted, "configured BGP sessions");
                }
            }
            Ok(Err(error)) => {
                error!(%error, "the BGP sessions stay as they are: bad configuration")
            }
            Err(error) => error!(%error, "the BGP sessions stay as they are"),
        }
        let key = |session: &Session| SocketAddr::new(session.address, session.port);
        let types = plan.sessions.iter().map(|session| (key(session), session.peer_type)).collect();
        self.view.send_replace(Some(Arc::new(View {
            handle: running.handle.clone(),
            plan,
            types,
            started: running.started,
            configured: SystemTime::now(),
        })));
    }

    /// LOCAL_PREF of prefixes that are announced from now on, where it is not the usual one.
    pub fn prefer(&mut self, preferred: Vec<(IpNet, Option<u32>)>) {
        for (prefix, local_pref) in preferred {
            match local_pref {
                Some(local_pref) => self.preferred.insert(prefix, local_pref),
                None => self.preferred.remove(&prefix),
            };
        }
    }

    /// Announces and withdraws prefixes of this node.
    pub async fn announce(&mut self, announce: Vec<IpNet>, withdraw: Vec<IpNet>) {
        for prefix in &withdraw {
            self.announced.remove(prefix);
        }
        self.announced.extend(&announce);
        let Some(running) = &self.running else { return };
        if !announce.is_empty() {
            let routes = announce.into_iter().map(|p| (p, self.attributes(&p))).collect();
            match running.handle.announce(routes).await {
                Ok(refused) if refused.is_empty() => {}
                Ok(refused) => warn!(?refused, "these prefixes mean nothing beyond one link"),
                Err(error) => warn!(%error, "cannot announce a prefix"),
            }
        }
        if !withdraw.is_empty()
            && let Err(error) = running.handle.withdraw(withdraw).await
        {
            warn!(%error, "cannot withdraw a prefix");
        }
    }

    fn attributes(&self, prefix: &IpNet) -> PathAttributes {
        let usual = || self.plan.as_ref().and_then(|plan| plan.local_pref(prefix));
        let local_pref = self.preferred.get(prefix).copied().or_else(usual);
        PathAttributes { local_pref, ..PathAttributes::default() }
    }

    /// Ends the speaker so that the peers keep our routes for its successor.
    pub async fn shutdown(&mut self) {
        if let Some(running) = self.running.take() {
            running.handle.shutdown(Shutdown::GracefulRestart).await;
        }
    }

    async fn start(&mut self, identity: Identity) -> bool {
        let mut config = Config::new(identity.local_as, identity.router_id);
        config.listen.clone_from(&identity.listen);
        config.cluster_id = identity.cluster_id;
        config.restarting = self.marker.exists();
        let restarting = config.restarting;
        let handle = match SpeakerHandle::spawn(config) {
            Ok(handle) => handle,
            Err(error) => {
                error!(
                    error = &error as &dyn std::error::Error,
                    listen = ?identity.listen, again_in = ?RETRY, "cannot start the BGP speaker"
                );
                return false;
            }
        };
        info!(
            as_number = identity.local_as, router_id = %identity.router_id,
            listen = ?identity.listen, restarting, "started the BGP speaker"
        );
        if let Err(error) = std::fs::write(&self.marker, []) {
            warn!(%error, path = %self.marker.display(), "a restart will drop learned routes");
        }
        self.speaker += 1;
        self.silence.clear();
        let learned = RouteDistributor::learned(&handle);
        let forward = tokio::spawn(forward(learned, self.speaker, self.sender.clone()));
        let started = SystemTime::now();
        self.running = Some(Running { identity, handle, started, forward });
        let announced = self.announced.iter().copied().collect();
        self.announce(announced, Vec::new()).await;
        true
    }

    async fn stop(&mut self, why: &str) {
        let was_running = self.running.take();
        self.view.send_replace(None);
        if let Some(running) = was_running {
            info!(why, "stopped the BGP speaker");
            running.handle.shutdown(Shutdown::Cease(why.to_owned())).await;
        }
        // Nothing is learned without a speaker.
        self.speaker += 1;
        self.silence = VecDeque::from([RouteEvent::Begin, RouteEvent::Ready]);
    }
}

async fn forward(mut learned: RouteStream, speaker: u64, events: mpsc::Sender<(u64, RouteEvent)>) {
    while let Some(event) = learned.next().await {
        if events.send((speaker, event)).await.is_err() {
            return;
        }
    }
}
