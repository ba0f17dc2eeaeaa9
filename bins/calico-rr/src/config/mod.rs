//! The configuration file of the route reflector; `docs/route-reflector.md` describes it.
//!
//! A file is read to its end: [`ConfigError::Invalid`] has all that is wrong with it, each with
//! its place.

mod document;
mod filters;
mod groups;
mod options;
mod peers;
mod similar;
mod speaker;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use calico_bgp::filter::AnyCommunity;
use calico_bgp::speaker::{self as bgp, DynamicPeers, PeerConfig};
use calico_bgp::wire::{NextHop, PathAttributes};
use ipnet::IpNet;

use self::speaker::{read_service, read_speaker};
use document::{Document, Problem, Table};
use filters::Filters;
use groups::{read_groups, with_group};
use options::Options;
use peers::Maker;
pub(crate) use values::OnStop;

use crate::watch::{Look, Seen};

/// Most dynamic neighbors of a prefix, unless said otherwise.
const DYNAMIC_LIMIT: u32 = 256;

/// What a file says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// The speaker; a change needs a restart.
    pub(crate) speaker: bgp::Config,
    pub(crate) service: Service,
    /// The neighbors.
    pub(crate) peers: Vec<PeerConfig>,
    /// What the operator calls them.
    pub(crate) descriptions: BTreeMap<SocketAddr, String>,
    /// Who may become a neighbor by connecting.
    pub(crate) dynamic: Vec<DynamicPeers>,
    /// Routes of our own.
    pub(crate) networks: BTreeMap<IpNet, PathAttributes>,
    /// The files that this was read from.
    pub(crate) files: Vec<Seen>,
}

/// What the program does besides BGP; a change needs a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Directory of the control socket, and of the mark that makes the next start a restart.
    pub(crate) run_dir: PathBuf,
    /// Where metrics and readiness are served.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) on_stop: OnStop,
}

impl Default for Service {
    fn default() -> Self {
        Self { run_dir: "/run/calico-rr".into(), metrics: None, on_stop: OnStop::default() }
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}", Problems(path, problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
    #[error("{path} asks for what the speaker cannot do", path = path.display())]
    Speaker { path: PathBuf, source: bgp::ConfigError },
}

