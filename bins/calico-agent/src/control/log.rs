//! The verdicts that the dataplane reported last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use calico_control::Recorded;
use tokio::sync::broadcast;

/// Verdicts that are remembered, and that a listener may lag behind.
const ROOM: usize = 1024;

/// Remembers the latest verdicts and passes them on to listeners. Clones share their content.
#[derive(Debug, Clone)]
pub struct VerdictLog {
    recent: Arc<Mutex<VecDeque<Recorded>>>,
    live: broadcast::Sender<Recorded>,
}

impl Default for VerdictLog {
    fn default() -> Self {
        Self { recent: Arc::default(), live: broadcast::Sender::new(ROOM) }
    }
}

impl VerdictLog {
    /// Takes a verdict.
    pub fn record(&self, verdict: Recorded) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == ROOM {
            recent.pop_front();
        }
        recent.push_back(verdict.clone());
        // Fails only while nobody listens. Under the lock, so that a new listener gets it once.
        let _ = self.live.send(verdict);
    }

    /// What is remembered, oldest first, and everything from here on.
    #[must_use]
    pub fn follow(&self) -> (Vec<Recorded>, broadcast::Receiver<Recorded>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.live.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use calico_core::dataplane::{Direction, Flow, Verdict, VerdictCause, VerdictEvent};

    use super::*;

    fn at(at: u64) -> Recorded {
        let address = [10, 0, 0, 1].into();
        let flow = Flow {
            source: address,
            destination: address,
            protocol: 1,
            source_port: None,
            destination_port: None,
        };
        let event = VerdictEvent {
            verdict: Verdict::Denied,
            cause: VerdictCause::NoProfileMatch,
            direction: Direction::Ingress,
            interface: "cali1".into(),
            flow,
        };
        Recorded { at, event }
    }

    #[tokio::test]
    async fn the_latest_are_remembered_and_none_comes_twice() {
        let log = VerdictLog::default();
        let room = u64::try_from(ROOM).unwrap();
        for time in 0..room + 5 {
            log.record(at(time));
        }
        let (recent, mut live) = log.follow();
        assert_eq!((recent.len(), recent[0].at), (ROOM, 5));
        log.record(at(room + 5));
        assert_eq!(live.recv().await.unwrap().at, room + 5);
        assert!(live.try_recv().is_err());
    }
}
