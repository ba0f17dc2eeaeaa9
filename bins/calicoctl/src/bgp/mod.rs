//! `bgp`: what a running speaker, of calico-agent or calico-rr, says about itself.

mod explain;
mod tables;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use calico_control::{AskError, Client, Request};
use ipnet::IpNet;
use serde::Serialize;

use crate::cli::{BgpArgs, BgpCommand, NeighborRoutes};
use crate::failure::Failure;

/// Where speakers answer, unless told otherwise.
const SOCKETS: [&str; 2] = [crate::node::CONTROL_SOCKET, "/run/calico-rr/control.sock"];

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::Agent(match std::error::Error::source(&error) {
            // What it says includes the cause of this one.
            Some(source) if !matches!(error, AskError::Connect { .. }) => {
                format!("{error}: {source}")
            }
            _ => error.to_string(),
        })
    }
}

/// Carries out a command.
pub(crate) async fn run(command: BgpCommand) -> Result<String, Failure> {
    let args = match &command {
        BgpCommand::Peers { args }
        | BgpCommand::Routes { args, .. }
        | BgpCommand::Explain { args, .. }
        | BgpCommand::Neighbor { args, .. } => args,
    };
    let format = format(args)?;
    let mut client = Client::connect(&socket(args)?).await?;
    match command {
        BgpCommand::Peers { .. } => {
            let peers = client.peers().await?;
            write(format, &peers, || tables::peers(&peers))
        }
        BgpCommand::Routes { prefix, .. } => {
            let within = prefix.as_deref().map(parse_prefix).transpose()?;
            let routes = client.routes(&Request::BgpRoutes { within }).await?;
            write(format, &routes, || tables::routes(&routes))
        }
        BgpCommand::Explain { prefix, .. } => {
            let explanation = client.explain(parse_prefix(&prefix)?).await?;
            write(format, &explanation, || explain::text(&explanation))
        }
        BgpCommand::Neighbor { neighbor, routes, .. } => {
            let (address, port) = parse_neighbor(&neighbor)?;
            let Some(routes) = routes else {
                let mut peers = client.peers().await?.peers;
                peers.retain(|p| p.address == address && port.is_none_or(|port| p.port == port));
                if peers.is_empty() {
                    return Err(Failure::Agent(format!(
                        "no neighbor has the address {neighbor}; `calicoctl bgp peers` lists them"
                    )));
                }
                return write(format, &peers, || peers.iter().map(tables::neighbor).collect());
            };
            let direction = match routes {
                NeighborRoutes::Advertised => calico_control::Direction::Advertised,
                NeighborRoutes::Received => calico_control::Direction::Received,
            };
            let routes =
                client.neighbor(&Request::BgpNeighbor { address, port, direction }).await?;
            write(format, &routes, || tables::of_neighbor(&routes, direction))
        }
    }
}

fn write(
    format: Format,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<String, Failure> {
    match format {
        Format::Text => Ok(text()),
        Format::Json => match serde_json::to_string_pretty(value) {
            Ok(json) => Ok(json + "\n"),
            Err(error) => Err(Failure::Agent(error.to_string())),
        },
    }
}

fn format(args: &BgpArgs) -> Result<Format, Failure> {
    match args.output.as_str() {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        other => Err(Failure::Usage(format!("unknown output format {other:?}; use text or json"))),
    }
}

/// The socket that was named, or the only one that exists; the agent's if none does.
fn socket(args: &BgpArgs) -> Result<PathBuf, Failure> {
    match &args.control_socket {
        Some(socket) => Ok(socket.clone()),
        None => choose(&SOCKETS.map(Path::new)),
    }
}

fn choose(sockets: &[&Path]) -> Result<PathBuf, Failure> {
    let there: Vec<&Path> = sockets.iter().copied().filter(|path| path.exists()).collect();
    match there[..] {
        [] => Ok(sockets[0].to_owned()),
        [only] => Ok(only.to_owned()),
        [first, second, ..] => Err(Failure::Usage(format!(
            "two speakers may run here; give --control-socket {} or {}",
            first.display(),
            second.display()
        ))),
    }
}

/// A prefix, or an address that stands for itself alone.
fn parse_prefix(text: &str) -> Result<IpNet, Failure> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map(|net| net.trunc()).map_err(|_neither| {
        Failure::Usage(format!("{text:?} is no prefix and no address; write 10.0.0.0/26"))
    })
}

/// An address, with a port if need be.
fn parse_neighbor(text: &str) -> Result<(IpAddr, Option<u16>), Failure> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) => Ok((address.ip(), Some(address.port()))),
        Err(_neither) => Err(Failure::Usage(format!(
            "{text:?} is no address of a neighbor; write 192.0.2.1 or 2001:db8::1"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_speaker_is_asked_and_of_two_the_one_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let sockets = [a.as_path(), b.as_path()];
        assert_eq!(choose(&sockets).unwrap(), a);
        std::fs::write(&b, "").unwrap();
        assert_eq!(choose(&sockets).unwrap(), b);
        std::fs::write(&a, "").unwrap();
        let error = choose(&sockets).unwrap_err().to_string();
        assert!(error.contains("--control-socket"), "{error}");
    }

    #[test]
    fn prefixes_and_neighbors_as_people_write_them() {
        let prefix = |text| parse_prefix(text).map(|net| net.to_string());
        assert_eq!(prefix("10.0.0.0/8").unwrap(), "10.0.0.0/8");
        assert_eq!(prefix("10.1.2.3/8").unwrap(), "10.0.0.0/8");
        assert_eq!(prefix("10.1.2.3").unwrap(), "10.1.2.3/32");
        assert_eq!(prefix("fd00::1").unwrap(), "fd00::1/128");
        assert!(prefix("10.0.0").unwrap_err().to_string().contains("10.0.0.0/26"));
        assert_eq!(parse_neighbor("[fd00::1]:1790").unwrap().1, Some(1790));
        assert_eq!(parse_neighbor("fd00::1").unwrap().1, None);
        assert!(parse_neighbor("rack").is_err());
    }
}
