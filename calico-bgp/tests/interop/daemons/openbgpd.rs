//! OpenBGPD.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Child;

use calico_bgp::wire::Role;
use ipnet::IpNet;

use super::{Daemon, Session, Setup, Sign, crash, log, spawn, until_it_answers, write};
use crate::feature::{Feature, Support};
use crate::lab::Place;

pub(super) fn support(feature: Feature) -> Support {
    match feature {
        Feature::RefreshFromPeer => Support::Broken(
            "OpenBGPD 7 ignores every ROUTE-REFRESH that it receives (openbgpd-portable issue 46).",
        ),
        Feature::EnhancedRefresh => Support::Lacks(
            "OpenBGPD 7 offers enhanced route refresh only if told to, and then ignores its messages, \
             too (openbgpd-portable issue 46).",
        ),
        Feature::PeerRestarts => Support::Lacks(
            "OpenBGPD 7 keeps routes over our restart, but offers no family for its own: the \
             capability stands for End-of-RIB markers alone (bgpd.conf, `announce restart`).",
        ),
        Feature::LongLived => Support::Lacks("OpenBGPD does not have long-lived graceful restart."),
        Feature::Md5 => Support::Within(
            "OpenBGPD 7 on Linux signs connections that it opens; on those that it accepts it takes \
             unsigned segments, too. Only the former are tried.",
        ),
        Feature::Ipv4OverIpv6 => {
            Support::Lacks("OpenBGPD 7 does not offer IPv6 next hops for IPv4.")
        }
        Feature::ExtendedMessages => Support::Lacks("OpenBGPD 7 does not offer extended messages."),
        _ => Support::Yes,
    }
}

pub(super) struct OpenBgpd {
    place: Place,
    child: Option<Child>,
}

impl OpenBgpd {
    pub(super) fn new(place: Place) -> Self {
        Self { place, child: None }
    }

    fn ask(&self, command: &str) -> String {
        let socket = self.place.text("ctl");
        let mut args = vec!["-s", socket.as_str()];
        args.extend(command.split_whitespace());
        self.place.ask("bgpctl", &args)
    }
}

impl Daemon for OpenBgpd {
    fn configure(&mut self, setup: &Setup) {
        let mut out = format!(
            "AS {}\nrouter-id 10.9.0.2\nfib-update no\nlisten on 10.9.0.2\nlisten on fd09::2\n\
             socket \"{}\"\n",
            setup.asn,
            self.place.text("ctl")
        );
        for route in &setup.routes {
            let with = if route.has_communities() {
                "set { community 64512:300 ext-community rt 64512:77 \
                 large-community 4200000001:1:2 }"
            } else {
                ""
            };
            let _ = writeln!(out, "network {} {with}", route.prefix);
        }
        for session in &setup.sessions {
            out += &neighbor(session);
        }
        out += "allow from any\nallow to any\n";
        write(&self.place, "conf", &out);
    }

    fn start(&mut self, _again: bool) {
        // Its package leaves it to systemd to make the directory it locks itself into.
        std::fs::create_dir_all("/run/openbgpd").expect("make OpenBGPD's directory");
        let mut command = self.place.command("/usr/sbin/bgpd");
        command.args(["-d", "-v", "-f", &self.place.text("conf")]);
        let _ = std::fs::remove_file(self.place.path("ctl"));
        let before = log(&self.place).len();
        let mut child = spawn(&self.place, &mut command);
        // A route that comes earlier is reflected as if there were no `route-reflector`.
        let is_configured = || log(&self.place)[before..].contains("RDE soft reconfiguration done");
        until_it_answers(&mut child, || {
            is_configured() && self.ask("show summary").contains("Neighbor")
        });
        self.child = Some(child);
    }

    fn crash(&mut self) {
        crash(&self.place, &mut self.child);
    }

    fn is_established(&self, with: IpAddr) -> bool {
        self.ask(&format!("show neighbor {with}")).contains("BGP state = Established")
    }

    fn route(&self, prefix: IpNet) -> Option<String> {
        let text = self.ask(&format!("show rib detail {prefix}"));
        text.contains("BGP routing table entry").then_some(text)
    }

    fn spelling(&self, sign: Sign) -> String {
        match sign {
            Sign::Community => "Communities: 64512:300\n".to_owned(),
            Sign::Extended => "Ext. Communities: rt 64512:77\n".to_owned(),
            Sign::Large => "Large Communities: 4200000001:1:2\n".to_owned(),
            Sign::NextHop(address) => format!("Nexthop {address}"),
            Sign::Originator(id) => format!("Originator Id: {id}"),
            Sign::Cluster(id) => format!("Cluster Id List:  {id}"),
            Sign::LongLivedStale => "65535:6".to_owned(),
            Sign::ManyCommunities => " 64512:1:499".to_owned(),
            Sign::AsPath(path) => {
                let path: Vec<String> = path.iter().map(u32::to_string).collect();
                format!("    {}\n", path.join(" "))
            }
        }
    }

    fn withdraw(&mut self, prefix: IpNet) {
        let answer = self.ask(&format!("network delete {prefix}"));
        assert!(answer.contains("request sent"), "{answer}");
    }

    fn shut_down(&mut self, with: IpAddr, words: &str) {
        let answer = self.ask(&format!("neighbor {with} down {words}"));
        assert!(answer.contains("request processed"), "{answer}");
    }

    fn heard(&self, words: &str) -> bool {
        log(&self.place)
            .lines()
            .any(|l| l.contains("received shutdown reason") && l.contains(words))
    }

    fn ask_refresh(&mut self, of: IpAddr, _ipv4: bool) {
        let answer = self.ask(&format!("neighbor {of} refresh"));
        assert!(answer.contains("request processed"), "{answer}");
    }
}

fn neighbor(s: &Session) -> String {
    let mut out = format!(
        "neighbor {} {{\n remote-as {}\n local-address {}\n holdtime 90\n        ",
        s.remote, s.remote_as, s.local
    );
    let unicast = |on: bool| if on { "unicast" } else { "none" };
    let _ = writeln!(out, " announce IPv4 {}\n announce IPv6 {}", unicast(s.ipv4), unicast(s.ipv6));
    if let Some(password) = s.password {
        let _ = writeln!(out, " tcp md5sig password \"{password}\"");
    }
    if s.passive {
        out += " passive\n";
    }
    if s.ttl_security {
        out += " ttl-security yes\n";
    }
    if s.graceful_restart.is_none() {
        out += " announce restart no\n";
    }
    if s.client {
        out += " route-reflector 10.9.0.2\n";
    }
    if s.add_path {
        out += " announce add-path recv yes\n announce add-path send all\n";
    }
    if let Some(role) = s.role {
        let name = match role {
            Role::Provider => "provider",
            Role::Customer => "customer",
            Role::Peer => "peer",
            Role::RouteServer => "rs",
            Role::RouteServerClient => "rs-client",
        };
        let _ = writeln!(out, " announce policy {name}");
    }
    out + "}\n"
}
