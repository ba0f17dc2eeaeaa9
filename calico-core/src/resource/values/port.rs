//! Ports and protocols of rules and endpoints.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BadValue, decimal, number_or_text};
use crate::resource::field::leaf_fields;
use crate::resource::schema;

leaf_fields!(Port: schema::number_or_text(), Protocol: schema::number_or_text());

/// A port in a rule: a number, an inclusive range `first:last`, or the name of an endpoint's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Ports `first` to `last`, both included; a single port has both equal.
    Range {
        /// Lowest port.
        first: u16,
        /// Highest port.
        last: u16,
    },
    /// Whatever port an endpoint gives this name.
    Named(String),
}

impl Port {
    /// One port.
    #[must_use]
    pub const fn single(port: u16) -> Self {
        Self::Range { first: port, last: port }
    }

    /// Whether this is a number or range.
    #[must_use]
    pub const fn is_numeric(&self) -> bool {
        matches!(self, Self::Range { .. })
    }
}

impl From<u16> for Port {
    fn from(port: u16) -> Self {
        Self::single(port)
    }
}

impl FromStr for Port {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || BadValue::new(text, "port: a number 0-65535, a range `1000:2000` or a name");
        if let Some((first, last)) = text.split_once(':') {
            let (first, last) = decimal(first).zip(decimal(last)).ok_or_else(bad)?;
            return if first <= last { Ok(Self::Range { first, last }) } else { Err(bad()) };
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return decimal(text).map(Self::single).ok_or_else(bad);
        }
        let name = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if name && text.len() <= 128 { Ok(Self::Named(text.to_owned())) } else { Err(bad()) }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { first, last } if first == last => first.fmt(f),
            Self::Range { first, last } => write!(f, "{first}:{last}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Range { first, last } if first == last => serializer.serialize_u16(*first),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

/// An IP protocol, by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Protocol 6.
    Tcp,
    /// Protocol 17.
    Udp,
    /// Protocol 1; IPv4 only.
    Icmp,
    /// Protocol 58; IPv6 only.
    IcmpV6,
    /// Protocol 132.
    Sctp,
    /// Protocol 136.
    UdpLite,
    /// Any protocol by its number; equal to the named one in meaning, not in spelling.
    Number(u8),
}

impl Protocol {
    const NAMED: [(Self, &'static str, u8); 6] = [
        (Self::Tcp, "TCP", 6),
        (Self::Udp, "UDP", 17),
        (Self::Icmp, "ICMP", 1),
        (Self::IcmpV6, "ICMPv6", 58),
        (Self::Sctp, "SCTP", 132),
        (Self::UdpLite, "UDPLite", 136),
    ];

    /// The number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Number(number) => number,
            named => Self::NAMED.iter().find(|(p, ..)| *p == named).map_or(0, |(.., n)| *n),
        }
    }

    /// Whether rules may name numeric ports with it.
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self.number(), 6 | 17 | 132)
    }
}

impl FromStr for Protocol {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let named = Self::NAMED.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(text));
        let expected = "protocol: TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number 1-255";
        named
            .map(|(protocol, ..)| *protocol)
            .or_else(|| decimal(text).map(Self::Number))
            .ok_or_else(|| BadValue::new(text, expected))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(protocol, ..)| protocol == self) {
            Some((_, name, _)) => f.pad(name),
            None => self.number().fmt(f),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u8(*number),
            named => serializer.collect_str(named),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}
