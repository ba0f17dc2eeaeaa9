//! ExaBGP: speaks BGP for a program, and decides nothing itself.
//!
//! Its "program" is a shell that hands on commands from a named pipe and keeps what it is told
//! in a file. What is in its table is therefore what it has said last about a prefix.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Child;

use ipnet::IpNet;
use nix::sys::stat::Mode;
use serde_json::Value;

use super::{
    Communities, Daemon, Origin, Session, Setup, Sign, crash, many_communities, spawn,
    until_it_answers, write,
};
use crate::feature::{Feature, Support};
use crate::lab::{Place, v4, v6};

/// Next hop of its second path to each prefix, on sessions with several paths.
pub(crate) const OTHER_HOP: u8 = 22;

pub(super) fn support(feature: Feature) -> Support {
    match feature {
        Feature::WeRestart => Support::Lacks(
            "ExaBGP has no table: the program behind it would have to keep routes over our restart.",
        ),
        Feature::LongLived => Support::Lacks("ExaBGP 4 does not have long-lived graceful restart."),
        Feature::WordsFromPeer => Support::Lacks("ExaBGP 4 says no words of its own."),
        Feature::WordsToPeer => {
            Support::Broken("ExaBGP 4 fails on words that it hears, and tells none.")
        }
        Feature::PeerReflects => Support::Lacks("ExaBGP passes no routes on."),
        Feature::RefreshFromPeer | Feature::EnhancedRefresh => Support::Broken(
            "ExaBGP 4 offers route refresh, and restarts the session when it is asked (exabgp issue \
             1237).",
        ),
        Feature::Gtsm => Support::Within(
            "ExaBGP 4 sends with TTL 255 what is to be secured, over IPv6 only on connections that it \
             opens; it looks at no TTL that arrives. That we do is tried.",
        ),
        Feature::Roles => Support::Lacks("ExaBGP 4 does not have roles."),
        _ => Support::Yes,
    }
}

pub(super) struct ExaBgp {
    place: Place,
    child: Option<Child>,
    /// Open for reading and writing, so that neither end ever blocks for want of the other.
    commands: Option<fs::File>,
}

impl ExaBgp {
    pub(super) fn new(place: Place) -> Self {
        Self { place, child: None, commands: None }
    }

    fn tell(&mut self, command: &str) {
        let pipe = self.commands.as_mut().expect("started");
        writeln!(pipe, "{command}").expect("write a command");
    }

    /// What it said since it was started, a value per line.
    fn said(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.place.path("said")).unwrap_or_default();
        // The last line may not be there whole yet.
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }
}

impl Daemon for ExaBgp {
    fn configure(&mut self, setup: &Setup) {
        let mut out = format!(
            "process api {{\n run /bin/sh {};\n encoder json;\n}}\n",
            self.place.text("api.sh")
        );
        for session in &setup.sessions {
            out += &neighbor(setup.asn, session, &setup.routes);
        }
        write(&self.place, "conf", &out);
        let (said, pipe) = (self.place.text("said"), self.place.text("commands"));
        write(&self.place, "api.sh", &format!("cat {pipe} &\nexec cat >> {said}\n"));
    }

    fn start(&mut self, _again: bool) {
        let (pipe, said) = (self.place.path("commands"), self.place.path("said"));
        // The file of an earlier run tells nothing of this one.
        let _ = fs::remove_file(&said);
        if self.commands.is_none() {
            nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("make a pipe");
            let file = fs::OpenOptions::new().read(true).write(true).open(&pipe);
            self.commands = Some(file.expect("open the pipe"));
        }
        let mut command = self.place.command("/usr/sbin/exabgp");
        command.arg(self.place.path("conf"));
        for (name, value) in [
            ("exabgp.daemon.user", "root"),
            ("exabgp.daemon.drop", "false"),
            ("exabgp.api.cli", "false"),
            ("exabgp.api.ack", "false"),
            ("exabgp.log.destination", "stdout"),
            ("exabgp.log.level", "INFO"),
        ] {
            command.env(name, value);
        }
        let mut child = spawn(&self.place, &mut command);
        until_it_answers(&mut child, || said.exists());
        self.child = Some(child);
    }

    fn crash(&mut self) {
        crash(&self.place, &mut self.child);
    }

    fn is_established(&self, with: IpAddr) -> bool {
        let mut states = self.said().into_iter().filter_map(|v| {
            let neighbor = v.get("neighbor")?;
            (neighbor["address"]["peer"] == with.to_string())
                .then(|| neighbor.get("state")?.as_str().map(str::to_owned))?
        });
        states.next_back().is_some_and(|state| state == "up")
    }

    fn route(&self, prefix: IpNet) -> Option<String> {
        let mut paths = BTreeMap::new();
        for value in self.said() {
            take(&mut paths, &value, &prefix.to_string());
        }
        let text = paths.into_values().collect::<Vec<_>>().join("\n");
        (!text.is_empty()).then_some(text)
    }

