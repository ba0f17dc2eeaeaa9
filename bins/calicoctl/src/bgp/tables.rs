//! Answers as tables.

use std::net::IpAddr;

use calico_control::{Attributes, Direction, NeighborRoute, Path, PeerInfo, Peers, Route};

use crate::output::table::Table;

/// The port that is not worth telling.
const BGP_PORT: u16 = 179;

/// The speaker and its sessions.
pub(super) fn peers(peers: &Peers) -> String {
    let mut text = format!("AS {}, router id {}", peers.as_number, peers.router_id);
    if peers.cluster_id != peers.router_id {
        text.push_str(&format!(", cluster {}", peers.cluster_id));
    }
    text.push_str(&format!(", {}\n", count(peers.destinations, "destination")));
    if !peers.converged {
        text.push_str("Restarted: waiting for the peers to tell their routes.\n");
    }
    text.push('\n');
    if peers.peers.is_empty() {
        return text + "There are no neighbors.\n";
    }
    let mut table =
        Table::new(&["NEIGHBOR", "AS", "TYPE", "STATE", "FOR", "RECEIVED", "SENT", "INFO"]);
    for peer in &peers.peers {
        table.rows.push(vec![
            address(peer),
            peer.as_number.to_string(),
            kind(peer),
            peer.state.clone(),
            duration(peer.since_seconds),
            peer.received.to_string(),
            peer.advertised.to_string(),
            info(peer),
        ]);
    }
    text + &table.aligned()
}

fn address(peer: &PeerInfo) -> String {
    match (peer.port, peer.address) {
        (BGP_PORT, address) => address.to_string(),
        (port, IpAddr::V4(address)) => format!("{address}:{port}"),
        (port, IpAddr::V6(address)) => format!("[{address}]:{port}"),
    }
}

fn kind(peer: &PeerInfo) -> String {
    if peer.dynamic { format!("{}, dynamic", peer.relation) } else { peer.relation.clone() }
}

fn info(peer: &PeerInfo) -> String {
    let mut parts: Vec<String> = peer.description.iter().cloned().collect();
    if peer.restarting {
        parts.push("restarts, its routes are kept".to_owned());
    }
    if peer.state != "Established" {
        parts.extend(peer.last_error.clone());
    } else if peer.update_errors > 0 {
        parts.push(format!("{} in its UPDATEs", count(peer.update_errors, "fault")));
    }
    parts.join("; ")
}

/// Everything about one peer.
pub(super) fn neighbor(peer: &PeerInfo) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<16}{value}\n"));
    line("Neighbor", address(peer));
    if let Some(description) = &peer.description {
        line("Description", description.clone());
    }
    line("AS", format!("{} ({})", peer.as_number, kind(peer)));
    line("State", format!("{} for {}", peer.state, duration(peer.since_seconds)));
    if let Some(error) = &peer.last_error {
        line("Last error", error.clone());
    }
    if peer.restarting {
        line("Restart", "its routes are kept until it is back".to_owned());
    }
    if let Some(session) = &peer.session {
        line("Router id", session.router_id.to_string());
        if let Some(local) = session.local_address {
            line("Local address", local.to_string());
        }
        line("Families", session.families.join(", "));
        line("Hold time", format!("{} s", session.hold_time));
        if let Some(time) = session.restart_time {
            line("Restart time", format!("{time} s"));
        }
        if !session.features.is_empty() {
            line("Features", session.features.join(", "));
        }
    }
    line("Prefixes", format!("{} received, {} sent", peer.received, peer.advertised));
    let updates = count(peer.updates_received, "update");
    line("Updates", format!("{updates} received, {} of them faulty", peer.update_errors));
    line("Sessions", format!("{} established, {} lost", peer.established, peer.lost));
    text
}

/// The table of routes.
pub(super) fn routes(routes: &[Route]) -> String {
    if routes.is_empty() {
        return "There are no routes.\n".to_owned();
    }
    let mut table = Table::new(&[
        "DESTINATION",
        "USE",
        "NEXT HOP",
        "FROM",
        "PREF",
        "MED",
        "AS PATH",
        "DECIDED BY",
    ]);
    for route in routes {
        for path in &route.paths {
            let mut row = vec![route.prefix.to_string(), used(path)];
            row.push(hop(&path.attributes));
            row.push(from(path));
            row.extend(numbers(&path.attributes));
            row.push(path.refused.clone().unwrap_or_else(|| path.decided_by.clone()));
            table.rows.push(row);
        }
    }
    table.aligned()
}

/// What a path is good for.
fn used(path: &Path) -> String {
    let word = match (path.best, path.used, &path.refused) {
        (true, ..) => "best",
        (_, true, _) => "equal",
        (.., Some(_)) => "none",
        (.., None) => "spare",
    };
    if path.stale { format!("{word}, stale") } else { word.to_owned() }
}

pub(super) fn hop(attributes: &Attributes) -> String {
    attributes.next_hop.map_or_else(|| "self".to_owned(), |hop| hop.to_string())
}

