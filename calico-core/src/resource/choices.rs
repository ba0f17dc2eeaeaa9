//! The macro that defines the enumerations of the resource model, and text in general.

use std::fmt;

use serde::de::{Deserializer, Visitor};

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
                $crate::resource::choices::from_text(deserializer)
            }
        }

        impl $crate::resource::Field for $name {
            const EMPTY_IS_UNSET: bool = true;

            fn schema() -> ::serde_json::Value {
                // A schema has no way to ignore case: such words are left to the type.
                let exact = [$(stringify!($ignoring),)? ""].len() == 1;
                $crate::resource::schema::one_of(if exact { &[$($word),*] } else { &[] })
            }
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