    fn spelling(&self, sign: Sign) -> String {
        match sign {
            Sign::Community => r#""community":[[64512,300]]"#.to_owned(),
            Sign::Extended => r#""string":"target:64512:77""#.to_owned(),
            Sign::Large => r#""large-community":[[4200000001,1,2]]"#.to_owned(),
            Sign::NextHop(address) => format!("via {address} "),
            Sign::Originator(id) => format!(r#""originator-id":"{id}""#),
            Sign::Cluster(id) => format!(r#""cluster-list":["{id}"]"#),
            Sign::LongLivedStale => "65535,6".to_owned(),
            Sign::ManyCommunities => "[64512,1,499]".to_owned(),
            Sign::AsPath(path) => {
                let path: Vec<String> = path.iter().map(u32::to_string).collect();
                format!(r#""as-path":[{}]"#, path.join(","))
            }
        }
    }

    fn withdraw(&mut self, prefix: IpNet) {
        self.tell(&format!("withdraw route {prefix} next-hop self"));
    }

    fn shut_down(&mut self, _with: IpAddr, _words: &str) {
        unreachable!("it ends sessions without words");
    }

    fn heard(&self, _words: &str) -> bool {
        unreachable!("it does not tell what it heard")
    }

    fn ask_refresh(&mut self, of: IpAddr, ipv4: bool) {
        let family = if ipv4 { "ipv4" } else { "ipv6" };
        self.tell(&format!("neighbor {of} announce route-refresh {family} unicast"));
    }
}

/// Follows what one message says about a prefix: who told it, by which path, with what.
fn take(paths: &mut BTreeMap<String, String>, message: &Value, prefix: &str) {
    let neighbor = &message["neighbor"];
    let peer = &neighbor["address"]["peer"];
    if neighbor["state"] == "down" {
        paths.retain(|key, _| !key.starts_with(&format!("{peer} ")));
    }
    let update = &neighbor["message"]["update"];
    let families =
        |v: &Value| v.as_object().into_iter().flatten().map(|(_, v)| v.clone()).collect();
    let of_prefix = |entries: &Value| -> Vec<Value> {
        let entries = entries.as_array().into_iter().flatten();
        entries.filter(|e| e["nlri"] == prefix).cloned().collect()
    };
    let withdrawn: Vec<Value> = families(&update["withdraw"]);
    for entry in withdrawn.iter().flat_map(of_prefix) {
        paths.remove(&format!("{peer} {}", entry["path-information"]));
    }
    let announced: Vec<Value> = families(&update["announce"]);
    for (hop, entries) in announced.iter().filter_map(Value::as_object).flatten() {
        for entry in of_prefix(entries) {
            let text = format!("via {hop} {}", update["attribute"]);
            paths.insert(format!("{peer} {}", entry["path-information"]), text);
        }
    }
}

fn neighbor(asn: u32, s: &Session, routes: &[Origin]) -> String {
    let mut out = format!(
        "neighbor {} {{\n router-id 10.9.0.2;\n local-address {};\n local-as {asn};\n \
         peer-as {};\n hold-time 90;\n listen 179;\n \
         passive {};\n",
        s.remote, s.local, s.remote_as, s.passive
    );
    if let Some(password) = s.password {
        let _ = writeln!(out, " md5-password \"{password}\";");
    }
    if s.ttl_security {
        out += " outgoing-ttl 255;\n incoming-ttl 255;\n";
    }
    out += " capability {\n  route-refresh enable;\n  asn4 enable;\n";
    let enable = |on: bool| if on { "enable" } else { "disable" };
    let _ = writeln!(out, "  extended-message {};", enable(s.extended_messages));
    let _ = writeln!(out, "  nexthop {};", enable(s.ipv4_over_ipv6));
    if s.add_path {
        out += "  add-path send/receive;\n";
    }
    if let Some(time) = s.graceful_restart {
        let _ = writeln!(out, "  graceful-restart {time};");
    }
    out += " }\n family {\n";
    for (wanted, name) in [(s.ipv4, "ipv4"), (s.ipv6, "ipv6")] {
        if wanted {
            let _ = writeln!(out, "  {name} unicast;");
        }
    }
    out += " }\n";
    if s.ipv4_over_ipv6 {
        out += " nexthop {\n  ipv4 unicast ipv6;\n }\n";
    }
    out += " api {\n  processes [ api ];\n  neighbor-changes;\n  receive {\n   parsed;\n   \
            update;\n  }\n }\n static {\n";
    let spoken = |r: &&Origin| if r.prefix.addr().is_ipv4() { s.ipv4 } else { s.ipv6 };
    for route in routes.iter().filter(spoken) {
        let with = match route.communities {
            Communities::None => String::new(),
            Communities::OneOfEach => " community [ 64512:300 ] extended-community \
                                       [ target:64512:77 ] large-community [ 4200000001:1:2 ]"
                .to_owned(),
            Communities::Many => {
                let all: Vec<String> = many_communities().iter().map(|c| c.to_string()).collect();
                format!(" large-community [ {} ]", all.join(" "))
            }
        };
        let prefix = route.prefix;
        let hop = if s.ipv4_over_ipv6 { s.local.to_string() } else { "self".to_owned() };
        if s.add_path {
            let other = if s.local.is_ipv4() { v4(OTHER_HOP) } else { v6(OTHER_HOP) };
            let _ =
                writeln!(out, "  route {prefix} next-hop {hop} path-information 0.0.0.1{with};");
            let _ =
                writeln!(out, "  route {prefix} next-hop {other} path-information 0.0.0.2{with};");
        } else {
            let _ = writeln!(out, "  route {prefix} next-hop {hop}{with};");
        }
    }
    out + " }\n}\n"
}
