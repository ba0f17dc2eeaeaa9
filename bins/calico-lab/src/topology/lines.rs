//! On which line of the file a problem stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Problem;

/// Any YAML value, of which only the places matter.
#[derive(Debug)]
enum Tree {
    Leaf,
    List(Vec<Spanned<Self>>),
    Map(Vec<(String, Spanned<Self>)>),
}

/// Gives each problem the line of its place, or of the nearest thing around it that the file has.
pub(super) fn find(text: &str, problems: &mut [Problem]) {
    let Ok(root) = serde_saphyr::from_str::<Spanned<Tree>>(text) else { return };
    for problem in problems {
        problem.line = line_of(&root, &problem.place);
    }
}

/// The line of a place such as `pods[2].node`; none if the file has not even its first word.
fn line_of(root: &Spanned<Tree>, place: &str) -> Option<usize> {
    let mut at = root;
    let mut line = None;
    let steps = place.split(['.', '[', ']']).filter(|step| !step.is_empty());
    for step in steps {
        let next = match &at.value {
            Tree::Map(entries) => entries.iter().find(|(key, _)| key == step).map(|(_, it)| it),
            Tree::List(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
            Tree::Leaf => None,
        };
        let Some(next) = next else { break };
        line = usize::try_from(next.referenced.line()).ok();
        at = next;
    }
    line
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

/// Scalars of every kind are leaves.
macro_rules! leaves {
    ($($visit:ident($scalar:ty)),*) => {
        $(fn $visit<E>(self, _: $scalar) -> Result<Tree, E> {
            Ok(Tree::Leaf)
        })*
    };
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    leaves!(
        visit_bool(bool),
        visit_i64(i64),
        visit_i128(i128),
        visit_u64(u64),
        visit_u128(u128),
        visit_f64(f64),
        visit_str(&str),
        visit_bytes(&[u8])
    );

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Tree, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Tree::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
name: tiny
nodes:
  - name: node1
    addresses:
      - 10.0.0.1/8
  - { name: node2,
      addresses: [10.0.0.2/8] }
pools: [{ name: v4, cidr: 10.0.0.0/8 }]
resources:
  - kind: BGPPeer
    spec: { peerIP: ~, on: true, asNumber: 64512 }
";

    fn check(place: &str, expected: Option<usize>) {
        let mut problems = [Problem { place: place.into(), line: None, what: String::new() }];
        find(TEXT, &mut problems);
        assert_eq!(problems[0].line, expected, "{place}");
    }

    #[test]
    fn a_place_has_the_line_of_its_value() {
        check("name", Some(1));
        check("nodes[0].name", Some(3));
        check("nodes[0].addresses[0]", Some(5));
        check("nodes[1].name", Some(6));
        check("nodes[1].addresses", Some(7));
        check("pools[0].cidr", Some(8));
        check("resources[0].spec.asNumber", Some(11));
    }

    #[test]
    fn what_is_absent_has_the_line_of_what_is_around_it() {
        check("pools[0].blockSize", Some(8));
        check("resources[0].spec.nodeSelector", Some(11));
        check("pods", None);
    }
}
