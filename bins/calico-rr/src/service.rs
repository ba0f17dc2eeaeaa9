//! What is served besides BGP: questions on the control socket, metrics and readiness.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use calico_datastore::remote::LocalListener;
use calico_router::{BgpView, Readiness, control, metrics};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Service;

/// The services, while this lives.
#[derive(Debug)]
pub(crate) struct Services {
    _tasks: JoinSet<()>,
    view: watch::Sender<Option<BgpView>>,
}

/// The metrics cannot be served where they should be.
#[derive(Debug)]
struct CannotServe {
    address: SocketAddr,
    source: io::Error,
}

impl fmt::Display for CannotServe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot serve metrics on {}", self.address)
    }
}

impl Error for CannotServe {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl Services {
    /// Starts them, before there is a speaker to tell of. `patience` is how long the readiness
    /// waits for peers that do not come.
    pub(crate) async fn start(
        service: &Service,
        patience: Duration,
    ) -> Result<Self, Box<dyn Error>> {
        let mut tasks = JoinSet::new();
        let (view, seen) = watch::channel(None);
        // It makes the run directory, too.
        let listener = LocalListener::bind(service.run_dir.join("control.sock"))?;
        tasks.spawn(control::serve(listener, seen.clone()));
        if let Some(address) = service.metrics {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| CannotServe { address, source })?;
            let readiness = Readiness::new(patience);
            tasks.spawn(calico_observe::serve(listener, move |path| {
                let (seen, readiness) = (seen.clone(), readiness.clone());
                async move {
                    let view = seen.borrow().clone();
                    metrics::page(&path, view.as_ref(), &readiness).await
                }
            }));
        }
        Ok(Self { _tasks: tasks, view })
    }

    /// There is a speaker, or its peers are called differently, or there is none any more.
    pub(crate) fn show(&self, view: Option<BgpView>) {
        self.view.send_replace(view);
    }
}
