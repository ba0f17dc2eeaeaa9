//! How one field of a resource is checked and written: paths, errors and the [`Field`] trait.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, Visitor,
};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::schema;

/// One thing that is wrong with a resource, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
#[non_exhaustive]
pub struct FieldError {
    /// The place, such as `spec.ingress[2].source.nets[0]`.
    pub path: String,
    /// What is wrong there, and what would be right.
    pub message: String,
}

impl FieldError {
    /// Problem `message` at `path`.
    pub fn new(path: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { path: path.to_string(), message: message.into() }
    }
}

/// A place inside a document, as a chain back to the root; costs nothing until printed.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    /// The document itself.
    Root,
    /// A field of the place before.
    Key(&'a Self, &'a str),
    /// An element of the list at the place before.
    Index(&'a Self, usize),
}

impl<'a> Path<'a> {
    /// The field `name` of this place.
    #[must_use]
    pub const fn key(&'a self, name: &'a str) -> Self {
        Self::Key(self, name)
    }

    /// Element `index` of this place.
    #[must_use]
    pub const fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Path::Root, name) => f.write_str(name),
            Self::Key(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Collects every problem of a resource, instead of stopping at the first.
#[derive(Debug, Default)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    /// Adds a problem.
    pub fn push(&mut self, at: &Path<'_>, message: impl Into<String>) {
        self.0.push(FieldError::new(at, message));
    }

    /// Adds `message` unless `ok`.
    pub fn require(&mut self, ok: bool, at: &Path<'_>, message: impl Into<String>) {
        if !ok {
            self.push(at, message);
        }
    }

    /// Whether nothing was found.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Ok` if nothing was found, else everything that was.
    ///
    /// # Errors
    /// All problems, in the order they were found.
    pub fn into_result(self) -> Result<(), Vec<FieldError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// Says which numbers may be written where the message names a type of Rust.
fn without_types(message: String) -> String {
    let Some((start, name)) = message.rsplit_once("expected ") else { return message };
    let wanted = match name {
        "u8" => "a whole number 0-255",
        "u16" => "a whole number 0-65535",
        "u32" => "a whole number 0-4294967295",
        "u64" | "usize" => "a whole number, not negative",
        "i32" | "i64" => "a whole number",
        "f64" => "a number",
        _ => return message,
    };
    format!("{start}expected {wanted}")
}

/// A value that can stand in a resource.
///
/// [`check`](Field::check) looks at raw input from a person: it reports *all* problems below
/// a place, and fields nobody knows. Plain deserialisation is the tolerant twin for data from
/// stores: it stops at the first value it cannot hold and keeps unknown fields.
pub trait Field: DeserializeOwned + Serialize {
    /// Whether an optional field of this type may be given as empty text, which means unset.
    /// Go writes that for fields that have no way to be absent.
    const EMPTY_IS_UNSET: bool = false;

    /// Reports every problem of `value`, which stands at `at`.
    fn check(value: &Value, at: &Path<'_>, errors: &mut Errors) {
        if let Err(error) = Self::deserialize(value) {
            errors.push(at, without_types(error.to_string()));
        }
    }

    /// Reads the value of one entry of a map; `null` is `None`.
    ///
    /// # Errors
    /// Whatever the deserialiser reports.
    fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Self>, A::Error> {
        map.next_value()
    }

    /// Writes the value the way upstream does.
    ///
    /// # Errors
    /// Whatever the serialiser reports.
    fn emit<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize(serializer)
    }

    /// The OpenAPI schema of the value, as a CustomResourceDefinition has it.
    fn schema() -> Value;
}

/// Serialises a field through [`Field::emit`].
pub(crate) struct Emit<'a, T>(pub(crate) &'a T);

impl<T: Field> Serialize for Emit<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.emit(serializer)
    }
}

/// Leaves, each with its schema.
macro_rules! leaf_fields {
    ($($ty:ty: $schema:expr),* $(,)?) => { $(impl $crate::resource::Field for $ty {
        fn schema() -> ::serde_json::Value {
            $schema
        }
    })* };
}
pub(crate) use leaf_fields;

