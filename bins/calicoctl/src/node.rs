//! `node status`: asks the agent on this host.

pub(crate) mod diags;
pub(crate) mod system;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use calico_ipam::plan::time::rfc3339;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::failure::Failure;
use crate::output::table::Table;

/// Where the agent listens, unless told otherwise.
pub(crate) const CONTROL_SOCKET: &str = "/var/run/calico/control.sock";

/// Time for the agent to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 64 << 20;
const DAY: u64 = 86_400;

/// What this program wants to know from the agent's answer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    ready: bool,
    waiting_for: Vec<String>,
    bgp: Option<Bgp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Bgp {
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    address: IpAddr,
    peer_type: String,
    state: String,
    since_seconds: u64,
    last_error: Option<String>,
}

/// The agent's state and its sessions, in upstream's words.
pub(crate) async fn status(socket: &Path, now: SystemTime) -> Result<String, Failure> {
    let answer = tokio::time::timeout(PATIENCE, ask(socket)).await;
    let answer = answer.unwrap_or_else(|_elapsed| Err("it gave no answer in 5 s".to_owned()));
    let status = answer.map_err(|reason| {
        Failure::Agent(format!(
            "Calico process is not running.\n{}: {reason}; check that calico-agent runs on this \
             host, and run as root",
            socket.display()
        ))
    })?;
    Ok(describe(&status, now))
}

async fn ask(socket: &Path) -> Result<Status, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = UnixStream::connect(socket).await.map_err(text)?;
    stream.write_all(b"{\"ask\":\"status\"}\n").await.map_err(text)?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut line).await.map_err(text)?;
    parse(&line)
}

fn parse(line: &str) -> Result<Status, String> {
    let bad = |error: serde_json::Error| format!("an answer that cannot be understood ({error})");
    let answer: serde_json::Value = serde_json::from_str(line).map_err(bad)?;
    match answer["reply"].as_str() {
        Some("status") => serde_json::from_value(answer).map_err(bad),
        _ => Err(match answer["reason"].as_str() {
            Some(reason) => format!("it refused: {reason}"),
            None => "it answered another question; use one release of both programs".to_owned(),
        }),
    }
}

fn describe(status: &Status, now: SystemTime) -> String {
    let mut text = "Calico process is running.\n".to_owned();
    if !status.ready {
        text.push_str("It is not ready yet");
        if !status.waiting_for.is_empty() {
            text.push_str(&format!("; waiting for: {}", status.waiting_for.join(", ")));
        }
        text.push_str(".\n");
    }
    let Some(bgp) = &status.bgp else {
        text.push_str("\nThis node runs no BGP.\n");
        return text;
    };
    for (family, is_family) in
        [("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", IpAddr::is_ipv6)]
    {
        text.push_str(&format!("\n{family} BGP status\n"));
        let peers: Vec<&Peer> = bgp.peers.iter().filter(|peer| is_family(&peer.address)).collect();
        if peers.is_empty() {
            text.push_str(&format!("No {family} peers found.\n"));
        } else {
            text.push_str(&peer_table(&peers, now).framed());
        }
    }
    text
}

fn peer_table(peers: &[&Peer], now: SystemTime) -> Table {
    let mut table = Table::new(&["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"]);
    for peer in peers {
        let kind = match peer.peer_type.as_str() {
            "NodeMesh" => "node-to-node mesh",
            "NodePeer" => "node specific",
            "GlobalPeer" => "global",
            "LocalWorkload" => "local workload",
            other => other,
        };
        let up = peer.state == "Established";
        let info = match &peer.last_error {
            Some(error) if !up => format!("{}: {error}", peer.state),
            _ => peer.state.clone(),
        };
        table.rows.push(vec![
            peer.address.to_string(),
            kind.to_owned(),
            if up { "up" } else { "start" }.to_owned(),
            since(peer.since_seconds, now),
            info,
        ]);
    }
    table
}

/// The time of day (UTC) within the last day, else the date.
fn since(seconds: u64, now: SystemTime) -> String {
    let start = now.checked_sub(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH);
    let text = rfc3339(start);
    let part = if seconds < DAY { 11..19 } else { 0..10 };
    text.get(part).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"reply":"status","version":"0.1.0","node":"n1","ready":false,
        "waitingFor":["the datastore"],"revision":7,"endpoints":{},
        "bgp":{"asNumber":64512,"routerId":"192.0.2.1","announced":[],"learned":[],"peers":[
            {"address":"192.0.2.2","asNumber":64512,"peerType":"NodeMesh","state":"Established",
             "sinceSeconds":60,"received":3,"lastError":null},
            {"address":"192.0.2.3","asNumber":64513,"peerType":"GlobalPeer","state":"Active",
             "sinceSeconds":200000,"received":0,"lastError":"connection refused"}]}}"#;

    #[test]
    fn sessions_are_shown_as_upstream_shows_them() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let expected = "\
Calico process is running.
It is not ready yet; waiting for: the datastore.

IPv4 BGP status
+--------------+-------------------+-------+------------+----------------------------+
| PEER ADDRESS |     PEER TYPE     | STATE |   SINCE    |            INFO            |
+--------------+-------------------+-------+------------+----------------------------+
| 192.0.2.2    | node-to-node mesh | up    | 22:12:20   | Established                |
| 192.0.2.3    | global            | start | 2023-11-12 | Active: connection refused |
+--------------+-------------------+-------+------------+----------------------------+

IPv6 BGP status
No IPv6 peers found.
";
        assert_eq!(describe(&parse(ANSWER).unwrap(), now), expected);
    }

    #[test]
    fn other_answers_are_explained() {
        let refused = parse(r#"{"reply":"error","reason":"busy"}"#).unwrap_err();
        assert_eq!(refused, "it refused: busy");
        assert!(parse("").is_err() && parse("{}").is_err() && parse("HTTP/1.1 400").is_err());
    }

    #[tokio::test]
    async fn without_an_agent_it_says_what_to_check() {
        let error = status(Path::new("/nonexistent/control.sock"), SystemTime::now()).await;
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("Calico process is not running."), "{text}");
        assert!(text.contains("/nonexistent/control.sock"), "{text}");
    }
}
