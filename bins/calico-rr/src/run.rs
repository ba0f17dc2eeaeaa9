//! Running from a file.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use calico_bgp::runtime::{Shutdown, SpeakerHandle};
use calico_bgp::wire::PathAttributes;
use calico_router::BgpView;
use calico_router::notify::notify;
use calico_router::program::Chain;
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::config::{Config, OnStop, Service};
use crate::marker::Marker;
use crate::service::Services;
use crate::watch::Watch;

/// Runs until SIGTERM or SIGINT. `overrule` says what counts more than the file.
pub(crate) async fn serve(
    path: &Path,
    mut config: Config,
    overrule: impl Fn(&mut Service),
) -> Result<(), Box<dyn Error>> {
    overrule(&mut config.service);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // The socket goes first: it finds out whether another process runs here.
    let services = Services::start(&config.service, config.speaker.selection_deferral).await?;
    let marker = Marker::in_directory(&config.service.run_dir);
    let mut speaker = config.speaker.clone();
    speaker.restarting = marker.is_there();
    let restarting = speaker.restarting;
    let handle = SpeakerHandle::spawn(speaker)?;
    if let Err(error) = marker.leave() {
        let run_dir = config.service.run_dir.display();
        warn!(%error, %run_dir, "peers will drop the routes when this program restarts");
    }
    let changes = apply(&handle, &config, &BTreeMap::new()).await?;
    services.show(Some(BgpView::new(handle.clone(), config.descriptions.clone())));
    let mut watch = Watch::new(config.files.clone());
    info!(
        as_number = config.speaker.local_as, router_id = %config.speaker.router_id,
        neighbors = changes.added.len(), listening = ?handle.listening(), restarting,
        "reflecting routes"
    );
    notify(&format!("READY=1\nSTATUS=reflecting routes, {}", config.summary()));
    loop {
        let why = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => "SIGHUP",
            () = watch.changed() => "a file changed",
        };
        info!(why, "reading the configuration again");
        watch.look();
        if let Some(new) = reload(path, &config, &overrule) {
            let changes = apply(&handle, &new, &config.networks).await?;
            info!(
                added = ?changes.added, removed = ?changes.removed,
                restarted = ?changes.restarted, adjusted = ?changes.adjusted,
                "the configuration is in force; all other sessions go on"
            );
            services.show(Some(BgpView::new(handle.clone(), new.descriptions.clone())));
            watch = Watch::new(new.files.clone());
            config = new;
            notify(&format!("STATUS=reflecting routes, {}", config.summary()));
        }
    }
    notify("STOPPING=1");
    stop(&handle, &marker, config.service.on_stop).await;
    Ok(())
}

/// The new configuration, unless it cannot be used; then the old one stays in force.
fn reload(path: &Path, config: &Config, overrule: impl Fn(&mut Service)) -> Option<Config> {
    let mut new = match Config::read(path) {
        Ok(new) => new,
        Err(error) => {
            error!("the configuration stays as it was: {}", Chain(&error));
            return None;
        }
    };
    overrule(&mut new.service);
    if let Some(keys) = config.fixed_differences(&new) {
        error!("the configuration stays as it was: a change of {keys} needs a restart");
        return None;
    }
    Some(new)
}

async fn apply(
    handle: &SpeakerHandle,
    config: &Config,
    announced: &BTreeMap<IpNet, PathAttributes>,
) -> Result<calico_bgp::speaker::PeerChanges, Box<dyn Error>> {
    let changes = handle.set_peers(config.peers.clone()).await??;
    handle.set_dynamic(config.dynamic.clone()).await??;
    let gone = announced.keys().filter(|prefix| !config.networks.contains_key(prefix));
    handle.withdraw(gone.copied().collect()).await?;
    let new = config.networks.iter().filter(|(prefix, of)| announced.get(prefix) != Some(*of));
    let refused = handle.announce(new.map(|(prefix, of)| (*prefix, of.clone())).collect()).await?;
    if !refused.is_empty() {
        warn!(networks = ?refused, "not announced: they mean nothing beyond one link");
    }
    Ok(changes)
}

/// Ends the sessions.
pub(crate) async fn stop(handle: &SpeakerHandle, marker: &Marker, how: OnStop) {
    match how {
        OnStop::Restart => {
            info!("stopping; peers keep the routes for the restart time");
            handle.shutdown(Shutdown::GracefulRestart).await;
        }
        OnStop::Cease => {
            info!("stopping; peers drop the routes");
            handle.shutdown(Shutdown::Cease("the route reflector stops".to_owned())).await;
            if let Err(error) = marker.remove() {
                warn!(%error, "the next start will look like a restart");
            }
        }
    }
}