/// Whom a path is from, with its number if it is one of several.
pub(super) fn from(path: &Path) -> String {
    match (path.from, path.path_id) {
        (None, _) => "local".to_owned(),
        (Some(from), None) => from.to_string(),
        (Some(from), Some(id)) => format!("{from} #{id}"),
    }
}

/// LOCAL_PREF, MULTI_EXIT_DISC and AS path.
pub(super) fn numbers(attributes: &Attributes) -> [String; 3] {
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let path = &attributes.as_path;
    let path = if path.is_empty() { "-".to_owned() } else { path.clone() };
    [number(attributes.local_pref), number(attributes.med), path]
}

/// The routes of one neighbor.
pub(super) fn of_neighbor(routes: &[NeighborRoute], direction: Direction) -> String {
    if routes.is_empty() {
        return match direction {
            Direction::Received => "It has told no routes that could be used.\n".to_owned(),
            Direction::Advertised => "It has been told no routes.\n".to_owned(),
        };
    }
    let several = routes.iter().any(|route| route.path_id.is_some());
    let mut heading = vec!["DESTINATION"];
    heading.extend(several.then_some("PATH"));
    heading.extend(["NEXT HOP", "PREF", "MED", "AS PATH", "COMMUNITIES"]);
    heading.extend((direction == Direction::Received).then_some("USE"));
    let mut table = Table::new(&heading);
    for route in routes {
        let mut row = vec![route.prefix.to_string()];
        if several {
            row.push(route.path_id.map_or_else(|| "-".to_owned(), |id| id.to_string()));
        }
        row.push(hop(&route.attributes));
        row.extend(numbers(&route.attributes));
        let communities = route.attributes.communities.join(" ");
        row.push(if communities.is_empty() { "-".to_owned() } else { communities });
        let stale = if route.stale { ", stale" } else { "" };
        row.extend(route.fate.as_ref().map(|fate| format!("{fate}{stale}")));
        table.rows.push(row);
    }
    table.aligned()
}

pub(super) fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A time in its two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use calico_control::Session;

    use super::*;

    fn peer(address: [u8; 4]) -> PeerInfo {
        PeerInfo {
            address: address.into(),
            port: 179,
            as_number: 64512,
            description: None,
            relation: "client".to_owned(),
            dynamic: false,
            state: "Established".to_owned(),
            since_seconds: 7_980,
            received: 3,
            advertised: 120,
            restarting: false,
            established: 2,
            lost: 1,
            updates_received: 7,
            update_errors: 0,
            last_error: Some("connection lost: closed by the peer".to_owned()),
            session: Some(Session {
                router_id: [10, 0, 0, 1].into(),
                local_address: Some([10, 0, 0, 254].into()),
                families: vec!["ipv4-unicast".to_owned(), "ipv6-unicast".to_owned()],
                hold_time: 90,
                restart_time: Some(120),
                features: vec!["route-refresh".to_owned(), "add-path".to_owned()],
            }),
        }
    }

    #[test]
    fn sessions() {
        let down = PeerInfo {
            port: 1790,
            state: "Active".to_owned(),
            since_seconds: 5,
            description: Some("rack 2".to_owned()),
            last_error: Some("cannot connect: Connection refused (os error 111)".to_owned()),
            session: None,
            dynamic: true,
            ..peer([10, 0, 0, 2])
        };
        let all = Peers {
            as_number: 64512,
            router_id: [10, 0, 0, 254].into(),
            cluster_id: [10, 0, 0, 254].into(),
            converged: true,
            destinations: 1,
            peers: vec![peer([10, 0, 0, 1]), down],
        };
        let expected = "\
AS 64512, router id 10.0.0.254, 1 destination

NEIGHBOR        AS      TYPE              STATE         FOR     RECEIVED   SENT   INFO
10.0.0.1        64512   client            Established   2h13m   3          120
10.0.0.2:1790   64512   client, dynamic   Active        5s      3          120    \
rack 2; cannot connect: Connection refused (os error 111)
";
        assert_eq!(peers(&all), expected);
    }

    #[test]
    fn one_neighbor() {
        let expected = "\
Neighbor        10.0.0.1
AS              64512 (client)
State           Established for 2h13m
Last error      connection lost: closed by the peer
Router id       10.0.0.1
Local address   10.0.0.254
Families        ipv4-unicast, ipv6-unicast
Hold time       90 s
Restart time    120 s
Features        route-refresh, add-path
Prefixes        3 received, 120 sent
Updates         7 updates received, 0 of them faulty
Sessions        2 established, 1 lost
";
        assert_eq!(neighbor(&peer([10, 0, 0, 1])), expected);
    }

    #[test]
    fn times() {
        let check = |seconds, expected: &str| assert_eq!(duration(seconds), expected);
        check(0, "0s");
        check(61, "1m01s");
        check(3_600, "1h00m");
        check(90_000, "1d01h");
    }
}
