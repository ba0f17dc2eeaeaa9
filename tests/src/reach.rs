//! Who reaches whom: truth tables, and a language to write them in.
//!
//! A table begins with everything allowed. Each line changes some of it:
//!
//! ```text
//! deny * -> x/a                 nobody reaches x/a
//! allow y/*, ext -> x/a TCP/80  but these do, on one port
//! allow x/b -> x/a UDP v6       and this one, on every port of UDP, over IPv6
//! ```
//!
//! `ext` is somebody outside of the cluster (203.0.113.5 and 2001:db8:1::5), `ext2` somebody else
//! (203.0.113.77 and 2001:db8:1::77), `pods` all pods, `*` all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use calico_policy::eval::Packet;

use crate::cluster::{Cluster, NAMESPACES, PODS, PORTS, PROTOCOLS, number};
use crate::lab::{Port, addresses};
use crate::oracle::{self, End};
use crate::scenario::Probe;

/// Names of those outside of the cluster, with their addresses.
const OUTSIDE: [(&str, [&str; 2]); 2] =
    [("ext", ["203.0.113.5", "2001:db8:1::5"]), ("ext2", ["203.0.113.77", "2001:db8:1::77"])];

/// A way: from, to, over IPv6 or IPv4, protocol by its name, destination port.
pub type Way = (String, String, bool, &'static str, u16);

/// For every way whether it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table(BTreeMap<Way, bool>);

/// Everybody who may send, by name.
#[must_use]
pub fn everybody() -> Vec<String> {
    let pods = NAMESPACES.iter().flat_map(|ns| PODS.map(|pod| format!("{ns}/{pod}")));
    pods.chain(OUTSIDE.map(|(name, _)| name.to_owned())).collect()
}

fn is_pod(name: &str) -> bool {
    name.contains('/')
}

/// Where somebody is, and its address.
fn place(name: &str, v6: bool) -> (Port, IpAddr) {
    match name.split_once('/') {
        Some((namespace, pod)) => {
            let number = number(namespace, pod);
            (Port::Pod(number), addresses(number)[usize::from(v6)])
        }
        None => {
            let (_, addresses) = OUTSIDE.iter().find(|(known, _)| *known == name).expect(name);
            (Port::Outside(0), addresses[usize::from(v6)].parse().unwrap())
        }
    }
}

fn ways() -> impl Iterator<Item = Way> {
    let everybody = everybody();
    let pairs: Vec<(String, String)> = everybody
        .iter()
        .flat_map(|from| everybody.iter().map(move |to| (from.clone(), to.clone())))
        // Nobody meets policy on the way to itself, or from outside to outside.
        .filter(|(from, to)| from != to && (is_pod(from) || is_pod(to)))
        .collect();
    pairs.into_iter().flat_map(|(from, to)| {
        PROTOCOLS.into_iter().flat_map(move |(protocol, _)| {
            let (from, to) = (from.clone(), to.clone());
            PORTS.into_iter().flat_map(move |port| {
                let (from, to) = (from.clone(), to.clone());
                [false, true].map(move |v6| (from.clone(), to.clone(), v6, protocol, port))
            })
        })
    })
}

impl Table {
    /// The table that these lines describe.
    ///
    /// # Errors
    ///
    /// Which line says nothing that is understood.
    pub fn expected(lines: &[String]) -> Result<Self, String> {
        let mut table = Self(ways().map(|way| (way, true)).collect());
        for line in lines {
            table.line(line).map_err(|problem| format!("{line:?}: {problem}"))?;
        }
        Ok(table)
    }

    /// The table that Kubernetes' documentation asks for.
    #[must_use]
    pub fn documented(cluster: &Cluster) -> Self {
        let judged = ways().map(|way| {
            let (from, to, v6, protocol, port) = &way;
            let open = oracle::allows(cluster, end(from, *v6), end(to, *v6), protocol, *port);
            (way, open)
        });
        Self(judged.collect())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').ok_or("allow or deny?")?;
        let open = match word {
            "allow" => true,
            "deny" => false,
            other => return Err(format!("{other} is neither allow nor deny")),
        };
        let (from, rest) = rest.split_once("->").ok_or("where to? write FROM -> TO")?;
        let from = names(from)?;
        // Names of the other end, then words about ports.
        let mut to = BTreeSet::new();
        let (mut protocols, mut ports, mut families) = (Vec::new(), Vec::new(), Vec::new());
        for word in rest.split([' ', ',']).filter(|word| !word.is_empty()) {
            let (head, port) = word.split_once('/').unwrap_or((word, ""));
            if let Some((protocol, _)) = PROTOCOLS.iter().find(|(name, _)| *name == head) {
                protocols.push(*protocol);
                if !port.is_empty() {
                    ports.push(port.parse::<u16>().map_err(|error| error.to_string())?);
                }
            } else if let "v4" | "v6" = word {
                families.push(word == "v6");
            } else {
                to.extend(names(word)?);
            }
        }
        let among = |list: &[&str], what: &str| list.is_empty() || list.contains(&what);
        for ((source, destination, v6, protocol, port), state) in &mut self.0 {
            if from.contains(source)
                && to.contains(destination)
                && among(&protocols, protocol)
                && (ports.is_empty() || ports.contains(port))
                && (families.is_empty() || families.contains(v6))
            {
                *state = open;
            }
        }
        Ok(())
    }

    /// A packet for every way, from this source port.
    #[must_use]
    pub fn probes(source_port: u16) -> Vec<(Way, Probe)> {
        ways()
            .map(|way| {
                let (from, to, v6, protocol, port) = &way;
                let ((from, source), (_, destination)) = (place(from, *v6), place(to, *v6));
                let numbers = PROTOCOLS.iter().find(|(name, _)| name == protocol);
                let protocol = numbers.expect("one of the protocols").1;
                let packet = Packet {
                    source,
                    destination,
                    protocol,
                    ports: Some((source_port, *port)),
                    icmp: None,
                };
                (way, Probe { from, packet })
            })
            .collect()
    }

    /// From what was found.
    #[must_use]
    pub fn found(ways: impl IntoIterator<Item = (Way, bool)>) -> Self {
        Self(ways.into_iter().collect())
    }

    /// Of the ways that are open or closed in both, which.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let same = |(way, open): &(&Way, &bool)| other.0.get(*way) == Some(open);
        let same = self.0.iter().filter(same);
        Self(same.map(|(way, open)| (way.clone(), *open)).collect())
    }

    /// Whether a way is open; `None` if nothing is said about it.
    #[must_use]
    pub fn get(&self, way: &Way) -> Option<bool> {
        self.0.get(way).copied()
    }

    /// How many ways are open, and how many there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.0.values().filter(|open| **open).count(), self.0.len())
    }

    /// Tables of every protocol, port and family in which the two differ: `.` is open in both, `X`
    /// closed in both, `+` open only in `other`, `-` closed only there. Empty if they are equal.
    #[must_use]
    pub fn difference(&self, other: &Self) -> String {
        let mut kinds: BTreeMap<(&str, u16, bool), bool> = BTreeMap::new();
        for (way, open) in &self.0 {
            let differs = other.0.get(way) != Some(open);
            *kinds.entry((way.3, way.4, way.2)).or_default() |= differs;
        }
        let mut text = String::new();
        for ((protocol, port, v6), _) in kinds.into_iter().filter(|(_, differs)| *differs) {
            let family = if v6 { "IPv6" } else { "IPv4" };
            writeln!(text, "{protocol} {port}, {family}; from the left to the top").unwrap();
            text.push_str(&self.matrix(|way| {
                if (way.2, way.3, way.4) != (v6, protocol, port) {
                    return None;
                }
                Some(match (self.0.get(way)?, other.0.get(way)?) {
                    (true, true) => '.',
                    (false, false) => 'X',
                    (false, true) => '+',
                    (true, false) => '-',
                })
            }));
        }
        text
    }

    fn matrix(&self, cell: impl Fn(&Way) -> Option<char>) -> String {
        let everybody = everybody();
        let mut text = format!("{:5}", "");
        for to in &everybody {
            write!(text, " {to:>4}").unwrap();
        }
        text.push('\n');
        for from in &everybody {
            write!(text, "{from:5}").unwrap();
            for to in &everybody {
                let found = self
                    .0
                    .keys()
                    .filter(|way| (&way.0, &way.1) == (from, to))
                    .find_map(&cell)
                    .unwrap_or(' ');
                write!(text, " {found:>4}").unwrap();
            }
            text.push('\n');
        }
        text
    }
}