/// Leaves that are written as text.
macro_rules! text_fields {
    ($($ty:ty),* $(,)?) => {
        $(impl $crate::resource::Field for $ty {
            const EMPTY_IS_UNSET: bool = true;

            fn schema() -> ::serde_json::Value {
                $crate::resource::schema::text()
            }
        })*
    };
}
pub(crate) use text_fields;

leaf_fields!(
    bool: schema::of_type("boolean"),
    u8: schema::integer("int32"),
    u16: schema::integer("int32"),
    u32: schema::integer("int32"),
    u64: schema::integer("int64"),
    i32: schema::integer("int32"),
    i64: schema::integer("int64"),
    String: schema::text(),
    Value: schema::anything(),
);

macro_rules! addresses {
    ($($ty:ty: $what:literal),* $(,)?) => { $(impl Field for $ty {
        const EMPTY_IS_UNSET: bool = true;

        fn check(value: &Value, at: &Path<'_>, errors: &mut Errors) {
            if !value.as_str().is_some_and(|text| text.parse::<Self>().is_ok()) {
                errors.push(at, format!("{} is no {}", describe(value), $what));
            }
        }

        fn schema() -> Value {
            schema::text()
        }
    })* };
}

addresses!(
    ipnet::IpNet: "CIDR, such as 10.0.0.0/16 or fd00::/64",
    std::net::IpAddr: "IP address",
    std::net::Ipv4Addr: "IPv4 address",
    std::net::Ipv6Addr: "IPv6 address",
);

impl Field for f64 {
    /// Whole numbers are written without a fraction, as Go does: `100`, not `100.0`.
    fn emit<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
        if self.fract() == 0.0 && self.abs() < EXACT {
            #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
            serializer.serialize_i64(*self as i64)
        } else {
            serializer.serialize_f64(*self)
        }
    }

    fn schema() -> Value {
        schema::of_type("number")
    }
}

impl<T: Field> Field for Option<T> {
    fn check(value: &Value, at: &Path<'_>, errors: &mut Errors) {
        let unset = value.is_null() || (T::EMPTY_IS_UNSET && value.as_str() == Some(""));
        if !unset {
            T::check(value, at, errors);
        }
    }

    fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Self>, A::Error> {
        if T::EMPTY_IS_UNSET {
            map.next_value_seed(TextOrUnset(PhantomData)).map(Some)
        } else {
            map.next_value()
        }
    }

    fn emit<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(value) => value.emit(serializer),
            None => serializer.serialize_none(),
        }
    }

    fn schema() -> Value {
        T::schema()
    }
}

/// Reads text, of which the empty one and `null` mean `None`.
struct TextOrUnset<T>(PhantomData<T>);

impl<'de, T: Field> DeserializeSeed<'de> for TextOrUnset<T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Field> Visitor<'de> for TextOrUnset<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Option<T>, E> {
        if text.is_empty() { Ok(None) } else { T::deserialize(text.into_deserializer()).map(Some) }
    }
}

impl<T: Field> Field for Vec<T> {
    fn check(value: &Value, at: &Path<'_>, errors: &mut Errors) {
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    T::check(item, &at.index(index), errors);
                }
            }
            other => errors.push(at, format!("expected a list, found {}", describe(other))),
        }
    }

    fn emit<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Emit))
    }

    fn schema() -> Value {
        schema::list_of(T::schema())
    }
}

impl<T: Field> Field for BTreeMap<String, T> {
    fn check(value: &Value, at: &Path<'_>, errors: &mut Errors) {
        match value {
            Value::Object(entries) => {
                for (key, item) in entries {
                    T::check(item, &at.key(key), errors);
                }
            }
            other => errors.push(at, format!("expected a map, found {}", describe(other))),
        }
    }

    fn emit<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, value)| (key, Emit(value))))
    }

    fn schema() -> Value {
        schema::map_of(T::schema())
    }
}

/// A few words that name a value in an error.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("`{flag}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}
