//! Nodes that are gone and have left blocks or addresses: by name, kept up to date with every object
//! at the cost of that object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_core::key::{Key, OwnerType};
use calico_core::kind::Kind;
use calico_core::resource::{AllocationAttribute, AllocationBlock};
use ipnet::IpNet;

/// What is known of them, and which turn this node has to clean up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absence {
    /// Nodes without a resource that blocks, addresses or claims name.
    pub nodes: BTreeSet<Arc<str>>,
    /// How many nodes come before this one.
    pub rank: usize,
}

/// Who names whom.
#[derive(Debug, Default)]
pub(super) struct Absent {
    nodes: BTreeSet<String>,
    /// By object, the nodes it names.
    named: BTreeMap<Source, Box<[Arc<str>]>>,
    /// How many objects name a node.
    counts: BTreeMap<Arc<str>, usize>,
    changed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Block(IpNet),
    Claim(String, IpNet),
}

impl Absent {
    /// An object is there. `block` is what it says, if it is one and could be read.
    pub(super) fn put(&mut self, key: &Key, block: Option<&AllocationBlock>) {
        match key {
            Key::Resource { kind: Kind::Node, name, .. } => {
                // Even if nobody can read what it says.
                self.changed |= self.nodes.insert(name.clone());
            }
            Key::Block(cidr) => {
                // What cannot be read is reported by others, and names nobody.
                self.set(Source::Block(*cidr), block.map(nodes).unwrap_or_default());
            }
            Key::Affinity { owner_type: OwnerType::Host, owner, block } => {
                let source = Source::Claim(owner.clone(), *block);
                self.set(source, [owner.clone()].into());
            }
            _ => {}
        }
    }

    pub(super) fn gone(&mut self, key: &Key) {
        match key {
            Key::Resource { kind: Kind::Node, name, .. } => {
                self.changed |= self.nodes.remove(name);
            }
            Key::Block(cidr) => self.set(Source::Block(*cidr), BTreeSet::new()),
            Key::Affinity { owner_type: OwnerType::Host, owner, block } => {
                self.set(Source::Claim(owner.clone(), *block), BTreeSet::new());
            }
            _ => {}
        }
    }

    fn set(&mut self, source: Source, names: BTreeSet<String>) {
        let before = self.named.remove(&source).unwrap_or_default();
        if before.iter().map(AsRef::as_ref).eq(names.iter().map(String::as_str)) {
            if !before.is_empty() {
                self.named.insert(source, before);
            }
            return;
        }
        let mut now = Vec::with_capacity(names.len());
        for name in names {
            let known = self.counts.get_key_value(name.as_str()).map(|(known, _)| known.clone());
            let name = known.unwrap_or_else(|| name.into());
            let count = self.counts.entry(Arc::clone(&name)).or_default();
            self.changed |= *count == 0;
            *count += 1;
            now.push(name);
        }
        for name in before {
            if let Some(count) = self.counts.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&name);
                    self.changed = true;
                }
            }
        }
        if !now.is_empty() {
            self.named.insert(source, now.into());
        }
    }

    /// Whether the answer of [`absence`](Self::absence) may be another than before.
    pub(super) const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// Who is gone, as node `me` sees it.
    pub(super) fn absence(&self, me: &str) -> Absence {
        let gone = self.counts.keys().filter(|name| !self.nodes.contains(&***name));
        let turn = |name: &str| (calico_ipam::plan::geometry::host_seed(name), name.to_owned());
        let mine = turn(me);
        let before = self.nodes.iter().filter(|node| turn(node) < mine);
        Absence { nodes: gone.cloned().collect(), rank: before.count() }
    }
}

/// The nodes that a block names.
fn nodes(block: &AllocationBlock) -> BTreeSet<String> {
    let owner = block.owner().and_then(|it| Some(it.strip_prefix("host:")?.to_owned()));
    let of = |attribute: &AllocationAttribute| attribute.secondary.get("node").cloned();
    owner.into_iter().chain(block.attributes.iter().filter_map(of)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn put(absent: &mut Absent, key: Key, value: &Value) {
        absent.put(&key, serde_json::from_value(value.clone()).ok().as_ref());
    }

    fn node(name: &str) -> Key {
        Key::resource(Kind::Node, None, name)
    }

    fn gone(absent: &mut Absent) -> Option<String> {
        let names = |absence: Absence| absence.nodes.into_iter().collect::<Vec<_>>().join(" ");
        absent.take_changed().then(|| names(absent.absence("me")))
    }

    #[test]
    fn who_is_named_and_not_there_is_gone() {
        let mut absent = Absent::default();
        let cidr: IpNet = "10.0.0.0/26".parse().unwrap();
        put(&mut absent, node("me"), &json!({}));
        let owners = |owner: &str, borrower: &str| {
            json!({"cidr": "10.0.0.0/26", "affinity": format!("host:{owner}"), "allocations": [],
                "unallocated": [], "attributes":
                    [{"secondary": {"node": borrower}}, {"secondary": null}, {"handle_id": "x"}]})
        };
        put(&mut absent, Key::Block(cidr), &owners("a", "b"));
        assert_eq!(gone(&mut absent).as_deref(), Some("a b"));
        // Only what changes something costs more than the object.
        put(&mut absent, Key::Block(cidr), &owners("a", "b"));
        assert_eq!(gone(&mut absent), None);
        put(&mut absent, node("b"), &json!({}));
        assert_eq!(gone(&mut absent).as_deref(), Some("a"));
        let claim = Key::Affinity { owner_type: OwnerType::Host, owner: "a".into(), block: cidr };
        put(&mut absent, claim.clone(), &json!({}));
        absent.gone(&Key::Block(cidr));
        absent.gone(&node("b"));
        assert_eq!(gone(&mut absent).as_deref(), Some("a"));
        absent.gone(&claim);
        assert_eq!(gone(&mut absent).as_deref(), Some(""));
        // A block that nobody can read names nobody.
        put(&mut absent, Key::Block(cidr), &json!("x"));
        assert_eq!(gone(&mut absent), None);
        assert!(absent.named.is_empty() && absent.counts.is_empty());
    }

    #[test]
    fn every_node_has_a_turn_of_its_own() {
        let mut absent = Absent::default();
        let names = ["a", "b", "c", "d"];
        for name in names {
            put(&mut absent, node(name), &json!({}));
        }
        let mut ranks = names.map(|name| absent.absence(name).rank);
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1, 2, 3]);
    }
}
