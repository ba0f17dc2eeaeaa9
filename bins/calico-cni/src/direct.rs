//! The plugin without an agent: the same engine, on a store that this process opens.

use std::path::Path;
use std::sync::Arc;

use calico_datastore::{DatastoreConfig, open};
use calico_ipam::{Ipam, Options as IpamOptions};

use crate::engine::{Engine, Journal, NetlinkPods, NoPolicy, Options, Parts};
use crate::protocol::{Request, Response};
use crate::spec::{CniError, Code, NetConf, Verb};

/// Where upstream's node writes its name.
const NODENAME_FILE: &str = "/var/lib/calico/nodename";

/// Carries out a call in this process.
///
/// # Errors
///
/// If the configuration does not say who this node is, or the store cannot be opened. A DEL then
/// goes to the journal, as with an agent.
pub fn run(conf: &NetConf, request: &Request) -> Result<Response, CniError> {
    let Some(path) = &conf.datastore_path else {
        return Err(CniError::new(Code::InvalidConfig, "there is no datastore")
            .details("set `datastore_path`, or run calico-agent"));
    };
    let node = node_name(conf)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        CniError::new(Code::Io, "no runtime can be started").details(error.to_string())
    })?;
    runtime.block_on(async {
        let config: DatastoreConfig =
            serde_json::from_value(serde_json::json!({ "type": "embedded", "path": path }))
                .map_err(|error| CniError::new(Code::InvalidConfig, error.to_string()))?;
        let store = match open(&config) {
            Ok(store) => store,
            Err(error) if request.verb == Verb::Status => {
                return Err(CniError::new(Code::NotAvailable, "the datastore cannot be opened")
                    .details(error.to_string()));
            }
            Err(error) if request.verb == Verb::Del => {
                return crate::shim::delete_alone(conf, request, &error.to_string());
            }
            Err(error) => return Err(error.into()),
        };
        let engine = Engine::new(Parts {
            node,
            ipam: Ipam::new(Arc::clone(&store), IpamOptions::default()),
            store,
            network: Arc::new(NetlinkPods),
            policy: Arc::new(NoPolicy),
            journal: Journal::of(conf),
            options: Options::default(),
        });
        // Without an agent, nobody else carries out what earlier calls could not.
        if matches!(request.verb, Verb::Add | Verb::Del) {
            // What still cannot be done stays in the journal, and is no reason to refuse this call.
            let _ = engine.replay().await;
        }
        Ok(engine.handle(request).await)
    })
}

/// The name of this node: as configured, from the file that calico-node writes, or the host's.
fn node_name(conf: &NetConf) -> Result<String, CniError> {
    let file = conf.nodename_file.as_deref().unwrap_or_else(|| Path::new(NODENAME_FILE));
    let configured = Some(conf.nodename.clone());
    let read = || std::fs::read_to_string(file).ok();
    let host = || nix::unistd::gethostname().ok()?.into_string().ok();
    let name = [configured, read(), Some(conf.hostname.clone())]
        .into_iter()
        .flatten()
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty());
    name.or_else(|| host().map(|name| name.to_lowercase()))
        .filter(|name| !name.is_empty())
        .ok_or_else(|| {
            CniError::new(Code::InvalidConfig, "the name of this node is not known").details(
                format!(
                    "set `nodename`, or write it to {}: calico-node does so when it starts",
                    file.display()
                ),
            )
        })
}
