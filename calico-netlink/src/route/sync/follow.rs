//! Follows what happens to the kernel's routes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Core, blocking};
use crate::monitor::{Event, Follow, Monitor};
use crate::rtnl::RtnlError;

/// Events come in bursts, and each of our own changes is one: they are taken together.
const GATHER: Duration = Duration::from_millis(20);
/// Between attempts to follow the kernel again after the socket broke.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn follow(mut monitor: Monitor, core: Arc<Mutex<Core>>) {
    loop {
        match gather(&mut monitor).await {
            Ok(events) => {
                let done = blocking(&core, move |core| {
                    for event in events {
                        core.digest(event)?;
                    }
                    core.sync()
                });
                if let Err(error) = done.await {
                    tracing::error!(%error, "cannot keep routes as desired");
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot follow the kernel's routes; starting again");
                monitor = reopen(&core).await;
            }
        }
    }
}

/// At least one event, and those that follow closely.
async fn gather(monitor: &mut Monitor) -> Result<Vec<Event>, RtnlError> {
    let mut events = vec![monitor.next().await?];
    let more = async {
        loop {
            match monitor.next().await {
                Ok(event) => events.push(event),
                Err(error) => return error,
            }
        }
    };
    match tokio::time::timeout(GATHER, more).await {
        Ok(error) => Err(error),
        Err(_elapsed) => Ok(events),
    }
}

async fn reopen(core: &Arc<Mutex<Core>>) -> Monitor {
    loop {
        tokio::time::sleep(PAUSE).await;
        match Monitor::open(Follow { routes: true }) {
            Ok(monitor) => match blocking(core, Core::resync).await {
                Ok(_) => return monitor,
                Err(error) => tracing::error!(%error, "cannot read routes"),
            },
            Err(error) => tracing::error!(%error, "cannot follow the kernel's routes"),
        }
    }
}
