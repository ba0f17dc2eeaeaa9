//! The speaker, started and changed as a plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use calico_bgp::runtime::{Shutdown, SpeakerHandle};
use calico_bgp::speaker::Config;
use calico_peering::{Identity, Note, Session, SpeakerPlan};
use calico_router::BgpView;
use calico_router::program::{Chain, set_bgp_log};
use tracing::{error, info, warn};

use crate::config::OnStop;
use crate::marker::Marker;
use crate::run;
use crate::service::Services;

/// A speaker that comes and goes with what the resources say.
#[derive(Debug)]
pub(crate) struct Reflector {
    marker: Marker,
    running: Option<(Identity, SpeakerHandle)>,
    told: BTreeSet<Note>,
}

impl Reflector {
    /// None runs yet.
    pub(crate) const fn new(marker: Marker) -> Self {
        Self { marker, running: None, told: BTreeSet::new() }
    }

    /// Makes the speaker as the plan says. Returns whether it is so; if not, try again later.
    pub(crate) async fn follow(&mut self, plan: Option<&SpeakerPlan>, services: &Services) -> bool {
        let Some(plan) = plan else {
            self.cease("the node of this reflector has no BGP address", services).await;
            return true;
        };
        set_bgp_log(plan.log_severity);
        for note in plan.notes.iter().filter(|note| !self.told.contains(note)) {
            warn!("{note}");
        }
        self.told = plan.notes.iter().cloned().collect();
        for (to, via) in &plan.gateways {
            warn!(%to, %via, "a BGPPeer needs this route; a reflector does not make any");
        }
        if self.running.as_ref().is_some_and(|(identity, _)| *identity != plan.identity) {
            self.cease("the configuration of this speaker changed", services).await;
        }
        if self.running.is_none() && !self.start(&plan.identity) {
            return false;
        }
        let Some((_, handle)) = &self.running else { return false };
        let peers = plan.sessions.iter().map(Session::peer_config).collect();
        match handle.set_peers(peers).await {
            Ok(Ok(changes)) => info!(
                added = ?changes.added, removed = ?changes.removed,
                restarted = ?changes.restarted, adjusted = ?changes.adjusted,
                "the resources are in force; all other sessions go on"
            ),
            Ok(Err(error)) => error!("the sessions stay as they are: {}", Chain(&error)),
            Err(error) => error!("the sessions stay as they are: {}", Chain(&error)),
        }
        let described = |session: &Session| {
            let key = SocketAddr::new(session.address, session.port);
            (key, session.peer_type.describe().to_owned())
        };
        let descriptions: BTreeMap<_, _> = plan.sessions.iter().map(described).collect();
        services.show(Some(BgpView::new(handle.clone(), descriptions)));
        true
    }

    fn start(&mut self, identity: &Identity) -> bool {
        let mut config = Config::new(identity.local_as, identity.router_id);
        config.listen.clone_from(&identity.listen);
        config.cluster_id = identity.cluster_id;
        config.restarting = self.marker.is_there();
        let restarting = config.restarting;
        let handle = match SpeakerHandle::spawn(config) {
            Ok(handle) => handle,
            Err(error) => {
                error!("cannot start the speaker, trying again: {}", Chain(&error));
                return false;
            }
        };
        if let Err(error) = self.marker.leave() {
            warn!(%error, "peers will drop the routes when this program restarts");
        }
        info!(
            as_number = identity.local_as, router_id = %identity.router_id,
            cluster_id = ?identity.cluster_id, listening = ?handle.listening(), restarting,
            "reflecting routes"
        );
        if identity.cluster_id.is_none() {
            warn!("this node is no route reflector: its Node has no routeReflectorClusterID");
        }
        self.running = Some((identity.clone(), handle));
        true
    }

    async fn cease(&mut self, why: &str, services: &Services) {
        services.show(None);
        if let Some((_, handle)) = self.running.take() {
            info!(why, "stopped the speaker");
            handle.shutdown(Shutdown::Cease(why.to_owned())).await;
        }
    }

    /// Ends the sessions so that the peers keep the routes for a successor.
    pub(crate) async fn stop(&mut self) {
        if let Some((_, handle)) = self.running.take() {
            run::stop(&handle, &self.marker, OnStop::Restart).await;
        }
    }
}
