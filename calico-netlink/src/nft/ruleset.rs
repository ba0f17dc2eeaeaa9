//! The content of a table as a plain value, and its two translations: intervals to the kernel's
//! element pairs, and a dump back to the value.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::{BaseChain, Element, Expr, KeyType, Object, Set, Userdata, Writer};

/// What a table holds. Names are the kernel's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets and maps.
    pub sets: BTreeMap<String, SetDef>,
    /// Chains.
    pub chains: BTreeMap<String, ChainDef>,
}

/// A chain and its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainDef {
    /// Hook, for a base chain.
    pub base: Option<BaseChain>,
    /// Its rules in order.
    pub rules: Vec<RuleDef>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleDef {
    /// What it was made from; kept in the kernel and shown by `nft` as comment.
    pub identity: String,
    /// What it does. Counters are zero here.
    pub expressions: Vec<Expr>,
}

/// What kind of set it is. Sets made for different numbers of elements are of one kind.
#[derive(Debug, Clone)]
pub struct SetSpec {
    /// Fields of the key.
    pub key: Vec<KeyType>,
    /// Whether elements are ranges.
    pub interval: bool,
    /// Whether it maps keys to verdicts.
    pub verdict_map: bool,
    /// How many elements the kernel's set may have; absent: as many as come. A
    /// [`Tracker`](super::Tracker) finds the size for sets without one.
    pub size: Option<u32>,
}

impl PartialEq for SetSpec {
    fn eq(&self, other: &Self) -> bool {
        let Self { key, interval, verdict_map, size: _ } = self;
        (key, *interval, *verdict_map) == (&other.key, other.interval, other.verdict_map)
    }
}

impl Eq for SetSpec {}

/// A set and its elements. In an interval set every element has a `key_end`, which belongs to
/// the range; ranges do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetDef {
    /// What kind of set it is.
    pub spec: SetSpec,
    /// Its elements.
    pub elements: BTreeSet<Element>,
}

impl SetSpec {
    /// A set with a simple or concatenated key.
    pub fn set(key: impl Into<Vec<KeyType>>) -> Self {
        Self { key: key.into(), interval: false, verdict_map: false, size: None }
    }

    /// A set of ranges.
    pub fn intervals(key: KeyType) -> Self {
        Self { key: vec![key], interval: true, verdict_map: false, size: None }
    }

    /// A map from simple or concatenated keys to verdicts.
    pub fn verdict_map(key: impl Into<Vec<KeyType>>) -> Self {
        Self { key: key.into(), interval: false, verdict_map: true, size: None }
    }

    /// True when the kernel keeps each range as two elements: its start, and what follows its
    /// end. (Ranges of concatenated keys are one element with two keys.)
    fn pairs(&self) -> bool {
        self.interval && self.key.len() == 1
    }

    /// True when the kernel's elements are ours.
    pub(super) fn is_plain(&self) -> bool {
        !self.pairs()
    }

    /// The description for the kernel.
    pub fn wire(&self, name: &str) -> Set {
        Set {
            table: String::new(),
            name: name.to_owned(),
            key: self.key.clone(),
            interval: self.interval,
            verdict_map: self.verdict_map,
            size: self.size,
        }
    }

    /// The kernel's elements for one of ours.
    pub fn wire_elements(&self, element: &Element) -> Vec<Element> {
        if !self.pairs() {
            return vec![element.clone()];
        }
        let last = element.key_end.as_ref().unwrap_or(&element.key);
        let start = Element { key_end: None, ..element.clone() };
        // A range up to the highest key has no key after it and stays open.
        match successor(last) {
            Some(next) => {
                vec![start, Element { interval_end: true, ..Element::key(next) }]
            }
            None => vec![start],
        }
    }

    /// Our elements for the kernel's.
    pub fn from_wire_elements(&self, mut wire: Vec<Element>) -> BTreeSet<Element> {
        if !self.pairs() {
            return wire.into_iter().collect();
        }
        // At one key an end comes before the start of the next range.
        wire.sort_by(|a, b| a.key.cmp(&b.key).then(b.interval_end.cmp(&a.interval_end)));
        let mut elements = BTreeSet::new();
        let mut open: Option<Element> = None;
        for element in wire {
            // An end without start is a gap marker that nft writes at the lowest key.
            if let Some(start) = open.take() {
                let last = predecessor(&element.key);
                elements.insert(Element { key_end: Some(last), ..start });
            }
            if !element.interval_end {
                open = Some(element);
            }
        }
        if let Some(start) = open {
            let highest = vec![0xff; start.key.len()];
            elements.insert(Element { key_end: Some(highest), ..start });
        }
        elements
    }
}

