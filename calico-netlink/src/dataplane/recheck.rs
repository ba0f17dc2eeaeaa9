//! Connections that policy no longer allows are cut, and those it allows again go on.
//!
//! Such a connection is not forgotten but marked: forgotten, it would be taken up again by
//! whichever side sends first, as if that side had opened it. Rules ask for the mark only while some
//! connection has it: before the first one gets it, and until none is found that does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::dataplane::DataplaneError;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

use super::interfaces::Lister;
use super::linux::Inner;
use super::state::State;
use super::style::Marks;
use crate::nft::{Connection, Error, Socket};

/// The share of time that looking at connections may take.
const SHARE: u32 = 10;
/// Changes come in bursts; one look serves all of them.
const GATHER: Duration = Duration::from_millis(5);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often to look whether any connection is still marked.
const STILL: Duration = Duration::from_secs(60);

/// A task that looks at connections whenever policy of their endpoints changed. Ends with this
/// value.
#[derive(Debug)]
pub(super) struct Rechecker {
    task: JoinHandle<()>,
    pub(super) changed: Arc<Notify>,
}

impl Drop for Rechecker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rechecker {
    pub(super) fn start(inner: Arc<Mutex<Inner>>) -> Result<Self, DataplaneError> {
        let socket = Socket::open().map_err(|error| DataplaneError::Unavailable {
            reason: format!("cannot follow connections: {error}"),
        })?;
        let source = Source { socket, interfaces: Lister::open()? };
        let changed = Arc::new(Notify::new());
        let task = tokio::spawn(run(inner, source, Arc::clone(&changed)));
        Ok(Self { task, changed })
    }
}

struct Source {
    socket: Socket,
    interfaces: Lister,
}

async fn run(inner: Arc<Mutex<Inner>>, mut source: Source, changed: Arc<Notify>) {
    loop {
        if inner.lock().await.state().cuts {
            let _again = tokio::time::timeout(STILL, changed.notified()).await;
        } else {
            changed.notified().await;
        }
        tokio::time::sleep(GATHER).await;
        let addresses = inner.lock().await.state().take_recheck();
        let started = Instant::now();
        let pause = match recheck(&inner, &mut source, &addresses).await {
            Ok(0) => started.elapsed() * SHARE,
            Ok(cut) => {
                tracing::info!(cut, "connections that policy denies by now are cut");
                started.elapsed() * SHARE
            }
            Err(error) => {
                tracing::warn!(%error, "connections are not held against the policy of now");
                inner.lock().await.state().recheck_again(addresses);
                changed.notify_one();
                PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Returns how many were cut.
async fn recheck(
    inner: &Mutex<Inner>,
    source: &mut Source,
    addresses: &BTreeSet<IpAddr>,
) -> Result<usize, DataplaneError> {
    let failed = |error: Error| DataplaneError::Unavailable { reason: error.to_string() };
    let mut verdicts = Vec::new();
    if !addresses.is_empty() {
        let own = source.interfaces.list()?.into_values().flatten().collect();
        let connections = source.socket.connections_of(addresses).await.map_err(failed)?;
        verdicts = judge(inner.lock().await.state(), &connections, addresses, &own);
    }
    let cut = verdicts.iter().filter(|(_, allowed)| !allowed).count();
    let mut guarded = inner.lock().await;
    if cut > 0 {
        guarded.ask_for_cuts(true).await.map_err(failed)?;
    }
    let Marks { condemned, .. } = Marks::of(guarded.state().host.mark_mask);
    let cuts = guarded.state().cuts;
    drop(guarded);
    let mut marked = Ok(());
    for (connection, allowed) in verdicts {
        marked = source.socket.mark_connection(&connection, condemned, !allowed).await;
        if marked.is_err() {
            break;
        }
    }
    if cut > 0 {
        // Marks are for rules, which offloaded connections do not meet.
        inner.lock().await.renew_flows().await;
    }
    marked.map_err(failed)?;
    // Nobody else marks any, so that none comes in between.
    if cuts && !source.socket.any_marked(condemned).await.map_err(failed)? {
        inner.lock().await.ask_for_cuts(false).await.map_err(failed)?;
    }
    Ok(cut)
}

/// Connections that are marked other than policy says.
fn judge(
    state: &State,
    connections: &[Connection],
    addresses: &BTreeSet<IpAddr>,
    own: &BTreeSet<IpAddr>,
) -> Vec<(Connection, bool)> {
    let owners = state.address_owners();
    let Marks { condemned, .. } = Marks::of(state.host.mark_mask);
    let mut verdicts = Vec::new();
    for connection in connections {
        let packet = connection.as_forwarded();
        let concerned =
            addresses.contains(&packet.source) || addresses.contains(&packet.destination);
        // The host always reaches its workloads.
        if !concerned || connection.related || own.contains(&packet.source) {
            continue;
        }
        let allowed = state.allows(&owners, &packet);
        if allowed == (connection.mark & condemned != 0) {
            verdicts.push((*connection, allowed));
        }
    }
    verdicts
}
