use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What routers on the way make of a packet (RFC 2474): 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dscp(u8);

/// Packets from this address that leave the cluster carry this code point: those to outside of all
/// pools and of all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Marking {
    /// The packets' source, before it is translated.
    pub source: IpAddr,
    /// Their code point.
    pub dscp: Dscp,
}

/// The names that upstream knows (RFC 2474, RFC 2597, RFC 3246).
const NAMES: [(&str, u8); 21] = [
    ("DF", 0),
    ("EF", 46),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("CS0", 0),
    ("CS1", 8),
    ("CS2", 16),
    ("CS3", 24),
    ("CS4", 32),
    ("CS5", 40),
    ("CS6", 48),
];

impl Dscp {
    /// A code point by its number, if it is one.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < 64 { Some(Self(number)) } else { None }
    }

    /// As a resource has it: a number or a text.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn of_value(value: &serde_json::Value) -> Result<Self, String> {
        match value {
            serde_json::Value::String(text) => text.parse(),
            other => other.to_string().parse(),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for Dscp {
    type Err = String;

    /// A number, or a name in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let number = named.map(|(_, number)| *number).or_else(|| text.parse().ok());
        number.and_then(Self::new).ok_or_else(|| {
            format!(
                "{text:?} is no code point; write a number from 0 to 63, or a name such as EF, \
                 AF41 or CS5"
            )
        })
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_names_are_code_points() {
        for (value, number) in [
            (json!(0), Some(0)),
            (json!(63), Some(63)),
            (json!(64), None),
            (json!(-1), None),
            (json!(4.5), None),
            (json!("46"), Some(46)),
            (json!("ef"), Some(46)),
            (json!(" AF41 "), Some(34)),
            (json!("CS6"), Some(48)),
            (json!("CS7"), None),
            (json!(""), None),
            (json!(null), None),
        ] {
            let read = Dscp::of_value(&value);
            assert_eq!(read.as_ref().ok().map(|dscp| dscp.number()), number, "{value} {read:?}");
        }
    }
}
