//! GoBGP.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Child;

use ipnet::IpNet;

use super::{Daemon, Origin, Session, Setup, Sign, crash, log, spawn, until_it_answers, write};
use crate::feature::{Feature, Support};
use crate::lab::Place;

pub(super) fn support(feature: Feature) -> Support {
    match feature {
        Feature::RefreshToPeer => Support::Lacks(
            "GoBGP keeps what it received and never asks for it again (`softresetin` sends nothing).",
        ),
        Feature::EnhancedRefresh => {
            Support::Lacks("GoBGP 3 does not offer enhanced route refresh.")
        }
        Feature::ExtendedMessages => Support::Lacks("GoBGP 3 does not offer extended messages."),
        Feature::Roles => Support::Lacks("GoBGP 3 does not have roles."),
        _ => Support::Yes,
    }
}

pub(super) struct GoBgp {
    place: Place,
    child: Option<Child>,
    routes: Vec<Origin>,
}

impl GoBgp {
    pub(super) fn new(place: Place) -> Self {
        Self { place, child: None, routes: Vec::new() }
    }

    fn ask(&self, command: &str) -> String {
        let target = format!("--target=unix://{}", self.place.text("api"));
        let mut args = vec![target.as_str()];
        args.extend(command.split_whitespace());
        self.place.ask("gobgp", &args)
    }
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "ipv4" } else { "ipv6" }
}

impl Daemon for GoBgp {
    fn configure(&mut self, setup: &Setup) {
        let mut out = format!(
            "[global.config]\nas = {}\nrouter-id = \"10.9.0.2\"\nport = 179\n\
             local-address-list = [\"10.9.0.2\", \"fd09::2\"]\n",
            setup.asn
        );
        for session in &setup.sessions {
            out += &neighbor(session);
        }
        write(&self.place, "conf", &out);
        self.routes.clone_from(&setup.routes);
    }

    fn start(&mut self, again: bool) {
        let mut command = self.place.command("/usr/bin/gobgpd");
        command.args(["--log-plain", "--log-level", "debug", "--pprof-disable"]);
        command.args(["--api-hosts", &format!("unix://{}", self.place.text("api"))]);
        command.args(["-f", &self.place.text("conf")]);
        if again {
            command.arg("-r");
        }
        let _ = std::fs::remove_file(self.place.path("api"));
        let mut child = spawn(&self.place, &mut command);
        until_it_answers(&mut child, || self.ask("global").contains("10.9.0.2"));
        self.child = Some(child);
        for route in &self.routes {
            let with = if route.has_communities() {
                "community 64512:300 rt 64512:77 large-community 4200000001:1:2"
            } else {
                ""
            };
            let (family, p) = (family(route.prefix.addr().is_ipv4()), route.prefix);
            let answer = self.ask(&format!("global rib add {p} {with} -a {family}"));
            assert!(answer.trim().is_empty(), "{answer}");
        }
    }

    fn crash(&mut self) {
        crash(&self.place, &mut self.child);
    }

    fn is_established(&self, with: IpAddr) -> bool {
        self.ask(&format!("neighbor {with}")).contains("BGP state = ESTABLISHED")
    }

    fn route(&self, prefix: IpNet) -> Option<String> {
        let family = family(prefix.addr().is_ipv4());
        let text = self.ask(&format!("global rib {prefix} -a {family}"));
        text.contains("*").then_some(text)
    }

    fn spelling(&self, sign: Sign) -> String {
        match sign {
            Sign::Community => "{Communities: 64512:300}".to_owned(),
            Sign::Extended => "{Extcomms: [64512:77]}".to_owned(),
            Sign::Large => "{LargeCommunity: [ 4200000001:1:2]}".to_owned(),
            Sign::NextHop(address) => format!(" {address} "),
            Sign::Originator(id) => format!("{{Originator: {id}}}"),
            Sign::Cluster(id) => format!("{{ClusterList: [{id}]}}"),
            Sign::LongLivedStale => "llgr-stale".to_owned(),
            Sign::ManyCommunities => " 64512:1:499".to_owned(),
            Sign::AsPath(path) => {
                let path: Vec<String> = path.iter().map(u32::to_string).collect();
                format!(" {} ", path.join(" "))
            }
        }
    }

    fn withdraw(&mut self, prefix: IpNet) {
        let family = family(prefix.addr().is_ipv4());
        let answer = self.ask(&format!("global rib del {prefix} -a {family}"));
        assert!(answer.trim().is_empty(), "{answer}");
    }

    fn shut_down(&mut self, with: IpAddr, words: &str) {
        // It calls this deprecated, but `disable` loses the words.
        let answer = self.ask(&format!("neighbor {with} shutdown --reason {words}"));
        assert!(!answer.contains("rror"), "{answer}");
    }

    fn heard(&self, words: &str) -> bool {
        let told = |l: &str| l.contains("received notification") && l.contains(words);
        log(&self.place).lines().any(told)
    }

    fn ask_refresh(&mut self, of: IpAddr, ipv4: bool) {
        let answer = self.ask(&format!("neighbor {of} softresetin -a {}", family(ipv4)));
        assert!(answer.trim().is_empty(), "{answer}");
    }
}

fn neighbor(s: &Session) -> String {
    let mut out = format!(
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {}\n",
        s.remote, s.remote_as
    );
    if let Some(password) = s.password {
        let _ = writeln!(out, "auth-password = \"{password}\"");
    }
    let _ = writeln!(
        out,
        "[neighbors.transport.config]\nlocal-address = \"{}\"\n\
         passive-mode = {}\n[neighbors.timers.config]\n\
         hold-time = 90\nconnect-retry = 1\nidle-hold-time-after-reset = 1",
        s.local, s.passive
    );
    if s.ttl_security {
        out += "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n";
    }
    if s.client {
        out += "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                route-reflector-cluster-id = \"10.9.0.2\"\n";
    }
    if let Some(time) = s.graceful_restart {
        let _ = writeln!(
            out,
            "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {time}"
        );
        if s.long_lived.is_some() {
            out += "long-lived-enabled = true\n";
        }
    }
    if s.add_path {
        out += "[neighbors.add-paths.config]\nreceive = true\nsend-max = 8\n";
    }
    for (wanted, name) in [(s.ipv4, "ipv4-unicast"), (s.ipv6, "ipv6-unicast")] {
        if !wanted {
            continue;
        }
        let _ = writeln!(
            out,
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\""
        );
        if s.graceful_restart.is_some() {
            out += "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n";
        }
        if let Some(time) = s.long_lived {
            let _ = writeln!(
                out,
                "[neighbors.afi-safis.long-lived-graceful-restart.config]\nenabled = true\n\
                 restart-time = {time}"
            );
        }
    }
    out
}
