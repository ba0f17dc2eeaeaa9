//! BIRD 2.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Child;

use calico_bgp::wire::Role;
use ipnet::IpNet;

use super::{Daemon, Session, Setup, Sign, crash, log, spawn, until_it_answers, write};
use crate::lab::Place;

pub(super) struct Bird {
    place: Place,
    child: Option<Child>,
    setup: Option<Setup>,
}

impl Bird {
    pub(super) fn new(place: Place) -> Self {
        Self { place, child: None, setup: None }
    }

    fn ask(&self, command: &str) -> String {
        let socket = self.place.text("ctl");
        let mut args = vec!["-s", socket.as_str()];
        args.extend(command.split_whitespace());
        self.place.ask("birdc", &args)
    }

    fn protocol(&self, with: IpAddr) -> String {
        let sessions = &self.setup.as_ref().expect("configured").sessions;
        let at = sessions.iter().position(|s| s.remote == with).expect("a session");
        format!("c{at}")
    }
}

impl Daemon for Bird {
    fn configure(&mut self, setup: &Setup) {
        let mut out = String::from(
            "log stderr all;\nrouter id 10.9.0.2;\nprotocol device {}\n\
             protocol direct { ipv4; ipv6; }\n",
        );
        for (at, route) in setup.routes.iter().enumerate() {
            let channel = if route.prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            let attributes = if route.has_communities() {
                "{ bgp_community.add((64512,300)); bgp_ext_community.add((rt,64512,77)); \
                 bgp_large_community.add((4200000001,1,2)); }"
            } else {
                ""
            };
            let _ = writeln!(
                out,
                "protocol static s{at} {{ {channel}; route {} unreachable {attributes}; }}",
                route.prefix
            );
        }
        for (at, session) in setup.sessions.iter().enumerate() {
            out += &protocol(at, setup.asn, session);
        }
        write(&self.place, "conf", &out);
        self.setup = Some(setup.clone());
    }

    fn start(&mut self, again: bool) {
        let mut command = self.place.command("/usr/sbin/bird");
        command.args(["-f", "-c", &self.place.text("conf"), "-s", &self.place.text("ctl")]);
        if again {
            command.arg("-R");
        }
        let mut child = spawn(&self.place, &mut command);
        until_it_answers(&mut child, || self.ask("show status").contains("up and running"));
        self.child = Some(child);
    }

    fn crash(&mut self) {
        crash(&self.place, &mut self.child);
    }

    fn is_established(&self, with: IpAddr) -> bool {
        self.ask(&format!("show protocols {}", self.protocol(with))).contains("Established")
    }

    fn route(&self, prefix: IpNet) -> Option<String> {
        let text = self.ask(&format!("show route {prefix} all"));
        text.contains("BGP.").then_some(text)
    }

    fn spelling(&self, sign: Sign) -> String {
        match sign {
            Sign::Community => "BGP.community: (64512,300)\n".to_owned(),
            Sign::Extended => "BGP.ext_community: (rt, 64512, 77)\n".to_owned(),
            Sign::Large => "BGP.large_community: (4200000001, 1, 2)\n".to_owned(),
            Sign::NextHop(address) => format!("BGP.next_hop: {address}"),
            Sign::Originator(id) => format!("BGP.originator_id: {id}"),
            Sign::Cluster(id) => format!("BGP.cluster_list: {id}"),
            Sign::LongLivedStale => "(65535,6)".to_owned(),
            Sign::ManyCommunities => "(64512, 1, 499)".to_owned(),
            Sign::AsPath(path) => {
                let path: Vec<String> = path.iter().map(u32::to_string).collect();
                format!("BGP.as_path: {}\n", path.join(" "))
            }
        }
    }

    fn withdraw(&mut self, prefix: IpNet) {
        let routes = &self.setup.as_ref().expect("configured").routes;
        let at = routes.iter().position(|r| r.prefix == prefix).expect("a route of its own");
        let answer = self.ask(&format!("disable s{at}"));
        assert!(answer.contains("disabled"), "{answer}");
    }

    fn shut_down(&mut self, with: IpAddr, words: &str) {
        let answer = self.ask(&format!("disable {} \"{words}\"", self.protocol(with)));
        assert!(answer.contains("disabled"), "{answer}");
    }

    fn heard(&self, words: &str) -> bool {
        log(&self.place).lines().any(|l| l.contains("Received") && l.contains(words))
    }

    fn ask_refresh(&mut self, of: IpAddr, _ipv4: bool) {
        let answer = self.ask(&format!("reload in {}", self.protocol(of)));
        assert!(answer.contains("reloading"), "{answer}");
    }
}

fn protocol(at: usize, asn: u32, s: &Session) -> String {
    let mut out = format!(
        "protocol bgp c{at} {{\n local {} as {asn};\n neighbor {} as {};\n direct;\n\
         connect delay time 1; connect retry time 1; error wait time 1, 2;\n",
        s.local, s.remote, s.remote_as
    );
    if let Some(password) = s.password {
        let _ = writeln!(out, " password \"{password}\";");
    }
    if s.passive {
        out += " passive on;\n";
    }
    if s.ttl_security {
        out += " ttl security on;\n";
    }
    match s.graceful_restart {
        Some(time) => {
            let _ = writeln!(out, " graceful restart on; graceful restart time {time};");
        }
        None => out += " graceful restart off;\n",
    }
    if let Some(time) = s.long_lived {
        let _ = writeln!(out, " long lived graceful restart on; long lived stale time {time};");
    }
    if s.client {
        out += " rr client;\n";
    }
    if s.extended_messages {
        out += " enable extended messages on;\n";
    }
    if let Some(role) = s.role {
        let name = match role {
            Role::Provider => "provider",
            Role::Customer => "customer",
            Role::Peer => "peer",
            Role::RouteServer => "rs_server",
            Role::RouteServerClient => "rs_client",
        };
        let _ = writeln!(out, " local role {name};");
    }
    for (wanted, name) in [(s.ipv4, "ipv4"), (s.ipv6, "ipv6")] {
        if wanted {
            let paths = if s.add_path { "add paths on;" } else { "" };
            let over = if s.ipv4_over_ipv6 { "extended next hop on;" } else { "" };
            let _ = writeln!(
                out,
                " {name} {{ import all; export where source ~ [RTS_STATIC, RTS_BGP]; \
                 {paths} {over} }};"
            );
        }
    }
    out + "}\n"
}
