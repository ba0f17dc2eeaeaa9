//! Lines of a manifest, looked up only once something is wrong with it.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::resource::rest::below;

/// The shape of a document: only its lines are of interest.
pub(super) enum Lines {
    Map(Vec<(String, Spanned<Self>)>),
    List(Vec<Spanned<Self>>),
    Scalar,
}

/// The line of `place`, or of the nearest thing around it that exists.
pub(super) fn line_of(node: &Spanned<Lines>, place: &str) -> u64 {
    match step(node, place) {
        Some((_, inner, rest)) => line_of(inner, rest),
        None => node.referenced.line(),
    }
}

/// A way from something to what is in it.
pub(super) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The first step from `node` to `place`, where it leads, and what is left of `place` there.
pub(super) fn step<'a, 'p>(
    node: &'a Spanned<Lines>,
    place: &'p str,
) -> Option<(Step<'a>, &'a Spanned<Lines>, &'p str)> {
    let place = place.strip_prefix('.').unwrap_or(place);
    match &node.value {
        Lines::Map(entries) => entries
            .iter()
            .filter_map(|(key, value)| Some((Step::Key(key), value, below(place, key)?)))
            .min_by_key(|(_, _, rest)| rest.len()),
        Lines::List(items) => {
            let (index, rest) = place.strip_prefix('[')?.split_once(']')?;
            let index = index.parse::<usize>().ok()?;
            Some((Step::Index(index), items.get(index)?, rest))
        }
        Lines::Scalar => None,
    }
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LinesVisitor)
    }
}

struct LinesVisitor;

macro_rules! scalars {
    ($($visit:ident: $ty:ty),*) => {
        $(fn $visit<E>(self, _: $ty) -> Result<Lines, E> { Ok(Lines::Scalar) })*
    };
}

impl<'de> Visitor<'de> for LinesVisitor {
    type Value = Lines;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lines, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Lines::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Lines, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Lines::List(items))
    }

    fn visit_unit<E>(self) -> Result<Lines, E> {
        Ok(Lines::Scalar)
    }

    fn visit_none<E>(self) -> Result<Lines, E> {
        Ok(Lines::Scalar)
    }

    scalars!(visit_str: &str, visit_bool: bool, visit_u64: u64, visit_i64: i64, visit_f64: f64);
}