fn end(name: &str, v6: bool) -> End<'_> {
    End { address: place(name, v6).1, pod: name.split_once('/') }
}

fn names(text: &str) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    for pattern in text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()) {
        let fits = |name: &String| match pattern {
            "*" => true,
            "pods" => is_pod(name),
            _ => match (pattern.strip_suffix("/*"), pattern.strip_prefix("*/")) {
                (Some(namespace), _) => name.split_once('/').is_some_and(|n| n.0 == namespace),
                (_, Some(pod)) => name.split_once('/').is_some_and(|n| n.1 == pod),
                _ => name == pattern,
            },
        };
        let before = found.len();
        found.extend(everybody().into_iter().filter(fits));
        if found.len() == before {
            return Err(format!("{pattern} is nobody, or said twice"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> Result<Table, String> {
        Table::expected(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn lines_change_what_they_name() {
        let all = table(&[]).unwrap();
        // 9 pods to 8 others, 2 outside to and from each, 6 ports, 2 families.
        assert_eq!(all.counts(), ((9 * 8 + 2 * 2 * 9) * 12, (9 * 8 + 2 * 2 * 9) * 12));
        let closed = table(&["deny * -> x/a", "allow y/* -> x/a TCP/80 v4"]).unwrap();
        let (open, ways) = closed.counts();
        assert_eq!(ways - open, 10 * 12 - 3);
        let text = closed.difference(&all);
        assert!(text.contains("TCP 80, IPv4"), "{text}");
        assert!(text.contains("\nx/b      +"), "{text}");
        assert!(all.difference(&closed).contains("\nx/b      -"));
        assert_eq!(all.difference(&all), "");
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("permit * -> x/a", "neither"),
            ("allow x/a", "where to"),
            ("allow x/d -> x/a", "x/d is nobody"),
            ("allow x/b -> x/a TCP/http", "invalid digit"),
        ] {
            let error = table(&[line]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
