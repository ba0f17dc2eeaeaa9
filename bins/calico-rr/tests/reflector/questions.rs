//! What calicoctl and machines are told.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::lab::{Lab, Router, calicoctl_of_the_workspace, lab};
use super::{client, clients};

/// Two clients, of which the second tells a second way to the first's network; and a router in
/// another AS, which a filter keeps networks from.
fn three() -> Option<Lab> {
    let mut lab = lab(3)?;
    let config = clients(2).replacen("[[neighbor]]", "[[neighbor]]\ndescription = 'rack one'", 1)
        + &client("10.9.3.2")
        + "as = 65003\nexport = 'not-one'\nimport = 'no-tens'\n\
           [filter.not-one]\n[[filter.not-one.rule]]\nprefix = '10.65.1.0/24'\n\
           action = 'reject'\n\
           [filter.no-tens]\n[[filter.no-tens.rule]]\nfamily = 'ipv4'\naction = 'reject'\n";
    lab.start_reflector(&config);
    lab.start_router(1, Router::default());
    lab.start_router(2, Router::default());
    lab.start_router(3, Router { asn: 65003, ..Router::default() });
    // The session over IPv6 of the third router is none of the reflector's.
    lab.until_established(5);
    lab.until("everything is told", |lab| {
        lab.has_route(1, "fd65:2::/64")
            && lab.has_route(2, "10.65.1.0/24")
            && lab.has_route(3, "10.65.2.0/24")
            && lab.ask("bgp routes").contains("10.65.3.0/24")
    });
    Some(lab)
}

