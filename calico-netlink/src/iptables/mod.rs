//! iptables, only to leave it: finds and removes what upstream's iptables dataplane left behind.
//!
//! Our policy lives in a table of nftables of its own. Rules of upstream's agent in iptables would
//! go on deciding over the same packets, and the kernel may hold them in two places: the `nft`
//! backend of iptables and the `legacy` one. [`find`] says which place holds what, [`remove`]
//! takes it away. All that is upstream's is told by its chain names, which start with `cali-`.
//!
//! This runs the programs of the Debian package `iptables`, in the namespace of the calling
//! thread, and blocks; it is for agents at their start and for diagnosis.

use std::fmt;
use std::fs;
use std::process::Command;

use iptables::IPTables;

/// Prefix of the names of upstream's chains.
const CHAIN_PREFIX: &str = "cali-";
const TABLES: [&str; 4] = ["raw", "mangle", "nat", "filter"];

/// Where the kernel keeps rules of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// In nftables, by `iptables-nft`.
    Nft,
    /// In its first implementation, by `iptables-legacy`.
    Legacy,
}

/// A family of addresses; each has its own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What is left in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Which backend holds it.
    pub backend: Backend,
    /// Of which family.
    pub family: Family,
    /// The table, such as `filter`.
    pub table: &'static str,
    /// Names of upstream's chains.
    pub chains: Vec<String>,
    /// Rules in other chains that lead to them: chain, and the rule's text without it.
    pub jumps: Vec<(String, String)>,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is left; empty if nothing is.
    pub leftovers: Vec<Leftover>,
    /// Programs that could not be asked because they are not installed.
    pub absent: Vec<&'static str>,
}

/// Why iptables could not be asked or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IptablesError {
    /// A program refused.
    #[error("{program} cannot {doing} in table {table}: {reason}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it should do.
        doing: String,
        /// Where.
        table: &'static str,
        /// Its own words.
        reason: String,
    },
}

impl Report {
    /// Whether both backends hold rules of upstream: packets then meet both.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        [Backend::Nft, Backend::Legacy]
            .iter()
            .all(|backend| self.leftovers.iter().any(|left| left.backend == *backend))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for left in &self.leftovers {
            let family = if left.family == Family::V4 { "IPv4" } else { "IPv6" };
            writeln!(
                f,
                "{} holds {} chains and {} jumps of upstream Calico in its {family} table {}",
                left.backend,
                left.chains.len(),
                left.jumps.len(),
                left.table
            )?;
        }
        if self.is_mixed() {
            writeln!(f, "both backends hold rules of upstream Calico; packets meet both")?;
        }
        for program in &self.absent {
            writeln!(f, "{program} is not installed, so its rules could not be looked at")?;
        }
        Ok(())
    }
}

/// Looks for what upstream left, in both backends and families. Changes nothing.
///
/// # Errors
///
/// If a program is there and fails.
pub fn find() -> Result<Report, IptablesError> {
    let mut report = Report::default();
    for backend in [Backend::Nft, Backend::Legacy] {
        for family in [Family::V4, Family::V6] {
            let tool = tool(backend, family);
            if Command::new(tool.cmd).arg("--version").output().is_err() {
                report.absent.push(tool.cmd);
                continue;
            }
            for table in TABLES {
                if backend == Backend::Legacy && !legacy_table_exists(family, table) {
                    continue;
                }
                let rules = rules(&tool, table)?;
                report.leftovers.extend(sort_out(backend, family, table, &rules));
            }
        }
    }
    Ok(report)
}

/// Removes what [`find`] found: jumps first, so that no packet meets half of it, chains then.
///
/// # Errors
///
/// If a program refuses; what was removed before stays removed.
pub fn remove(report: &Report) -> Result<(), IptablesError> {
    for left in &report.leftovers {
        let tool = tool(left.backend, left.family);
        for (chain, rule) in &left.jumps {
            run(
                &tool,
                left.table,
                || format!("delete a rule of {chain}"),
                || tool.delete(left.table, chain, rule),
            )?;
        }
        // Chains lead to each other: all must be empty before one can go.
        for chain in &left.chains {
            run(
                &tool,
                left.table,
                || format!("empty {chain}"),
                || tool.flush_chain(left.table, chain),
            )?;
        }
        for chain in &left.chains {
            run(
                &tool,
                left.table,
                || format!("delete {chain}"),
                || tool.delete_chain(left.table, chain),
            )?;
        }
    }
    Ok(())
}