impl Ruleset {
    /// Gathers what a dump of one table returned. The second value tells of objects that this
    /// crate does not model: a table that has some was not made by us as it is.
    pub fn from_objects(objects: impl IntoIterator<Item = Object>) -> (Self, bool) {
        let mut ruleset = Self::default();
        let mut wire: BTreeMap<String, Vec<Element>> = BTreeMap::new();
        let mut foreign = false;
        for object in objects {
            match object {
                Object::Chain(chain) => {
                    ruleset.chains.entry(chain.name).or_default().base = chain.base;
                }
                Object::Rule(rule) => {
                    let expressions = rule.expressions.into_iter().map(without_count).collect();
                    let identity = rule.userdata.identity;
                    let rules = &mut ruleset.chains.entry(rule.chain).or_default().rules;
                    rules.push(RuleDef { identity, expressions });
                }
                Object::Set(set) => {
                    let Set { table: _, name, key, interval, verdict_map, size } = set;
                    let spec = SetSpec { key, interval, verdict_map, size };
                    ruleset.sets.insert(name, SetDef { spec, elements: BTreeSet::new() });
                }
                Object::Elements(elements) => {
                    wire.entry(elements.set).or_default().extend(elements.elements);
                }
                Object::Table(_) | Object::Generation(_) => {}
                Object::Flowtable(_) | Object::Other(_) => foreign = true,
            }
        }
        for (name, elements) in wire {
            if let Some(set) = ruleset.sets.get_mut(&name) {
                set.elements = set.spec.from_wire_elements(elements);
            }
        }
        (ruleset, foreign)
    }

    /// What differs between this (the kernel's) and the desired content, one line each.
    pub fn differences(&self, desired: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, want) in &desired.sets {
            match self.sets.get(name) {
                None => lines.push(format!("set {name} was missing")),
                Some(have) if have.spec != want.spec => {
                    lines.push(format!("set {name} was of another type"));
                }
                Some(have) => {
                    let missing = want.elements.difference(&have.elements).count();
                    let extra = have.elements.difference(&want.elements).count();
                    if missing + extra > 0 {
                        lines.push(format!("set {name} lacked {missing} and had {extra} extra"));
                    }
                }
            }
        }
        for (name, want) in &desired.chains {
            match self.chains.get(name) {
                None => lines.push(format!("chain {name} was missing")),
                Some(have) if have != want => lines.push(format!("chain {name} was changed")),
                Some(_) => {}
            }
        }
        for name in self.sets.keys().filter(|name| !desired.sets.contains_key(*name)) {
            lines.push(format!("set {name} was not ours"));
        }
        for name in self.chains.keys().filter(|name| !desired.chains.contains_key(*name)) {
            lines.push(format!("chain {name} was not ours"));
        }
        lines
    }
}

impl ChainDef {
    /// Bytes that are equal for equal chains only.
    pub fn content(&self) -> Vec<u8> {
        let mut w = Writer::new();
        for rule in &self.rules {
            let userdata = Userdata::new(&rule.identity);
            super::wire::encode_rule(&mut w, "", "", &rule.expressions, &userdata);
        }
        w.bytes().to_vec()
    }
}

impl RuleDef {
    /// Names of the sets it looks up.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        self.expressions.iter().filter_map(|expression| match expression {
            Expr::Lookup { set, .. } => Some(set.as_str()),
            _ => None,
        })
    }

    /// Names of the chains it leads to by itself.
    pub(super) fn chains(&self) -> impl Iterator<Item = &str> {
        self.expressions.iter().filter_map(|expression| match expression {
            Expr::Verdict(verdict) => verdict.chain(),
            _ => None,
        })
    }
}

fn without_count(expression: Expr) -> Expr {
    match expression {
        Expr::Counter { .. } => Expr::COUNTER,
        other => other,
    }
}

/// The key after this one, unless it is the highest.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(next);
        }
    }
    None
}

/// The key before this one (the highest for zero, which no range can end before).
fn predecessor(key: &[u8]) -> Vec<u8> {
    let mut last = key.to_vec();
    for byte in last.iter_mut().rev() {
        let (difference, borrow) = byte.overflowing_sub(1);
        *byte = difference;
        if !borrow {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: [u8; 2], last: [u8; 2]) -> Element {
        Element { key_end: Some(last.to_vec()), ..Element::key(first) }
    }

    #[test]
    fn intervals_survive_the_kernel_form() {
        let spec = SetSpec::intervals(KeyType::Service);
        let ours: BTreeSet<_> = [
            range([0, 0], [0, 80]),
            range([0, 81], [0, 81]),
            range([0, 255], [1, 0]),
            range([255, 0], [255, 255]),
        ]
        .into();
        let mut wire: Vec<_> = ours.iter().flat_map(|e| spec.wire_elements(e)).collect();
        assert_eq!(wire.len(), 7);
        wire.reverse();
        assert_eq!(spec.from_wire_elements(wire), ours);
    }

    #[test]
    fn the_gap_marker_of_nft_is_no_element() {
        let spec = SetSpec::intervals(KeyType::Service);
        let gap = Element { interval_end: true, ..Element::key([0, 0]) };
        let wire = [vec![gap], spec.wire_elements(&range([0, 1], [0, 2]))].concat();
        assert_eq!(spec.from_wire_elements(wire), [range([0, 1], [0, 2])].into());
    }
}
