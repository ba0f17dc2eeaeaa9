//! Reports of rules become verdict events for every subscriber.

use std::time::Duration;

use calico_core::dataplane::{VerdictEvent, VerdictStream};
use nix::net::if_::if_indextoname;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::causes::Causes;
use super::names;
use crate::nft::{Error, nflog::Listener};

/// Events a slow subscriber may lag behind before it loses some.
const BACKLOG: usize = 1024;

/// Between attempts to listen, when another program has our groups or the socket broke.
const RETRY: Duration = Duration::from_secs(1);

/// Reads reports in a task of its own, which ends with this value.
#[derive(Debug)]
pub(super) struct Verdicts {
    events: broadcast::Sender<VerdictEvent>,
    reader: JoinHandle<()>,
}

impl Verdicts {
    /// Starts reading. While another program has our groups there are no events, which a
    /// warning tells: enforcement does not depend on them.
    pub(super) fn start(causes: Causes) -> Self {
        let (events, _) = broadcast::channel(BACKLOG);
        let reader = tokio::spawn(run(listen(), causes, events.clone()));
        Self { events, reader }
    }

    pub(super) fn subscribe(&self) -> VerdictStream {
        let receiver = self.events.subscribe();
        Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((event, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        }))
    }
}

impl Drop for Verdicts {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn run(
    mut listener: Result<Listener, Error>,
    causes: Causes,
    events: broadcast::Sender<VerdictEvent>,
) {
    let mut told = false;
    loop {
        let error = match listener {
            Ok(listener) => {
                told = false;
                read(listener, &causes, &events).await
            }
            Err(error) => error,
        };
        if !told {
            tracing::warn!(%error, "verdicts are enforced but not reported for now");
            told = true;
        }
        tokio::time::sleep(RETRY).await;
        listener = listen();
    }
}

fn listen() -> Result<Listener, Error> {
    Listener::open(&[names::GROUP_INGRESS, names::GROUP_EGRESS])
}

/// Reads until the socket fails.
async fn read(
    mut listener: Listener,
    causes: &Causes,
    events: &broadcast::Sender<VerdictEvent>,
) -> Error {
    loop {
        let packets = match listener.receive().await {
            Ok(packets) => packets,
            Err(error) => return error,
        };
        for event in packets.iter().filter_map(|packet| causes.event(packet, interface_name)) {
            // Nobody listening is no failure.
            let _none = events.send(event);
        }
    }
}

fn interface_name(index: u32) -> Option<String> {
    if_indextoname(index).ok()?.into_string().ok()
}
