//! The two macros that define the structs and enumerations of the resource model.
//!
//! `object!` turns one line per field (Rust name, type, upstream name) into a struct that
//! keeps unknown fields, omits what is unset, and can be checked strictly. `choices!` does
//! the same for enumerations of words.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Visitor};
use serde_json::Value;

use super::field::{Errors, Path, describe};

/// Fields that this version does not know, kept so that writing an object back loses nothing.
///
/// One pointer wide: nearly always empty.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::box_collection, reason = "one pointer instead of three words per object")]
pub struct Unknown(Option<Box<BTreeMap<String, Value>>>);

impl Unknown {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The fields, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter().flat_map(|fields| fields.iter())
    }

    /// The value of field `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.as_ref()?.get(name)
    }

    /// Adds or replaces a field.
    pub fn insert(&mut self, name: String, value: Value) {
        self.0.get_or_insert_with(Box::default).insert(name, value);
    }
}

/// Finds a key in a struct's field list without allocating; other keys are kept.
pub(crate) struct KeySeed(pub(crate) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Result<&'static str, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Result<&'static str, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|name| **name == key).copied().ok_or_else(|| key.to_owned()))
    }
}

/// Strict walk over one object: unknown names, then each known field by `check`.
pub(crate) fn check_object(
    value: &Value,
    at: &Path<'_>,
    known: &[&'static str],
    also: &[&str],
    required: &[&str],
    errors: &mut Errors,
    check: impl Fn(&str, &Value, &Path<'_>, &mut Errors),
) {
    let Value::Object(fields) = value else {
        errors.push(at, format!("expected a map of fields, found {}", describe(value)));
        return;
    };
    for (key, item) in fields {
        let place = at.key(key);
        if known.contains(&key.as_str()) {
            if !item.is_null() {
                check(key, item, &place, errors);
            }
        } else if !also.contains(&key.as_str()) {
            errors.push(&place, unknown_field(key, known.iter().chain(also).copied()));
        }
    }
    for name in required {
        if fields.get(*name).is_none_or(Value::is_null) {
            errors.push(&at.key(name), "required, but missing");
        }
    }
}

/// The message for a field nobody knows, with the nearest name that exists.
pub(crate) fn unknown_field<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(key, known) {
        Some(name) => format!("unknown field; did you mean `{name}`?"),
        None => "unknown field; remove it".to_owned(),
    }
}

/// The candidate nearest to `word`, if it is near enough to be a slip.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let limit = (word.len() / 3).clamp(1, 4);
    candidates
        .map(|name| (distance(&lower, &name.to_ascii_lowercase()), name))
        .filter(|(cost, _)| *cost <= limit)
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, name)| name)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Defines structs: `pub rust_name: Type = "upstreamName",`, with `(required)` after the name
/// for a field that input must have, `(always)` for one that is written even when zero.
///
/// All fields start as their default, `null` means absent, and a field equal to its default
/// is not written. `also PATH` names a list of further known fields kept as raw values.
macro_rules! object {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident $(, also $also:path)? {
            $(
                $(#[$fmeta:meta])*
                pub $field:ident : $ty:ty = $key:literal $(($mark:ident))? ,
            )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $(
                $(#[$fmeta])*
                #[doc = concat!("\n\nField `", $key, "`.")]
                pub $field: $ty,
            )*
            /// Fields that this version does not know.
            pub unknown: $crate::resource::Unknown,
        }

        impl $name {
            /// Upstream's names of the fields, in the order they are written.
            pub const FIELDS: &'static [&'static str] = &[$($key),*];
        }

        impl $crate::resource::Field for $name {
            fn check(
                value: &::serde_json::Value,
                at: &$crate::resource::Path<'_>,
                errors: &mut $crate::resource::Errors,
            ) {
                let required: &[Option<&str>] =
                    &[$($crate::resource::object::object!(@required $key $($mark)?)),*];
                let required: Vec<&str> = required.iter().flatten().copied().collect();
                let also: &[&str] = &[];
                $(let also: &[&str] = { let _ = also; $also };)?
                $crate::resource::object::check_object(
                    value, at, Self::FIELDS, also, &required, errors,
                    |_key, _item, _at, _errors| match _key {
                        $($key => <$ty as $crate::resource::Field>::check(_item, _at, _errors),)*
                        _ => {}
                    },
                );
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use ::serde::ser::SerializeMap as _;
                let mut map = serializer.serialize_map(None)?;
                $(
                    if $crate::resource::object::object!(@always $($mark)?)
                        || self.$field != <$ty>::default()
                    {
                        map.serialize_entry($key, &$crate::resource::field::Emit(&self.$field))?;
                    }
                )*
                for (key, value) in self.unknown.iter() {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> ::serde::de::Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str("a map of fields")
                    }

                    fn visit_map<A: ::serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<$name, A::Error> {
                        let mut out = $name::default();
                        $(let mut $field = false;)*
                        while let Some(key) =
                            map.next_key_seed($crate::resource::object::KeySeed($name::FIELDS))?
                        {
                            match key {
                                $(Ok($key) => {
                                    if let Some(value) =
                                        <$ty as $crate::resource::Field>::read(&mut map)?
                                    {
                                        out.$field = value;
                                        $field = true;
                                    }
                                })*
                                Ok(_) => { map.next_value::<::serde::de::IgnoredAny>()?; }
                                Err(key) => out.unknown.insert(key, map.next_value()?),
                            }
                        }
                        $(
                            if !$field
                                && let Some(name) =
                                    $crate::resource::object::object!(@required $key $($mark)?)
                            {
                                return Err(::serde::de::Error::missing_field(name));
                            }
                        )*
                        Ok(out)
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }
    )* };
    (@required $key:literal required) => { Some($key) };
    (@required $key:literal $($mark:ident)?) => { None::<&'static str> };
    (@always) => { false };
    (@always $mark:ident) => { true };
}
pub(crate) use object;

/// Defines enumerations of words: `Variant = "Word",`. `ignoring case` accepts any case.
macro_rules! choices {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident $($ignoring:ident case)? {
            $( $(#[$vmeta:meta])* $variant:ident = $word:literal, )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[$vmeta])* #[doc = concat!("\n\nWritten `", $word, "`.")] $variant, )*
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::resource::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                let ignoring_case = [$(stringify!($ignoring),)? ""].len() == 2;
                Self::ALL
                    .iter()
                    .copied()
                    .find(|choice| {
                        choice.as_str() == word
                            || (ignoring_case && choice.as_str().eq_ignore_ascii_case(word))
                    })
                    .ok_or_else(|| $crate::resource::UnknownWord::new(word, &[$($word),*]))
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::resource::object::from_text(deserializer)
            }
        }

        impl $crate::resource::Field for $name {
            const EMPTY_IS_UNSET: bool = true;
        }
    )* };
}
pub(crate) use choices;

/// A word outside an enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not one of {}", .allowed.join(", "))]
#[non_exhaustive]
pub struct UnknownWord {
    /// What was found.
    pub word: String,
    /// What is allowed.
    pub allowed: &'static [&'static str],
}

impl UnknownWord {
    pub(crate) fn new(word: &str, allowed: &'static [&'static str]) -> Self {
        Self { word: word.chars().take(64).collect(), allowed }
    }
}

/// Deserialises a value that is written as text.
pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: fmt::Display>,
{
    struct Text<T>(std::marker::PhantomData<T>);
    impl<T: std::str::FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(std::marker::PhantomData))
}
