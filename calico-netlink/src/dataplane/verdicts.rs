//! Reports of rules become verdict events for every subscriber.

use calico_core::dataplane::{VerdictEvent, VerdictStream};
use nix::net::if_::if_indextoname;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::causes::Causes;
use super::names;
use crate::nft::{Error, nflog::Listener};

/// Events a slow subscriber may lag behind before it loses some.
const BACKLOG: usize = 1024;

/// Reads reports in a task of its own, which ends with this value.
#[derive(Debug)]
pub(super) struct Verdicts {
    events: broadcast::Sender<VerdictEvent>,
    reader: Option<JoinHandle<()>>,
}

impl Verdicts {
    /// Starts reading. When another program has taken our groups there are no events, which a
    /// warning tells: enforcement does not depend on them.
    pub(super) fn start(causes: Causes) -> Self {
        let (events, _) = broadcast::channel(BACKLOG);
        let reader = match Listener::open(&[names::GROUP_INGRESS, names::GROUP_EGRESS]) {
            Ok(listener) => Some(tokio::spawn(read(listener, causes, events.clone()))),
            Err(error) => {
                tracing::warn!(%error, "verdicts are enforced but not reported");
                None
            }
        };
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
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

async fn read(mut listener: Listener, causes: Causes, events: broadcast::Sender<VerdictEvent>) {
    loop {
        match listener.receive().await {
            Ok(packets) => {
                for event in packets.iter().filter_map(|p| causes.event(p, interface_name)) {
                    // Nobody listening is no failure.
                    let _none = events.send(event);
                }
            }
            Err(error @ (Error::Socket { .. } | Error::Timeout { .. })) => {
                tracing::warn!(%error, "reading verdict reports ended");
                return;
            }
            Err(error) => tracing::debug!(%error, "a verdict report was unreadable"),
        }
    }
}

fn interface_name(index: u32) -> Option<String> {
    if_indextoname(index).ok()?.into_string().ok()
}
