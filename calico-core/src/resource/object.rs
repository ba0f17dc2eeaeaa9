//! The macro that defines the structs of the resource model.
//!
//! `object!` turns one line per field (Rust name, type, upstream name) into a struct that
//! keeps unknown fields, omits what is unset, and can be checked strictly.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Visitor};
use serde_json::{Map, Value};

use super::field::{Errors, Path, describe};
use super::nearest::unknown_field;

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

/// Takes a field out, and leaves the order of the others as it is where `yaml` keeps one.
pub(crate) fn take(fields: &mut Map<String, Value>, key: &str) -> Option<Value> {
    #[cfg(feature = "yaml")]
    return fields.shift_remove(key);
    #[cfg(not(feature = "yaml"))]
    return fields.remove(key);
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
                $(#[doc = $fdoc:literal])*
                pub $field:ident : $ty:ty = $key:literal $(($mark:ident))? ,
            )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $fdoc])*
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

            fn schema() -> ::serde_json::Value {
                let also: &[&str] = &[];
                $(let also: &[&str] = { let _ = also; $also };)?
                $crate::resource::schema::object_of(
                    stringify!($name),
                    &[$($crate::resource::schema::Property {
                        name: $key,
                        doc: concat!($($fdoc,)*),
                        required: $crate::resource::object::object!(@required $key $($mark)?)
                            .is_some(),
                        schema: <$ty as $crate::resource::Field>::schema,
                    }),*],
                    also,
                )
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
