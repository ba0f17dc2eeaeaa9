//! The program: reads the call, hands it to the agent or carries it out itself, prints the answer.
//!
//! On the way to the agent nothing is started that the call does not need: no async runtime, no
//! threads, no log.
//!
//! Keys of the network configuration that upstream does not have say who carries a call out:
//!
//! | Key | Default | |
//! |---|---|---|
//! | `agent_socket` | `/var/run/calico/cni.sock` | if set, always the agent that listens there |
//! | `datastore_path` | none | without `agent_socket`, and with nothing at the default socket: this process, on an embedded store in that file |
//! | `journal_dir` | `/var/lib/calico/cni-journal` | deletions to be carried out later; the agent reads the same directory |
//!
//! With `ipam.type` other than `calico-ipam`, the program runs that plugin itself: it is the one
//! that lives where runtimes put plugins.
//!
//! Keys for the log and for the lock file (`log_file_path`, `ipam_lock_file`, ...) are accepted:
//! the agent writes the log, and needs no lock.
//!
//! Upstream's keys for etcd and Kubernetes are accepted and have no effect: the agent has its own
//! connection to the datastore, and the plugin needs no credentials.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::engine::{Journal, chain, teardown};
use crate::naming::Identity;
use crate::protocol::{self, MAX_FRAME, PROTOCOL, Plugin, Request, Response, Unreachable};
use crate::spec::{Call, CniError, Code, NetConf, Verb, Version};
use crate::{delegate, direct};

/// How long the agent may take for an ADD. Upstream waits as long for an address.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long it may take for a DEL before the plugin does what it can alone.
const DEL_PATIENCE: Duration = Duration::from_secs(15);

/// Who answers a call.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    /// The agent.
    Agent,
    /// This process, on the datastore.
    Direct,
}

/// Carries out one call. `variable` looks up the environment; the answer is for stdout, and the
/// exit code is 1 if it is an error.
pub fn run(
    name: &OsStr,
    variable: impl Fn(&str) -> Option<String>,
    mut stdin: impl Read,
) -> Response {
    let answer = || -> Result<Response, (CniError, Version)> {
        let early = |error| (error, Version::LATEST);
        let verb: Verb = variable("CNI_COMMAND").unwrap_or_default().parse().map_err(early)?;
        let mut config = String::new();
        stdin.by_ref().take(MAX_FRAME as u64).read_to_string(&mut config).map_err(|error| {
            early(CniError::new(Code::Io, "stdin cannot be read").details(error.to_string()))
        })?;
        if verb == Verb::Version {
            return Ok(Response { failed: false, output: Version::report() });
        }
        let conf = NetConf::parse(&config).map_err(early)?;
        let version = conf.version().map_err(early)?;
        let call = Call::new(verb, variable).map_err(|error| (error, version))?;
        let plugin = plugin_of(name);
        let request = Request { protocol: PROTOCOL, plugin, verb, call, config };
        let done = delegate::around(&conf, request, |request| match route(&conf) {
            Route::Agent => through_agent(&conf, request),
            Route::Direct => direct::run(&conf, request),
        });
        done.map_err(|error| (error, version))
    };
    answer().unwrap_or_else(|(error, version)| Response::failure(&error, version))
}

/// Called as `calico-ipam`, the plugin only sees to addresses.
fn plugin_of(name: &OsStr) -> Plugin {
    if Path::new(name).file_name() == Some(OsStr::new("calico-ipam")) {
        Plugin::Ipam
    } else {
        Plugin::Main
    }
}

/// An agent that the configuration names answers always. One at the usual place answers if it is
/// there. Without either, a `datastore_path` is used by this process alone.
fn route(conf: &NetConf) -> Route {
    let usual = || conf.agent_socket().exists();
    if conf.agent_socket.is_some() || conf.datastore_path.is_none() || usual() {
        Route::Agent
    } else {
        Route::Direct
    }
}

fn through_agent(conf: &NetConf, request: &Request) -> Result<Response, CniError> {
    let patience = if request.verb == Verb::Del { DEL_PATIENCE } else { PATIENCE };
    match protocol::ask(&conf.agent_socket(), request, patience) {
        Ok(response) => Ok(response),
        Err(error) if request.verb == Verb::Del => delete_alone(conf, request, &chain(&error)),
        Err(error) => Err(unreachable_agent(request.verb, &error)),
    }
}

fn unreachable_agent(verb: Verb, error: &Unreachable) -> CniError {
    let code = if verb == Verb::Status { Code::NotAvailable } else { Code::TryAgain };
    CniError::new(code, "the Calico agent cannot be reached").details(format!(
        "{}; see that calico-agent runs on this node, or set `agent_socket` to its cni.sock",
        chain(error)
    ))
}

/// A DEL must work with everything else down: the container's side of the interface goes, and the
/// host's with it; the rest is noted for the agent.
pub(crate) fn delete_alone(
    conf: &NetConf,
    request: &Request,
    reason: &str,
) -> Result<Response, CniError> {
    let call = &request.call;
    if request.plugin == Plugin::Main {
        // Containers that no orchestrator runs have interfaces by their own id: no successor can
        // have the same.
        let id = Identity::new("", conf, call);
        let own = id.pod.is_none().then_some(id.host_interface.as_str());
        teardown(own, call.netns(), &call.ifname)?;
    }
    Journal::of(conf).note(&conf.name, request).map_err(|failed| {
        CniError::new(Code::Io, "neither the datastore nor the journal can be reached")
            .details(format!("{reason}; journal: {failed}"))
    })?;
    Ok(Response { failed: false, output: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> NetConf {
        NetConf::parse(&format!(r#"{{"name": "n", "cniVersion": "1.1.0"{text}}}"#)).unwrap()
    }

    #[test]
    fn a_named_agent_comes_first_and_a_file_last() {
        assert_eq!(
            route(&conf(r#", "agent_socket": "/none", "datastore_path": "/x""#)),
            Route::Agent
        );
        assert_eq!(route(&conf("")), Route::Agent);
        if !NetConf::default().agent_socket().exists() {
            assert_eq!(route(&conf(r#", "datastore_path": "/x""#)), Route::Direct);
        }
    }

    #[test]
    fn the_name_decides_what_is_asked() {
        assert_eq!(plugin_of(OsStr::new("/opt/cni/bin/calico-ipam")), Plugin::Ipam);
        assert_eq!(plugin_of(OsStr::new("/opt/cni/bin/calico")), Plugin::Main);
        assert_eq!(plugin_of(OsStr::new("")), Plugin::Main);
    }
}
