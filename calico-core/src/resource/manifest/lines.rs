//! Lines of a manifest, looked up only once something is wrong with it.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The shape of a document: only its lines are of interest.
pub(super) enum Lines {
    Map(Vec<(String, Spanned<Self>)>),
    List(Vec<Spanned<Self>>),
    Scalar,
}

/// The line of `place`, or of the nearest thing around it that exists.
pub(super) fn line_of(node: &Spanned<Lines>, place: &str) -> u64 {
    let line = node.referenced.line();
    let place = place.strip_prefix('.').unwrap_or(place);
    let inner = match &node.value {
        Lines::Map(entries) => entries
            .iter()
            .filter_map(|(key, value)| Some((place.strip_prefix(key.as_str())?, value)))
            .filter(|(rest, _)| rest.is_empty() || rest.starts_with(['.', '[']))
            .min_by_key(|(rest, _)| rest.len()),
        Lines::List(items) => place.strip_prefix('[').and_then(|rest| {
            let (index, rest) = rest.split_once(']')?;
            Some((rest, items.get(index.parse::<usize>().ok()?)?))
        }),
        Lines::Scalar => None,
    };
    inner.map_or(line, |(rest, value)| line_of(value, rest))
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
