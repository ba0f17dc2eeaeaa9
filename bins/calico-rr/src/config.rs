//! The configuration file of the route reflector.
//!
//! ```toml
//! as = 64512                        # AS number
//! router_id = "192.0.2.1"           # BGP identifier
//! cluster_id = "192.0.2.1"          # default: the router id
//! listen = ["[::]:179"]             # default; the IPv6 wildcard takes IPv4 too
//!
//! run_dir = "/run/calico-rr"        # default; a mark in it makes the next start a restart
//!
//! [[neighbor]]                      # one for each peer
//! address = "192.0.2.11"
//! as = 64512                        # default: our own
//! client = true                     # reflect to it (RFC 4456); default: true in our own AS
//! passive = true                    # wait for it to connect; default: false
//! port = 179                        # default
//! families = ["ipv4"]               # default: the family of its address
//! hold_time = 90                    # seconds; default
//! restart_time = 120                # seconds, graceful restart (RFC 4724); default; 0 is off
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use calico_bgp::speaker;
use calico_bgp::wire::Family;
use serde::Deserialize;

/// Contents of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(rename = "as")]
    pub(crate) as_number: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) cluster_id: Option<Ipv4Addr>,
    #[serde(default = "default_listen")]
    pub(crate) listen: Vec<SocketAddr>,
    #[serde(default = "default_run_dir")]
    pub(crate) run_dir: PathBuf,
    #[serde(default, rename = "neighbor")]
    pub(crate) neighbors: Vec<Neighbor>,
}

/// One peer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Neighbor {
    pub(crate) address: IpAddr,
    #[serde(rename = "as")]
    pub(crate) as_number: Option<u32>,
    pub(crate) client: Option<bool>,
    #[serde(default)]
    pub(crate) passive: bool,
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) families: Vec<FamilyName>,
    pub(crate) hold_time: Option<u16>,
    pub(crate) restart_time: Option<u16>,
}

/// A family of routes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FamilyName {
    Ipv4,
    Ipv6,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a valid configuration", path = path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path} has {}", Problems(problems), path = path.display())]
    Invalid { path: PathBuf, problems: Vec<String> },
}

struct Problems<'a>(&'a [String]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} problem{plural}:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// Reads and checks the file at `path`; every problem is reported at once.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: source.into(),
        })?;
        let problems = config.problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid { path: path.to_owned(), problems })
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.as_number == 0 {
            problems.push("as: 0 is reserved (RFC 7607); use 1 to 4294967295".to_owned());
        }
        if self.router_id.is_unspecified() {
            problems
                .push("router_id: 0.0.0.0 identifies nobody; use an address of this host".into());
        }
        let mut seen = BTreeSet::new();
        for (index, neighbor) in self.neighbors.iter().enumerate() {
            let mut problem = |text: &str| {
                problems.push(format!("neighbor {} ({}): {text}", index + 1, neighbor.address));
            };
            if !seen.insert((neighbor.address, neighbor.port)) {
                problem("is there twice");
            }
            if neighbor.as_number == Some(0) {
                problem("as: 0 is reserved (RFC 7607); use 1 to 4294967295");
            }
            if neighbor.client == Some(true) && self.as_of(neighbor) != self.as_number {
                problem("client: only a neighbor in our own AS can be a client (RFC 4456)");
            }
            if matches!(neighbor.hold_time, Some(1 | 2)) {
                problem("hold_time: use 0 (off), or 3 and more (RFC 4271, section 4.2)");
            }
            if neighbor.restart_time.is_some_and(|time| time > 4095) {
                problem("restart_time: at most 4095 (RFC 4724, section 3)");
            }
        }
        problems
    }

    fn as_of(&self, neighbor: &Neighbor) -> u32 {
        neighbor.as_number.unwrap_or(self.as_number)
    }

    /// The speaker that the file describes.
    pub(crate) fn speaker(&self) -> speaker::Config {
        let mut config = speaker::Config::new(self.as_number, self.router_id);
        config.listen.clone_from(&self.listen);
        config.cluster_id = self.cluster_id;
        config
    }

    /// Its peers.
    pub(crate) fn peers(&self) -> Vec<speaker::PeerConfig> {
        self.neighbors.iter().map(|neighbor| self.peer(neighbor)).collect()
    }

    fn peer(&self, neighbor: &Neighbor) -> speaker::PeerConfig {
        let remote_as = self.as_of(neighbor);
        let mut peer = speaker::PeerConfig::new(neighbor.address, remote_as);
        peer.rr_client = neighbor.client.unwrap_or(remote_as == self.as_number);
        peer.passive = neighbor.passive;
        if let Some(port) = neighbor.port {
            peer.port = port;
        }
        peer.families = neighbor
            .families
            .iter()
            .map(|family| match family {
                FamilyName::Ipv4 => Family::IPV4_UNICAST,
                FamilyName::Ipv6 => Family::IPV6_UNICAST,
            })
            .collect();
        if let Some(hold_time) = neighbor.hold_time {
            peer.hold_time = hold_time;
        }
        if let Some(time) = neighbor.restart_time {
            peer.graceful_restart = (time > 0).then_some(time);
        }
        peer
    }
}

fn default_listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0_u16; 8], 179))]
}

fn default_run_dir() -> PathBuf {
    "/run/calico-rr".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        toml::from_str::<Config>(text).unwrap().problems()
    }

    #[test]
    fn the_documented_example_is_valid() {
        let text: String = include_str!("config.rs")
            .lines()
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| line.trim_start_matches("//! ").trim_start_matches("//!").to_owned() + "\n")
            .collect();
        let config: Config = toml::from_str(&text).unwrap();
        assert_eq!(config.problems(), [] as [&str; 0]);
        let peers = config.peers();
        assert!(peers[0].rr_client && peers[0].passive);
        assert_eq!(config.speaker().cluster_id, Some([192, 0, 2, 1].into()));
    }

    #[test]
    fn neighbors_of_our_own_as_are_clients_unless_told_otherwise() {
        let text = "as = 1\nrouter_id = '1.1.1.1'\n[[neighbor]]\naddress = '10.0.0.1'\n\
                    [[neighbor]]\naddress = '10.0.0.2'\nas = 2\n";
        let peers = toml::from_str::<Config>(text).unwrap().peers();
        assert_eq!((peers[0].rr_client, peers[1].rr_client), (true, false));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = "as = 0\nrouter_id = '0.0.0.0'\n[[neighbor]]\naddress = '10.0.0.1'\nas = 2\n\
                    client = true\nhold_time = 1\n[[neighbor]]\naddress = '10.0.0.1'\n";
        assert_eq!(problems(text).len(), 5, "{:#?}", problems(text));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = toml::from_str::<Config>("as = 1\nrouter_id = '1.1.1.1'\nneighbour = 1\n");
        assert!(error.unwrap_err().to_string().contains("neighbour"));
    }
}