fn tool(backend: Backend, family: Family) -> IPTables {
    let cmd = match (backend, family) {
        (Backend::Nft, Family::V4) => "iptables-nft",
        (Backend::Nft, Family::V6) => "ip6tables-nft",
        (Backend::Legacy, Family::V4) => "iptables-legacy",
        (Backend::Legacy, Family::V6) => "ip6tables-legacy",
    };
    // The crate's own constructor knows only the default backend. Programs with a backend in
    // their name came after both options (1.8).
    IPTables { cmd, has_check: true, has_wait: true, is_numeric: false }
}

/// Asking about a legacy table creates it, so the kernel is asked instead which there are.
fn legacy_table_exists(family: Family, table: &str) -> bool {
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == table))
}

fn rules(tool: &IPTables, table: &'static str) -> Result<Vec<String>, IptablesError> {
    let refused = |reason| IptablesError::Refused {
        program: tool.cmd,
        doing: "list rules".into(),
        table,
        reason,
    };
    let output = tool.execute(table, "-S").map_err(|error| refused(error.to_string()))?;
    if !output.status.success() {
        return Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Reads a listing of `iptables -S`.
fn sort_out(
    backend: Backend,
    family: Family,
    table: &'static str,
    rules: &[String],
) -> Option<Leftover> {
    let mut left = Leftover { backend, family, table, chains: Vec::new(), jumps: Vec::new() };
    for rule in rules {
        if let Some(chain) = rule.strip_prefix("-N ") {
            if chain.starts_with(CHAIN_PREFIX) {
                left.chains.push(chain.to_owned());
            }
        } else if let Some((chain, rule)) =
            rule.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
        {
            let mut words = rule.split(' ');
            let leads_there = words.by_ref().any(|word| word == "-j" || word == "-g")
                && words.next().is_some_and(|target| target.starts_with(CHAIN_PREFIX));
            if leads_there && !chain.starts_with(CHAIN_PREFIX) {
                left.jumps.push((chain.to_owned(), rule.to_owned()));
            }
        }
    }
    (!left.chains.is_empty() || !left.jumps.is_empty()).then_some(left)
}

fn run(
    tool: &IPTables,
    table: &'static str,
    doing: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), IptablesError> {
    work().map_err(|error| IptablesError::Refused {
        program: tool.cmd,
        doing: doing(),
        table,
        reason: error.to_string().trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestNet;

    /// Rules as upstream's agent leaves them, and one of another's.
    fn leave(net: &TestNet, program: &str) {
        for rule in [
            "-N cali-INPUT",
            "-N cali-fw-cali1234567890a",
            "-A cali-INPUT -j cali-fw-cali1234567890a",
            "-A cali-fw-cali1234567890a -j DROP",
            "-I INPUT -m comment --comment cali:Cz_u1IQiXIMmKD4c -j cali-INPUT",
            "-N california",
            "-A INPUT -j california",
        ] {
            net.output(program, &rule.split(' ').collect::<Vec<_>>());
        }
    }

    #[test]
    fn leftovers_are_found_told_and_removed_in_either_backend() {
        for (backend, programs) in [
            (Backend::Nft, ["iptables-nft", "ip6tables-nft"]),
            (Backend::Legacy, ["iptables-legacy", "ip6tables-legacy"]),
        ] {
            let Some(net) = TestNet::new("iptables") else { return };
            assert_eq!(net.run(find).unwrap(), Report::default());
            for program in programs {
                leave(&net, program);
            }
            let report = net.run(find).unwrap();
            let found: Vec<_> =
                report.leftovers.iter().map(|left| (left.backend, left.family)).collect();
            assert_eq!(found, [(backend, Family::V4), (backend, Family::V6)]);
            for left in &report.leftovers {
                assert_eq!(left.table, "filter");
                assert_eq!(left.chains, ["cali-INPUT", "cali-fw-cali1234567890a"]);
                assert_eq!(left.jumps.len(), 1, "{:?}", left.jumps);
            }
            let text = report.to_string();
            assert!(text.starts_with(&format!("{backend} holds 2 chains and 1 jumps")), "{text}");
            net.run(|| remove(&report)).unwrap();
            assert_eq!(net.run(find).unwrap(), Report::default());
            for program in programs {
                let rest = net.output(program, &["-S"]);
                assert!(
                    !rest.contains("cali-") && rest.contains("-A INPUT -j california"),
                    "{rest}"
                );
            }
        }
    }

    #[test]
    fn rules_in_both_backends_are_told() {
        let left = |backend| Leftover {
            backend,
            family: Family::V4,
            table: "nat",
            chains: vec!["cali-PREROUTING".into()],
            jumps: vec![],
        };
        let report = Report {
            leftovers: vec![left(Backend::Nft), left(Backend::Legacy)],
            absent: vec!["ip6tables-legacy"],
        };
        assert!(report.is_mixed());
        let text = report.to_string();
        assert!(text.contains("both backends") && text.contains("is not installed"), "{text}");
    }
}
