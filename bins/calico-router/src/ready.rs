//! Whether a speaker has heard what its peers have to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_bgp::session::State;
use calico_bgp::speaker::Speaker;

use crate::BgpView;

/// Becomes true once, and stays so: when all peers are up and have told their routes, or when a
/// time since the start has passed that is long enough for those that can.
#[derive(Debug, Clone)]
pub struct Readiness {
    since: Instant,
    patience: Duration,
    reached: Arc<AtomicBool>,
}

impl Readiness {
    /// Of a speaker that starts now. After `patience` nobody is waited for any more.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { since: Instant::now(), patience, reached: Arc::new(AtomicBool::new(false)) }
    }

    /// What is waited for, in words; nothing once it is ready.
    pub async fn waiting_for(&self, view: Option<&BgpView>) -> Option<String> {
        let Some(view) = view else { return Some("BGP to be started".to_owned()) };
        let late = self.since.elapsed() >= self.patience;
        let waiting = view.handle().inspect(move |speaker| waiting_for(speaker, late)).await;
        match waiting {
            Ok(None) => self.reached.store(true, Ordering::Relaxed),
            Ok(Some(waiting)) if !self.reached.load(Ordering::Relaxed) => return Some(waiting),
            Ok(Some(_)) => {}
            Err(stopped) => return Some(stopped.to_string()),
        }
        None
    }
}

fn waiting_for(speaker: &Speaker, late: bool) -> Option<String> {
    if !speaker.is_converged() {
        return Some("the peers to tell their routes after the restart".to_owned());
    }
    if late {
        return None;
    }
    let (mut down, mut telling) = (0, 0);
    for status in speaker.peers() {
        if status.state != State::Established {
            down += 1;
        } else if !status.end_of_rib_awaited.is_empty() {
            telling += 1;
        }
    }
    match (down, telling) {
        (0, 0) => None,
        (0, telling) => Some(format!("{telling} peer(s) to tell all their routes")),
        (down, _) => Some(format!("{down} peer(s) to come up")),
    }
}