struct Problems<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.1.len() == 1 { "" } else { "s" };
        write!(f, "{} has {} problem{plural}:", self.0.display(), self.1.len())?;
        self.1.iter().try_for_each(|problem| write!(f, "\n  {}:{problem}", self.0.display()))
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        // The look goes first: what changes afterwards is seen to be another file.
        let seen = (path.to_owned(), Look::at(path));
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = Self::parse(&text)
            .map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })?;
        config.files.push(seen);
        // What the speaker itself may find, in case that it knows more.
        config
            .try_out()
            .map_err(|source| ConfigError::Speaker { path: path.to_owned(), source })?;
        Ok(config)
    }

    /// Has a speaker without sockets take it all.
    fn try_out(&self) -> Result<(), bgp::ConfigError> {
        let now = Instant::now();
        let mut speaker = bgp::Speaker::new(self.speaker.clone(), 0, now)?;
        speaker.set_peers(now, self.peers.clone())?;
        speaker.set_dynamic(now, self.dynamic.clone())
    }

    /// How much it is, for people.
    pub(crate) fn summary(&self) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let mut text = count(self.peers.len(), "neighbor");
        if !self.dynamic.is_empty() {
            let ranges = count(self.dynamic.len(), "range");
            text.push_str(&format!(", {ranges} of dynamic neighbors"));
        }
        if !self.networks.is_empty() {
            text.push_str(&format!(", {}", count(self.networks.len(), "network")));
        }
        text
    }

    /// The keys that differ and that a running program cannot change.
    pub(crate) fn fixed_differences(&self, new: &Self) -> Option<String> {
        let (a, b) = (&self.speaker, &new.speaker);
        let (x, y) = (&self.service, &new.service);
        let all = [
            ("as", a.local_as != b.local_as),
            ("router_id", a.router_id != b.router_id),
            ("cluster_id", a.cluster_id != b.cluster_id),
            ("listen", a.listen != b.listen),
            ("run_dir", x.run_dir != y.run_dir),
            ("metrics", x.metrics != y.metrics),
        ];
        let mut keys: Vec<&str> =
            all.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect();
        if keys.is_empty() && a != b {
            keys.push("the keys of the speaker itself");
        }
        (!keys.is_empty()).then(|| keys.join(", "))
    }

    /// Reads a text, or says all that is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (document, table) = Document::parse(text);
        let config = table.as_ref().and_then(|table| Self::of(document.root(table)));
        let problems = document.problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }

    fn of(mut root: Table<'_, '_>) -> Option<Self> {
        let speaker = read_speaker(&mut root);
        let service = read_service(&mut root);
        let filters = Filters::read(&mut root);
        let groups = read_groups(&mut root);
        // Whatever is wrong with the AS number, the neighbors are looked at.
        let local_as = speaker.as_ref().map_or(1, |speaker| speaker.local_as);
        let mut maker = Maker { local_as, filters: &filters, files: Vec::new() };
        let mut config = Self {
            speaker: speaker.clone().unwrap_or_else(|| bgp::Config::new(1, [1, 1, 1, 1].into())),
            service,
            peers: Vec::new(),
            descriptions: BTreeMap::new(),
            dynamic: Vec::new(),
            networks: BTreeMap::new(),
            files: Vec::new(),
        };
        for table in root.tables("neighbor") {
            config.read_neighbor(table, &groups, &mut maker);
        }
        for table in root.tables("dynamic") {
            config.read_dynamic(table, &groups, &mut maker);
        }
        for table in root.tables("network") {
            config.read_network(table);
        }
        config.files = maker.files;
        root.finish();
        speaker.map(|_| config)
    }

    fn read_neighbor<'d, 't>(
        &mut self,
        mut table: Table<'d, 't>,
        groups: &BTreeMap<String, Options<'d, 't>>,
        maker: &mut Maker<'_>,
    ) {
        let address = table.need::<IpAddr>("address", "\"192.0.2.11\"");
        let description = table.get::<String>("description");
        let options = with_group(&mut table, groups);
        table.finish();
        let Some(address) = address else { return };
        let ip = address.value;
        let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if ip.is_unspecified() || ip.is_multicast() {
            address.problem("is not the address of a host; use one");
        } else if link_local {
            address.problem("means nothing without a link; use a global address");
        }
        let peer = maker.peer(ip, &options);
        if self.peers.iter().any(|other| other.key() == peer.key()) {
            address.problem("is there twice; leave one out, or give them different ports");
        }
        if let Some(description) = description {
            self.descriptions.insert(peer.key(), description.value);
        }
        self.peers.push(peer);
    }

    fn read_dynamic<'d, 't>(
        &mut self,
        mut table: Table<'d, 't>,
        groups: &BTreeMap<String, Options<'d, 't>>,
        maker: &mut Maker<'_>,
    ) {
        let prefix = table.need::<IpNet>("prefix", "\"10.0.0.0/24\"");
        let limit = table.get::<u32>("limit");
        let options = with_group(&mut table, groups);
        if let Some(passive) = options.passive.as_ref().filter(|passive| !passive.value) {
            passive.problem("dynamic neighbors are always waited for; leave it out");
        }
        table.finish();
        let Some(prefix) = prefix else { return };
        if self.dynamic.iter().any(|other| other.prefix == prefix.value) {
            prefix.problem("is there twice; leave one out");
        }
        self.dynamic.push(DynamicPeers {
            prefix: prefix.value,
            limit: limit.map_or(DYNAMIC_LIMIT, |limit| limit.value) as usize,
            template: maker.peer(prefix.value.addr(), &options),
        });
    }

    fn read_network(&mut self, mut table: Table<'_, '_>) {
        let prefix = table.need::<IpNet>("prefix", "\"10.0.0.0/8\"");
        let mut attributes = PathAttributes::default();
        for community in
            table.list::<AnyCommunity>("communities").into_iter().flat_map(|found| found.value)
        {
            community.value.put_on(&mut attributes);
        }
        attributes.med = table.get("med").map(|med| med.value);
        attributes.local_pref = table.get("local_pref").map(|value| value.value);
        let next_hop = table.get::<IpAddr>("next_hop");
        attributes.next_hop = next_hop.map(|hop| NextHop::from(hop.value));
        table.finish();
        let Some(prefix) = prefix else { return };
        if self.networks.insert(prefix.value, attributes).is_some() {
            prefix.problem("is there twice; leave one out");
        }
    }
}
