//! `node`: this host, and the agent on it.

pub(crate) mod diags;
pub(crate) mod run;
pub(crate) mod system;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use calico_control::{AskError, Client, PeerStatus, Status};
use calico_ipam::plan::time::rfc3339;

use crate::failure::Failure;
use crate::output::table::Table;

/// Where the agent listens, unless told otherwise.
pub(crate) const CONTROL_SOCKET: &str = "/var/run/calico/control.sock";

/// Time for the agent to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const DAY: u64 = 86_400;

/// The agent's state and its sessions, in upstream's words.
pub(crate) async fn status(socket: &Path, now: SystemTime) -> Result<String, Failure> {
    let reason = match tokio::time::timeout(PATIENCE, ask(socket)).await {
        Ok(Ok(status)) => return Ok(describe(&status, now)),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("{}: no answer in 5 s", socket.display()),
    };
    Err(Failure::Agent(format!("Calico process is not running.\n{reason}")))
}

async fn ask(socket: &Path) -> Result<Status, AskError> {
    Client::connect(socket).await?.status().await
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
    if !status.mistakes.is_empty() {
        text.push_str("\nObjects with mistakes, which have no effect as they are stored:\n");
        for (path, reason) in &status.mistakes {
            text.push_str(&format!("  {path}: {reason}\n"));
        }
    }
    let Some(bgp) = &status.bgp else {
        text.push_str("\nThis node runs no BGP.\n");
        return text;
    };
    for (family, is_family) in
        [("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", IpAddr::is_ipv6)]
    {
        text.push_str(&format!("\n{family} BGP status\n"));
        let peers: Vec<&PeerStatus> =
            bgp.peers.iter().filter(|peer| is_family(&peer.address)).collect();
        if peers.is_empty() {
            text.push_str(&format!("No {family} peers found.\n"));
        } else {
            text.push_str(&peer_table(&peers, now).framed());
        }
    }
    text
}

fn peer_table(peers: &[&PeerStatus], now: SystemTime) -> Table {
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

    const ANSWER: &str = r#"{"version":"0.1.0","node":"n1","ready":false,
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
        assert_eq!(describe(&serde_json::from_str(ANSWER).unwrap(), now), expected);
    }

    #[tokio::test]
    async fn without_an_agent_it_says_what_to_check() {
        let error = status(Path::new("/nonexistent/control.sock"), SystemTime::now()).await;
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("Calico process is not running."), "{text}");
        assert!(text.contains("/nonexistent/control.sock"), "{text}");
    }
}
