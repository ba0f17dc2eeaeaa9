//! Values of the file: numbers, addresses, words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use calico_bgp::filter::{AnyCommunity, InterfacePattern};
use calico_bgp::rib::{PrivateAs, SendPaths};
use calico_bgp::speaker::LocalAsMode;
use calico_bgp::wire::{Family, Role};
use ipnet::IpNet;
use toml::de::DeValue;

use super::document::{Value, kind};
use super::similar::nearest;

fn text<'v>(value: &'v DeValue<'_>, wanted: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("is {}; write {wanted}", kind(value)))
}

impl Value for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("is {}; write true or false", kind(value)))
    }
}

/// Implements [`Value`] for types of numbers.
macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                let range = format!("write a number from 0 to {}", Self::MAX);
                let DeValue::Integer(number) = value else {
                    return Err(format!("is {}; {range}", kind(value)));
                };
                Self::from_str_radix(number.as_str(), number.radix())
                    .map_err(|_out_of_range| format!("{number} is out of range; {range}"))
            }
        }
    )*};
}

numbers!(u8, u16, u32);

/// Implements [`Value`] for types that are written as text.
macro_rules! texts {
    ($($text:ty: $wanted:literal),* $(,)?) => {$(
        impl Value for $text {
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                let text = text(value, $wanted)?;
                text.parse().map_err(|_unreadable| format!("{text:?} is not right; write {}", $wanted))
            }
        }
    )*};
}

texts! {
    String: "a text in quotes",
    PathBuf: "a path in quotes",
    IpAddr: "an address such as \"192.0.2.1\" or \"2001:db8::1\"",
    Ipv4Addr: "an IPv4 address such as \"192.0.2.1\"",
    Ipv6Addr: "an IPv6 address such as \"2001:db8::1\"",
    SocketAddr: "an address and port such as \"192.0.2.1:179\" or \"[::]:179\"",
    AnyCommunity: "a community such as \"65000:1\", \"65000:1:2\", \"rt:65000:1\" or \"no-export\"",
    InterfacePattern: "1 to 15 characters of an interface's name, with * for any",
}

impl Value for IpNet {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        const WANTED: &str = "a prefix such as \"10.0.0.0/8\" or \"2001:db8::/32\"";
        let text = text(value, WANTED)?;
        let net: Self =
            text.parse().map_err(|_unreadable| format!("{text:?} is not right; write {WANTED}"))?;
        if net.trunc() != net {
            return Err(format!("{net} has bits beyond its length; write \"{}\"", net.trunc()));
        }
        Ok(net)
    }
}

impl Value for SendPaths {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(word) if word == "all" => Ok(Self::All),
            DeValue::String(_) => Err("is unknown; write a number, or \"all\"".to_owned()),
            _ => Ok(match u16::read(value)? {
                0 | 1 => Self::Best,
                more => Self::UpTo(more),
            }),
        }
    }
}

/// A type with a word for each of its values.
trait Words: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

fn word<W: Words>(value: &DeValue<'_>) -> Result<W, String> {
    let words: Vec<&str> = W::WORDS.iter().map(|(word, _)| *word).collect();
    let all = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let text = text(value, &format!("one of {all}"))?;
    match W::WORDS.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => Err(match nearest(text, &words) {
            Some(similar) => format!("{text:?} is unknown; did you mean {similar:?}?"),
            None => format!("{text:?} is unknown; write one of {all}"),
        }),
    }
}

/// Implements [`Value`] for types with a word for each of their values.
macro_rules! words {
    ($($type:ty { $($word:literal => $value:expr),* $(,)? })*) => {$(
        impl Words for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $value)),*];
        }
        impl Value for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                word(value)
            }
        }
    )*};
}

/// How sessions end when the program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OnStop {
    /// Without a word: the peers keep the routes for the restart time.
    #[default]
    Restart,
    /// With a NOTIFICATION: the peers drop the routes.
    Cease,
}

/// Which next hop a peer is told, as the file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextHopWord {
    Auto,
    Own,
    OwnAlways,
    Keep,
}

/// What happens to a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActionWord {
    Accept,
    Reject,
    Change,
}

/// What happens to a route that no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherwiseWord {
    Accept,
    Reject,
}

/// Which way several paths to a destination go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddPathWord {
    pub(crate) receive: bool,
    pub(crate) send: bool,
}

/// What happens to a peer above its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitWord {
    Warn,
    Cease,
}

/// Whose a route is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceWord {
    Learned,
    Local,
}

/// Where a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerWord {
    External,
    Internal,
}

words! {
    OnStop { "restart" => Self::Restart, "cease" => Self::Cease }
    NextHopWord {
        "auto" => Self::Auto,
        "self" => Self::Own,
        "self-always" => Self::OwnAlways,
        "keep" => Self::Keep,
    }
    ActionWord { "accept" => Self::Accept, "reject" => Self::Reject, "change" => Self::Change }
    OtherwiseWord { "accept" => Self::Accept, "reject" => Self::Reject }
    LimitWord { "warn" => Self::Warn, "cease" => Self::Cease }
    SourceWord { "learned" => Self::Learned, "local" => Self::Local }
    PeerWord { "external" => Self::External, "internal" => Self::Internal }
    Family { "ipv4" => Self::IPV4_UNICAST, "ipv6" => Self::IPV6_UNICAST }
    LocalAsMode { "replace" => Self::Replace, "show" => Self::Show }
    PrivateAs { "keep" => Self::Keep, "remove" => Self::Remove, "replace" => Self::Replace }
    Role {
        "provider" => Self::Provider,
        "route-server" => Self::RouteServer,
        "route-server-client" => Self::RouteServerClient,
        "customer" => Self::Customer,
        "peer" => Self::Peer,
    }
    AddPathWord {
        "off" => Self { receive: false, send: false },
        "receive" => Self { receive: true, send: false },
        "send" => Self { receive: false, send: true },
        "both" => Self { receive: true, send: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Value + std::fmt::Debug>(text: &str, expected: &str) {
        let value = DeValue::parse(text).unwrap();
        let found = match T::read(value.get_ref()) {
            Ok(value) => format!("{value:?}"),
            Err(problem) => problem,
        };
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn what_is_wrong_says_what_to_write() {
        check::<u16>("0x10", "16");
        check::<u16>("65536", "65536 is out of range; write a number from 0 to 65535");
        check::<u16>("-1", "-1 is out of range; write a number from 0 to 65535");
        check::<u16>("'x'", "is a text; write a number from 0 to 65535");
        check::<IpNet>("'10.0.0.0/8'", "10.0.0.0/8");
        check::<IpNet>(
            "'10.1.0.0/8'",
            "10.1.0.0/8 has bits beyond its length; write \"10.0.0.0/8\"",
        );
        check::<Role>("'costumer'", "\"costumer\" is unknown; did you mean \"customer\"?");
        check::<OnStop>("'x'", "\"x\" is unknown; write one of \"restart\", \"cease\"");
        check::<Ipv4Addr>(
            "'1.2.3'",
            "\"1.2.3\" is not right; write an IPv4 address such as \"192.0.2.1\"",
        );
    }
}
