//! What others may ask about the speaker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use calico_bgp::rib::{RouteSource, RouteView};
use calico_bgp::runtime::SpeakerHandle;
use calico_bgp::speaker;
use calico_control::{BgpStatus, LearnedStatus, PeerStatus};
use calico_peering::{PeerType, SpeakerPlan};
use calico_router::BgpView;
use tokio::sync::watch;

#[derive(Debug)]
pub(super) struct View {
    pub(super) handle: SpeakerHandle,
    pub(super) plan: Arc<SpeakerPlan>,
    pub(super) types: BTreeMap<SocketAddr, PeerType>,
    pub(super) started: SystemTime,
    pub(super) configured: SystemTime,
}

/// What others may ask about the speaker; cheap to clone.
#[derive(Debug, Clone)]
pub struct RouterView(watch::Receiver<Option<Arc<View>>>);

impl Default for RouterView {
    fn default() -> Self {
        Self(watch::channel(None).1)
    }
}

/// Everything about a speaker at one moment.
#[derive(Debug)]
pub struct Report {
    /// What it was told to be.
    pub plan: Arc<SpeakerPlan>,
    /// When it started.
    pub started: SystemTime,
    /// When it was last told what to be.
    pub configured: SystemTime,
    /// Its sessions.
    pub peers: Vec<(PeerType, speaker::PeerStatus)>,
    /// Its table.
    pub routes: Vec<RouteView>,
}

impl RouterView {
    pub(super) const fn new(view: watch::Receiver<Option<Arc<View>>>) -> Self {
        Self(view)
    }

    /// Who answers questions about the speaker; `None` if there is none.
    #[must_use]
    pub fn questions(&self) -> Option<BgpView> {
        let view = self.0.borrow().clone()?;
        let kind = |(key, kind): (&SocketAddr, &PeerType)| (*key, kind.describe().to_owned());
        Some(BgpView::new(view.handle.clone(), view.types.iter().map(kind).collect()))
    }

    /// Everything about the speaker; `None` if there is none.
    pub async fn report(&self) -> Option<Report> {
        let view = self.0.borrow().clone()?;
        let peers = view.handle.peers().await.ok()?;
        let routes = view.handle.routes().await.ok()?;
        let typed = |peer: speaker::PeerStatus| {
            (view.types.get(&peer.config.key()).copied().unwrap_or_default(), peer)
        };
        Some(Report {
            plan: Arc::clone(&view.plan),
            started: view.started,
            configured: view.configured,
            peers: peers.into_iter().map(typed).collect(),
            routes,
        })
    }

    /// How the speaker is; `None` if there is none.
    pub async fn status(&self) -> Option<BgpStatus> {
        let report = self.report().await?;
        let mut status = BgpStatus {
            as_number: report.plan.identity.local_as,
            router_id: report.plan.identity.router_id.to_string(),
            ..BgpStatus::default()
        };
        status.peers = report
            .peers
            .into_iter()
            .map(|(peer_type, peer)| PeerStatus {
                address: peer.config.address,
                as_number: peer.config.remote_as,
                peer_type: peer_type.name().to_owned(),
                state: peer.state.to_string(),
                since_seconds: peer.since.elapsed().as_secs(),
                received: peer.prefixes_received as u64,
                last_error: peer.last_error.map(|error| error.to_string()),
            })
            .collect();
        for route in report.routes {
            let carrying = route.paths.iter().filter(|path| path.multipath);
            if route.paths.iter().any(|path| path.best && path.source == RouteSource::Local) {
                if report.plan.tells(&route.prefix) {
                    status.announced.push(route.prefix);
                }
            } else {
                let next_hops = carrying.filter_map(|path| path.attributes.next_hop);
                let next_hops = next_hops.map(|hop| hop.address()).collect();
                status.learned.push(LearnedStatus { prefix: route.prefix, next_hops });
            }
        }
        Some(status)
    }
}
