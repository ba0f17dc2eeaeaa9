//! Small values that upstream writes as a number or as text: ports, protocols, AS numbers,
//! durations, CIDRs.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::field::{leaf_fields, text_fields};
use super::object::from_text;

leaf_fields!(AsNumber, Port, Protocol);
text_fields!(Cidr, GoDuration);

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

/// A network, read from a CIDR or from a plain address (which means /32 or /128).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(pub IpNet);

impl Deref for Cidr {
    type Target = IpNet;

    fn deref(&self) -> &IpNet {
        &self.0
    }
}

impl From<IpNet> for Cidr {
    fn from(net: IpNet) -> Self {
        Self(net)
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl FromStr for Cidr {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        text.parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .map(Self)
            .ok_or_else(|| BadValue::new(text, "CIDR or IP address, such as 10.0.0.0/24"))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// A 4-octet AS number; read from a number, `"64512"` or dotted `"1.10"` (RFC 5396 asdot),
/// written as a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsNumber(pub u32);

impl FromStr for AsNumber {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let number = match text.split_once('.') {
            Some((high, low)) => decimal::<u16>(high)
                .zip(decimal::<u16>(low))
                .map(|(high, low)| u32::from(high) << 16 | u32::from(low)),
            None => decimal(text),
        };
        let expected = "AS number, such as 64512 or 1.10 (at most 4294967295)";
        number.map(Self).ok_or_else(|| BadValue::new(text, expected))
    }
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for AsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

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

/// A length of time, written as Go does: `90s` is read, `1m30s` is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for GoDuration {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        /// Go counts nanoseconds in a signed 64-bit number: about 292 years.
        const MAX_NANOS: u64 = i64::MAX.unsigned_abs();
        let bad = || BadValue::new(text, "duration, such as 90s, 1m30s or 500ms");
        if text == "0" {
            return Ok(Self::default());
        }
        let (mut rest, mut total) = (text.strip_prefix('+').unwrap_or(text), 0_u64);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..digits].parse().map_err(|_ignored| bad())?;
            rest = &rest[digits..];
            let unit_end =
                rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let nanos = match &rest[..unit_end] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(bad()),
            };
            rest = &rest[unit_end..];
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "float casts saturate, and the digits carry no sign"
            )]
            let part = (number * nanos).round() as u64;
            total = total.checked_add(part).filter(|total| *total <= MAX_NANOS).ok_or_else(bad)?;
        }
        if text.is_empty() { Err(bad()) } else { Ok(Self(Duration::from_nanos(total))) }
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        if seconds == 0 && nanos != 0 {
            let (unit, scale) = match nanos {
                1_000_000.. => ("ms", 1e6),
                1_000.. => ("µs", 1e3),
                _ => ("ns", 1.0),
            };
            return write!(f, "{}{unit}", f64::from(nanos) / scale);
        }
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if nanos == 0 {
            return write!(f, "{seconds}s");
        }
        let fraction = format!("{nanos:09}");
        write!(f, "{seconds}.{}s", fraction.trim_end_matches('0'))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::Field;

    /// `written` is what becomes of `read`; nothing if it is refused.
    fn check<T: Field>(read: Value, written: Option<Value>) {
        let value: Option<T> = serde_json::from_value(read.clone()).ok();
        assert_eq!(value.map(|value| json!(value)), written, "{read}");
    }

    #[test]
    fn ports() {
        check::<Port>(json!(80), Some(json!(80)));
        check::<Port>(json!("80"), Some(json!(80)));
        check::<Port>(json!("80:80"), Some(json!(80)));
        check::<Port>(json!("80:90"), Some(json!("80:90")));
        check::<Port>(json!("http-1.x_Y"), Some(json!("http-1.x_Y")));
        for bad in [json!(65536), json!(-1), json!("90:80"), json!("a:b"), json!("a b"), json!("")]
        {
            check::<Port>(bad, None);
        }
        check::<Port>(json!("+80:90"), None);
        check::<Port>(json!(1.5), None);
        check::<Port>(json!("x".repeat(129)), None);
    }

    #[test]
    fn protocols() {
        check::<Protocol>(json!("TCP"), Some(json!("TCP")));
        check::<Protocol>(json!("udplite"), Some(json!("UDPLite")));
        check::<Protocol>(json!("6"), Some(json!(6)));
        check::<Protocol>(json!(255), Some(json!(255)));
        for bad in [json!(256), json!("tcp6"), json!(""), json!(true)] {
            check::<Protocol>(bad, None);
        }
        assert_eq!(Protocol::Number(6).number(), Protocol::Tcp.number());
    }

    #[test]
    fn as_numbers() {
        check::<AsNumber>(json!(64512), Some(json!(64512)));
        check::<AsNumber>(json!("4294967295"), Some(json!(4_294_967_295_u32)));
        check::<AsNumber>(json!("1.10"), Some(json!(65546)));
        for bad in [
            json!(4_294_967_296_u64),
            json!("1.65536"),
            json!("x"),
            json!("1.2.3"),
            json!(1.1),
            json!(""),
        ] {
            check::<AsNumber>(bad, None);
        }
    }

    #[test]
    fn durations() {
        for (read, written) in [
            ("0", "0s"),
            ("90s", "1m30s"),
            ("1h", "1h0m0s"),
            ("1.5h", "1h30m0s"),
            ("1500ms", "1.5s"),
            ("500ms", "500ms"),
            ("1us", "1µs"),
            ("7ns", "7ns"),
            ("1h1m1.000000001s", "1h1m1.000000001s"),
        ] {
            check::<GoDuration>(json!(read), Some(json!(written)));
        }
        for bad in ["", "5", "-5s", "s", "5x", "1.2.3s", "99999999999999999h", "5s6"] {
            check::<GoDuration>(json!(bad), None);
        }
    }

    #[test]
    fn networks() {
        check::<Cidr>(json!("10.0.0.0/8"), Some(json!("10.0.0.0/8")));
        check::<Cidr>(json!("10.0.0.1"), Some(json!("10.0.0.1/32")));
        check::<Cidr>(json!("fd00::1"), Some(json!("fd00::1/128")));
        for bad in [json!("10.0.0.0/33"), json!("10.0.0"), json!(""), json!(7)] {
            check::<Cidr>(bad, None);
        }
    }
}
