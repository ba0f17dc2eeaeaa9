//! Small values that upstream writes as a number or as text: ports, protocols, AS numbers,
//! durations, CIDRs.

mod duration;
mod network;
mod port;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::Deserializer;
use serde::de::Visitor;

pub use self::duration::GoDuration;
pub use self::network::{AsNumber, Cidr};
pub use self::port::{Port, Protocol};

/// Text or number that is no value of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {expected}")]
#[non_exhaustive]
pub struct BadValue {
    /// What was found.
    pub text: String,
    /// What would be right.
    pub expected: &'static str,
}

impl BadValue {
    fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.chars().take(64).collect(), expected }
    }
}

/// A decimal number without sign or spaces.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Reads a value that is written either as a number or as text.
fn number_or_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = BadValue>,
{
    struct Either<T>(std::marker::PhantomData<T>);
    impl<T: FromStr<Err = BadValue>> Visitor<'_> for Either<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or text")
        }

        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
            number.to_string().parse().map_err(E::custom)
        }

        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
            let number = u64::try_from(number).map_err(|_negative| {
                E::custom(format!("{number} is negative; write a number from 0"))
            })?;
            self.visit_u64(number)
        }

        fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
            // The text is lost: 1.10 arrives as 1.1.
            Err(E::custom(format!("{number} is read as a fraction; put it in quotes")))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Either(std::marker::PhantomData))
}
