//! Addresses from another IPAM plugin, such as `host-local`: the plugin itself runs it, as the
//! specification's "delegated plugins" says, and hands its answer on with the configuration.
//!
//! An address is asked for before everything else and given back after everything else, so that
//! nobody else gets it while the container still has it.

mod pod_cidrs;

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::protocol::{Plugin, Request, Response};
use crate::spec::{CniError, Code, NetConf, Verb};

/// Key of the configuration under which an answer is handed on.
pub(crate) const RESULT: &str = "ipam_result";

/// The plugin whose configuration may ask for the ranges of this node.
const HOST_LOCAL: &str = "host-local";

/// How long the other plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Carries out `request` with `carry_out`, and calls the other plugin around it if there is one.
pub(crate) fn around(
    conf: &NetConf,
    request: Request,
    carry_out: impl Fn(&Request) -> Result<Response, CniError>,
) -> Result<Response, CniError> {
    if conf.ipam.is_ours() || request.plugin == Plugin::Ipam {
        return carry_out(&request);
    }
    let config = match resolved(conf, &request, &carry_out)? {
        ControlFlow::Continue(config) => config,
        ControlFlow::Break(failure) => return Ok(failure),
    };
    let other = Delegate::new(conf, &request, &config)?;
    match request.verb {
        Verb::Add => {
            let result = other.call("ADD")?;
            let mut config: Value = serde_json::from_str(&request.config).unwrap_or_default();
            config[RESULT] = result;
            let handed_on = Request { config: config.to_string(), ..request.clone() };
            let done = carry_out(&handed_on);
            if !matches!(done, Ok(Response { failed: false, .. })) {
                // The runtime is told why the ADD failed, and asks for a DEL in any case.
                let _ = other.call("DEL");
            }
            done
        }
        Verb::Check => {
            other.call("CHECK")?;
            carry_out(&request)
        }
        Verb::Del => {
            let done = carry_out(&request)?;
            if !done.failed {
                other.call("DEL")?;
            }
            Ok(done)
        }
        Verb::Gc => {
            let done = carry_out(&request)?;
            other.call("GC")?;
            Ok(done)
        }
        Verb::Status => {
            other.call("STATUS")?;
            carry_out(&request)
        }
        Verb::Version => carry_out(&request),
    }
}

/// The configuration for the other plugin: with the node's ranges in it, if it asks for them.
fn resolved(
    conf: &NetConf,
    request: &Request,
    carry_out: &impl Fn(&Request) -> Result<Response, CniError>,
) -> Result<ControlFlow<Response, String>, CniError> {
    let mut config: Value = serde_json::from_str(&request.config).unwrap_or_default();
    if conf.ipam.plugin != HOST_LOCAL || !pod_cidrs::are_wanted(&config) {
        return Ok(ControlFlow::Continue(request.config.clone()));
    }
    let ranges = match request.verb {
        // These need no range, and must not wait for anybody. As upstream.
        Verb::Del | Verb::Gc | Verb::Version => {
            vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
        }
        Verb::Add | Verb::Check | Verb::Status => {
            let answer = carry_out(&Request { plugin: Plugin::Ranges, ..request.clone() })?;
            let unreadable = |error: serde_json::Error| {
                CniError::new(Code::Decode, "the ranges of this node cannot be read")
                    .details(error.to_string())
            };
            if answer.failed {
                return Ok(ControlFlow::Break(answer));
            }
            serde_json::from_str(&answer.output).map_err(unreadable)?
        }
    };
    pod_cidrs::put(&mut config, &ranges)?;
    Ok(ControlFlow::Continue(config.to_string()))
}

struct Delegate<'a> {
    name: &'a str,
    program: PathBuf,
    stdin: &'a str,
}

impl<'a> Delegate<'a> {
    fn new(conf: &'a NetConf, request: &'a Request, config: &'a str) -> Result<Self, CniError> {
        let name = conf.ipam.plugin.as_str();
        let unsupported = |details: &str| {
            let message = format!("ipam.type {name:?} cannot be used");
            Err(CniError::new(Code::UnsupportedField, message).details(details))
        };
        if name.contains('/') || name.starts_with('.') {
            return unsupported("a plugin has a name, not a path");
        }
        if name == "dhcp" {
            return unsupported(
                "it asks over the interface, which Calico makes with its addresses, as upstream \
                 does: use calico-ipam, host-local or static",
            );
        }
        let path = &request.call.path;
        let found = path.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
        match found {
            Some(program) => Ok(Self { name, program, stdin: config }),
            None => {
                let places: Vec<_> = path.iter().map(|p| p.display().to_string()).collect();
                unsupported(&format!("there is no such plugin in {} (CNI_PATH)", places.join(":")))
            }
        }
    }

    /// What the other plugin answers; the environment is this process's but for the command.
    fn call(&self, command: &str) -> Result<Value, CniError> {
        let failed = |code: Code, details: String| {
            CniError::new(code, format!("the IPAM plugin {} failed", self.name)).details(details)
        };
        let io = |error: std::io::Error| failed(Code::Io, error.to_string());
        let mut child = Command::new(&self.program)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that fails early does not read its input, and says why.
            let _ = stdin.write_all(self.stdin.as_bytes());
        }
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(io)? {
                break status;
            }
            if started.elapsed() >= PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(Code::TryAgain, format!("no answer within {PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut text = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut text).map_err(io)?;
        }
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.success() {
            return Ok(answer);
        }
        let part = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let details = match answer["code"].as_u64() {
            Some(code) => format!("code {code}: {} {}", part("msg"), part("details")),
            None => format!("{status}: {}", text.trim()),
        };
        Err(failed(Code::NoAddress, details.trim().to_owned()))
    }
}
