//! What a graph asks of a dataplane, in one form for ours and Felix': texts that are equal if they
//! mean the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use ipnet::IpNet;

/// Everything that a dataplane was told, by what it is about: `policy a/web`, `workload a/...`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State(pub BTreeMap<String, String>);

/// How much was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Local endpoints, of both sorts.
    pub endpoints: usize,
    /// Active policies and profiles.
    pub owners: usize,
    /// Their rules.
    pub rules: usize,
    /// References to sets, each compared by its members.
    pub sets: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.endpoints += other.endpoints;
        self.owners += other.owners;
        self.rules += other.rules;
        self.sets += other.sets;
    }
}

impl State {
    /// How much is in it.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (key, text) in &self.0 {
            match key.split(' ').next() {
                Some("workload" | "host") => counts.endpoints += 1,
                Some("set") => {}
                _ => {
                    counts.owners += 1;
                    counts.rules += text.split("; ").filter(|rule| !rule.is_empty()).count();
                    counts.sets += text.matches('#').count();
                }
            }
        }
        counts
    }

    /// Lines `- ` of this one and `+ ` of the other, where they differ; none if they are equal.
    #[must_use]
    pub fn difference(&self, other: &Self) -> String {
        let mut out = String::new();
        let keys: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        for key in keys {
            let (ours, theirs) = (self.0.get(key), other.0.get(key));
            if ours == theirs {
                continue;
            }
            for (sign, text) in [('-', ours), ('+', theirs)] {
                if let Some(text) = text {
                    writeln!(out, "{sign} {key}: {text}").expect("strings take all");
                }
            }
        }
        out
    }
}

impl fmt::Display for State {
    /// A line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, text)| writeln!(f, "{key}: {text}"))
    }
}

/// The sets of a state, named by what is in them and by their identity, which is a hash of the
/// selector in its canonical spelling.
#[derive(Debug, Default)]
pub struct Sets(BTreeMap<String, String>);

impl Sets {
    /// The name of a set of these members, which may come in any order.
    pub fn name(&mut self, id: &str, members: impl Iterator<Item = String>) -> String {
        let members: BTreeSet<String> = members.collect();
        let text = members.into_iter().collect::<Vec<_>>().join(" ");
        let name = format!("#{}", digest(&format!("{id} {text}")));
        self.0.insert(format!("set {name}"), text);
        name
    }

    /// The sets among the rest of a state.
    pub fn join(self, state: &mut State) {
        state.0.extend(self.0);
    }
}

/// Eight digits that tell texts apart (FNV-1a, which is the same everywhere).
fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

/// A rule, clause by clause.
#[derive(Debug, Clone, Default)]
pub struct RuleText {
    action: String,
    clauses: Vec<String>,
}

impl RuleText {
    /// `allow`, `deny`, `pass` or `log`.
    #[must_use]
    pub fn new(action: &str) -> Self {
        Self { action: action.to_owned(), clauses: Vec::new() }
    }

    /// A clause of one value.
    pub fn one(&mut self, name: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.clauses.push(format!("{name}={value}"));
        }
    }

    /// A clause of several values, of which any order means the same.
    pub fn list(&mut self, name: &str, values: impl Iterator<Item = String>) {
        let values: BTreeSet<String> = values.collect();
        if !values.is_empty() {
            let values: Vec<String> = values.into_iter().collect();
            self.clauses.push(format!("{name}={}", values.join(",")));
        }
    }
}

impl fmt::Display for RuleText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut clauses = self.clauses.clone();
        clauses.sort_unstable();
        f.write_str(&self.action)?;
        clauses.iter().try_for_each(|clause| write!(f, " {clause}"))
    }
}

/// The rules of a policy or a profile, in order: ingress, then egress.
#[must_use]
pub fn rules(ingress: &[RuleText], egress: &[RuleText]) -> String {
    let of = |name: &str, rules: &[RuleText]| {
        rules.iter().map(|rule| format!("{name} {rule}")).collect::<Vec<_>>()
    };
    [of("in", ingress), of("out", egress)].concat().join("; ")
}

/// The policies of a tier, by name, in order; nothing if there are none.
#[must_use]
pub fn tier(sort: &str, name: &str, action: &str, ingress: &[String], egress: &[String]) -> String {
    if ingress.is_empty() && egress.is_empty() {
        return String::new();
    }
    let action = match (sort, action) {
        // What no rule matches goes on, whatever is said.
        ("untracked" | "preDNAT", _) => "-",
        (_, "Pass") => "Pass",
        // Without a word, packets are denied at the end.
        _ => "Deny",
    };
    let (ingress, egress) = (ingress.join(","), egress.join(","));
    format!(" | {sort} {name} {action} in={ingress} out={egress}")
}

/// Names in order.
#[must_use]
pub fn names(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    names.map(|name| name.as_ref().to_owned()).collect::<Vec<_>>().join(",")
}

/// Prefixes in any order, without bits beyond their length.
#[must_use]
pub fn nets(nets: impl Iterator<Item = IpNet>) -> String {
    let nets: BTreeSet<IpNet> = nets.map(|net| net.trunc()).collect();
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A range of ports: `80` or `80-90`.
#[must_use]
pub fn ports(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_matters_where_it_has_a_meaning() {
        let rule = |values: [&str; 2]| {
            let mut rule = RuleText::new("allow");
            rule.list("ports", values.into_iter().map(str::to_owned));
            rule.one("proto", Some(6));
            rule
        };
        assert_eq!(rule(["80", "53"]).to_string(), "allow ports=53,80 proto=6");
        assert_eq!(rule(["53", "80"]).to_string(), rule(["80", "53"]).to_string());
        let (allow, deny) = (RuleText::new("allow"), RuleText::new("deny"));
        assert_ne!(rules(&[allow.clone(), deny.clone()], &[]), rules(&[deny, allow], &[]));
    }

    #[test]
    fn a_difference_names_both_sides() {
        let state = |text: &str| State(BTreeMap::from([("policy p".to_owned(), text.to_owned())]));
        assert_eq!(state("a").difference(&state("a")), "");
        assert_eq!(state("a").difference(&state("b")), "- policy p: a\n+ policy p: b\n");
        assert_eq!(state("a").difference(&State::default()), "- policy p: a\n");
    }
}