/// One blank for many, so that the widths of columns do not matter.
fn squeezed(text: &str) -> String {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_operator_sees_neighbors_routes_and_reasons() {
    let Some(lab) = three() else { return };
    let text = lab.ask("bgp peers");
    assert!(text.starts_with("AS 64512, router id 10.9.0.1, 5 destinations\n"), "{text}");
    let one = text.lines().find(|line| line.starts_with("10.9.1.2 ")).unwrap();
    for word in ["64512", "client", "Established", "rack one"] {
        assert!(one.contains(word), "{text}");
    }
    let json: calico_control::Peers = serde_json::from_str(&lab.ask("bgp peers -o json")).unwrap();
    assert_eq!(json.peers.len(), 5);

    let text = lab.ask("bgp routes 10.65.0.0/16");
    assert!(!text.contains("fd65"), "{text}");
    let of = |prefix: &str| text.lines().find(|line| line.starts_with(prefix)).unwrap();
    assert!(of("10.65.1.0/24").contains("best") && of("10.65.1.0/24").contains("only path"));
    assert!(of("10.65.3.0/24").contains("rejected by the import policy"), "{text}");

    let text = squeezed(&lab.ask("bgp explain 10.65.1.7"));
    assert!(text.starts_with("10.65.1.0/24 (the longest prefix that 10.65.1.7/32 is in)\n"));
    for line in [
        "best: there is no other",
        "10.9.1.2 the peer told the route itself",
        "fd09:1::2 session does not carry the address family",
        "10.9.3.2 rejected by the export policy: filter not-one, rule 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let (told, untold) = text.split_once("Not told to:").unwrap();
    assert!(told.split_once("Told to:").unwrap().1.contains("10.9.2.2"), "{text}");
    assert!(!untold.contains("10.9.2.2"), "{text}");
    let text = lab.ask("bgp explain 10.65.3.0/24");
    assert!(text.contains("not used: rejected by the import policy: filter no-tens, rule 1"));
    let refused = lab.calicoctl("bgp explain 10.99.0.0/24");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(error, "there is no route to 10.99.0.0/24\n");
    assert_eq!(refused.status.code(), Some(1));

    let text = lab.ask("bgp neighbor 10.9.2.2 advertised");
    assert!(text.contains("10.65.1.0/24") && !text.contains("10.65.2.0/24"), "{text}");
    let text = lab.ask("bgp neighbor 10.9.3.2 received");
    assert!(text.contains("10.65.3.0/24") && text.contains("rejected"), "{text}");
    let text = lab.ask("bgp neighbor 10.9.1.2");
    assert!(text.contains("Features") && text.contains("graceful-restart"), "{text}");
    let unknown = lab.calicoctl("bgp neighbor 10.9.9.9 received");
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(error.starts_with("no neighbor has the address 10.9.9.9"), "{error}");
    for command in ["bgp routes -o json", "bgp explain 10.65.1.0/24 -o json"] {
        let json: serde_json::Value = serde_json::from_str(&lab.ask(command)).unwrap();
        assert!(json.to_string().contains("nextHop"), "{json}");
    }
}

#[test]
fn machines_get_metrics_health_and_readiness() {
    let Some(mut lab) = lab(1) else { return };
    let address = "127.0.0.1:9179".parse().unwrap();
    let manager = UnixDatagram::bind(lab.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    lab.start_reflector(&clients(1));
    let mut told = [0; 256];
    let length = manager.recv(&mut told).unwrap();
    let told = String::from_utf8_lossy(&told[..length]).into_owned();
    assert_eq!(told, "READY=1\nSTATUS=reflecting routes, 2 neighbors");
    assert_eq!(lab.page(address, "/healthz").0, "HTTP/1.1 200 OK");
    let (status, waiting) = lab.page(address, "/readyz");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(waiting, "waiting for 2 peer(s) to come up\n");
    lab.start_router(1, Router::default());
    lab.until("it is ready", |lab| lab.page(address, "/readyz").0 == "HTTP/1.1 200 OK");
    let up = "calico_bgp_peer_up{peer=\"10.9.1.2\",port=\"179\",as=\"64512\",description=\"\"} 1";
    let (_, metrics) = lab.page(address, "/metrics");
    assert!(metrics.lines().any(|line| line == up), "{metrics}");
    assert!(metrics.contains("\ncalico_bgp_destinations 2\n"), "{metrics}");
}

#[test]
fn only_root_may_ask() {
    let Some(mut lab) = lab(1) else { return };
    lab.start_reflector(&clients(1));
    let mode = std::fs::metadata(lab.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A copy that everybody can run.
    let calicoctl = lab.path("calicoctl");
    std::fs::copy(calicoctl_of_the_workspace(), &calicoctl).unwrap();
    for directory in [lab.path(""), lab.run_dir()] {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let nobody = |wanted: &str| {
        let output = Command::new(&calicoctl)
            .args(["bgp", "peers", "--control-socket"])
            .arg(lab.socket())
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert!(error.contains(wanted), "{error}");
    };
    nobody("permission denied; run as root");
    // Even one who can connect is asked who it is.
    std::fs::set_permissions(lab.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    nobody("it answers only root and the user that it runs as");
    lab.ask("bgp peers");
}

#[test]
fn questions_have_bounds() {
    let Some(mut lab) = lab(1) else { return };
    lab.start_reflector(&clients(1));
    let ask = |question: &[u8]| {
        let mut stream = UnixStream::connect(lab.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        // Who asks too much may be cut off before the end.
        let _ = stream.write_all(question);
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer);
        answer
    };
    assert!(ask(b"{\"ask\":\"bgp-peers\"}\n").contains("\"routerId\":\"10.9.0.1\""));
    assert!(ask(b"{\"ask\":\"nonsense\"}\n").contains("nonsense"));
    assert!(ask(b"\xff\n").is_empty(), "it is no text: the connection ends");
    assert!(ask(&vec![b'x'; 70_000]).contains("not a question about BGP"));
    // Those who connect and say nothing do not keep others out for ever, and cost no more than
    // a place.
    let silent: Vec<UnixStream> =
        (0..10).map(|_| UnixStream::connect(lab.socket()).unwrap()).collect();
    lab.ask("bgp peers");
    drop(silent);
}
