//! FRR: bgpd alone, without zebra.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Child;

use calico_bgp::wire::Role;
use ipnet::IpNet;

use super::{Daemon, Session, Setup, Sign, crash, log, spawn, until_it_answers, write};
use crate::lab::Place;

pub(super) struct Frr {
    place: Place,
    child: Option<Child>,
    asn: u32,
}

impl Frr {
    pub(super) fn new(place: Place) -> Self {
        Self { place, child: None, asn: 0 }
    }

    fn ask(&self, commands: &[&str]) -> String {
        let directory = self.place.directory.display().to_string();
        let mut args = vec!["--vty_socket", directory.as_str(), "-d", "bgpd"];
        for command in commands {
            args.extend(["-c", command]);
        }
        self.place.ask("vtysh", &args)
    }
}

fn family(of: IpAddr) -> &'static str {
    if of.is_ipv4() { "ipv4" } else { "ipv6" }
}

impl Daemon for Frr {
    fn configure(&mut self, setup: &Setup) {
        let mut out = format!(
            "log stdout\nrouter bgp {}\n bgp router-id 10.9.0.2\n no bgp ebgp-requires-policy\n\
             no bgp default ipv4-unicast\n no bgp network import-check\n coalesce-time 0\n \
             bgp log-neighbor-changes\n",
            setup.asn
        );
        let restart = setup.sessions.iter().find_map(|s| s.graceful_restart);
        if let Some(time) = restart {
            let _ = writeln!(
                out,
                " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n \
                 bgp graceful-restart restart-time {time}"
            );
        }
        if let Some(time) = setup.sessions.iter().find_map(|s| s.long_lived) {
            let _ = writeln!(out, " bgp long-lived-graceful-restart stale-time {time}");
        }
        for session in &setup.sessions {
            out += &neighbor(session);
        }
        for ipv4 in [true, false] {
            let _ = writeln!(out, " address-family {} unicast", if ipv4 { "ipv4" } else { "ipv6" });
            for s in setup.sessions.iter().filter(|s| if ipv4 { s.ipv4 } else { s.ipv6 }) {
                let a = s.remote;
                let _ = writeln!(out, "  neighbor {a} activate");
                if s.client {
                    let _ = writeln!(out, "  neighbor {a} route-reflector-client");
                }
                let paths = if s.add_path { "addpath-tx-all-paths" } else { "disable-addpath-rx" };
                let _ = writeln!(out, "  neighbor {a} {paths}");
            }
            for route in setup.routes.iter().filter(|r| r.prefix.addr().is_ipv4() == ipv4) {
                let with = if route.has_communities() { " route-map C" } else { "" };
                let _ = writeln!(out, "  network {}{with}", route.prefix);
            }
            out += " exit-address-family\n";
        }
        out += "exit\nroute-map C permit 10\n set community 64512:300\n \
                set extcommunity rt 64512:77\n set large-community 4200000001:1:2\nexit\n";
        write(&self.place, "conf", &out);
        self.asn = setup.asn;
    }

    fn start(&mut self, _again: bool) {
        let place = &self.place;
        let mut command = place.command("/usr/lib/frr/bgpd");
        command.args(["-f", &place.text("conf"), "-i", &place.text("pid")]);
        command.args(["--vty_socket", &place.directory.display().to_string()]);
        command.args(["-z", &place.text("zserv"), "-Z", "-S", "-P", "0"]);
        command.args(["-l", "10.9.0.2", "-l", "fd09::2"]);
        let mut child = spawn(place, &mut command);
        until_it_answers(&mut child, || self.ask(&["show bgp summary"]).contains("10.9.0.2"));
        self.child = Some(child);
    }

    fn crash(&mut self) {
        crash(&self.place, &mut self.child);
    }

    fn is_established(&self, with: IpAddr) -> bool {
        self.ask(&[&format!("show bgp neighbors {with}")]).contains("BGP state = Established")
    }

    fn route(&self, prefix: IpNet) -> Option<String> {
        let text = self.ask(&[&format!("show bgp {} unicast {prefix}", family(prefix.addr()))]);
        text.contains("Paths: (").then_some(text)
    }

    fn spelling(&self, sign: Sign) -> String {
        match sign {
            Sign::Community => "Community: 64512:300\n".to_owned(),
            Sign::Extended => "Extended Community: RT:64512:77\n".to_owned(),
            Sign::Large => "Large Community: 4200000001:1:2\n".to_owned(),
            Sign::NextHop(address) => format!("\n    {address}"),
            Sign::Originator(id) => format!("Originator: {id}"),
            Sign::Cluster(id) => format!("Cluster list: {id}"),
            Sign::LongLivedStale => "llgr-stale".to_owned(),
            Sign::ManyCommunities => " 64512:1:499".to_owned(),
            Sign::AsPath(path) => {
                let path: Vec<String> = path.iter().map(u32::to_string).collect();
                format!("\n  {}", path.join(" "))
            }
        }
    }

    fn withdraw(&mut self, prefix: IpNet) {
        let router = format!("router bgp {}", self.asn);
        let family = format!("address-family {} unicast", family(prefix.addr()));
        let network = format!("no network {prefix}");
        let answer = self.ask(&["configure terminal", &router, &family, &network]);
        assert!(!answer.contains('%'), "{answer}");
    }

    fn shut_down(&mut self, with: IpAddr, words: &str) {
        let router = format!("router bgp {}", self.asn);
        let shutdown = format!("neighbor {with} shutdown message {words}");
        let answer = self.ask(&["configure terminal", &router, &shutdown]);
        assert!(!answer.contains('%'), "{answer}");
    }

    fn heard(&self, words: &str) -> bool {
        log(&self.place).lines().any(|l| l.contains("received from") && l.contains(words))
    }

    fn ask_refresh(&mut self, of: IpAddr, ipv4: bool) {
        let family = if ipv4 { "ipv4" } else { "ipv6" };
        let answer = self.ask(&[&format!("clear bgp {family} unicast {of} soft in")]);
        assert!(!answer.contains('%'), "{answer}");
    }
}

fn neighbor(s: &Session) -> String {
    let a = s.remote;
    let mut out = format!(
        " neighbor {a} remote-as {}\n neighbor {a} update-source {}\n \
         neighbor {a} timers 30 90\n neighbor {a} timers connect 1\n \
         neighbor {a} advertisement-interval 0\n",
        s.remote_as, s.local
    );
    if let Some(password) = s.password {
        let _ = writeln!(out, " neighbor {a} password {password}");
    }
    if s.passive {
        let _ = writeln!(out, " neighbor {a} passive");
    }
    if s.ttl_security {
        let _ = writeln!(out, " neighbor {a} ttl-security hops 1");
    } else {
        // Without zebra it knows no interfaces.
        let _ = writeln!(out, " neighbor {a} disable-connected-check");
    }
    if s.ipv4_over_ipv6 {
        let _ = writeln!(out, " neighbor {a} capability extended-nexthop");
    }
    if let Some(role) = s.role {
        let name = match role {
            Role::Provider => "provider",
            Role::Customer => "customer",
            Role::Peer => "peer",
            Role::RouteServer => "rs-server",
            Role::RouteServerClient => "rs-client",
        };
        let _ = writeln!(out, " neighbor {a} local-role {name}");
    }
    out
}
