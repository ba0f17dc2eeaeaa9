//! What a parameter may be, and how it is written outside of the resource.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::table::PARAMETERS;
use crate::resource::GoDuration;

/// A parameter of the node agent.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its field in the resource.
    pub field: &'static str,
    /// Its name in the file, and after `FELIX_` in the environment; case does not matter.
    pub local: &'static str,
    /// How it is written.
    pub form: Form,
    /// What holds when it is not set, as written in the file.
    pub default: &'static str,
    /// Whether upstream's node agent stops if it is malformed, instead of using the default.
    pub vital: bool,
}

/// How a value is written in the file and in the environment, and what that is in the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// `true`, `1`, `yes`, `y`, `t` or the opposite; case does not matter.
    Bool,
    /// An integer.
    Integer,
    /// A mask of 32 bits, hexadecimal or decimal.
    Bits,
    /// Seconds, with a fraction if need be; in the resource a duration as Go writes it.
    Seconds,
    /// Likewise in milliseconds.
    Millis,
    /// Any text.
    Text,
    /// One of these; case does not matter.
    OneOf(&'static [&'static str]),
    /// Texts separated by commas.
    List,
    /// Ports separated by commas, each `[tcp:|udp:][cidr:]port`.
    Ports,
    /// A number, or a text such as the range `1:5`.
    NumberOrText,
    /// Several of those, separated by commas.
    NumbersOrTexts,
    /// `min-max`.
    Range,
    /// Several of those, separated by commas or blanks.
    Ranges,
    /// `key=value`, separated by commas.
    Pairs,
    /// `name=duration`, separated by commas.
    Timeouts,
}

impl Parameter {
    pub(super) const fn new(field: &'static str, form: Form, default: &'static str) -> Self {
        Self { field, local: field, form, default, vital: false }
    }

    pub(super) const fn named(self, local: &'static str) -> Self {
        Self { local, ..self }
    }

    pub(super) const fn vital(self) -> Self {
        Self { vital: true, ..self }
    }

    /// The parameter of this name in a file or in the environment.
    #[must_use]
    pub fn by_local_name(name: &str) -> Option<&'static Self> {
        PARAMETERS.iter().find(|parameter| parameter.local.eq_ignore_ascii_case(name))
    }

    /// The parameter of this field of the resource.
    #[must_use]
    pub fn by_field(field: &str) -> Option<&'static Self> {
        PARAMETERS.iter().find(|parameter| parameter.field == field)
    }

    /// What the resource would have for `text` of a file or the environment.
    ///
    /// # Errors
    ///
    /// What is expected instead.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("none") && !matches!(self.form, Form::OneOf(_)) {
            return Ok(self.form.zero());
        }
        self.form.read(text)
    }

    /// What the resource would have for the default; nothing if there is none.
    #[must_use]
    pub fn default_value(&self) -> Option<Value> {
        if self.default.is_empty() { None } else { self.form.read(self.default).ok() }
    }
}

impl Form {
    fn read(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "y" | "t" => Ok(true.into()),
                "false" | "0" | "no" | "n" | "f" => Ok(false.into()),
                _ => Err("true or false is expected".to_owned()),
            },
            Self::Integer => number(text),
            Self::Bits => {
                let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
                let bits = digits.map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16));
                bits.map(Value::from).map_err(|_ignored| "32 bits are expected, as 0xff00".into())
            }
            Self::Seconds => duration(text, 1.0),
            Self::Millis => duration(text, 1e-3),
            Self::Text => Ok(text.into()),
            Self::OneOf(choices) => choices
                .iter()
                .find(|choice| choice.eq_ignore_ascii_case(text))
                .map(|choice| (*choice).into())
                .ok_or_else(|| format!("one of {} is expected", choices.join(", "))),
            Self::List => Ok(items(text).map(Value::from).collect()),
            Self::Ports => items(text).map(port).collect(),
            Self::NumberOrText => Ok(number_or_text(text)),
            Self::NumbersOrTexts => Ok(items(text).map(number_or_text).collect()),
            Self::Range => range(text),
            Self::Ranges => {
                let parts = text.split([',', ' ']).map(str::trim);
                parts.filter(|part| !part.is_empty()).map(range).collect()
            }
            Self::Pairs => {
                let pairs =
                    items(text).map(|item| pair(item).map(|(k, v)| (k.to_owned(), v.into())));
                pairs.collect::<Result<Map<String, Value>, _>>().map(Value::Object)
            }
            Self::Timeouts => {
                let timeout = |item| pair(item).map(|(k, v)| json!({"name": k, "timeout": v}));
                items(text).map(timeout).collect()
            }
        }
    }

    /// What `none` stands for.
    fn zero(self) -> Value {
        match self {
            Self::Bool => false.into(),
            Self::Integer | Self::Bits | Self::NumberOrText => 0.into(),
            Self::Seconds | Self::Millis => "0s".into(),
            Self::Text | Self::OneOf(_) => "".into(),
            Self::Range => Value::Null,
            Self::Pairs => json!({}),
            _ => json!([]),
        }
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn number(text: &str) -> Result<Value, String> {
    let number = text.parse::<i64>();
    number.map(Value::from).map_err(|_ignored| "an integer is expected".to_owned())
}

fn number_or_text(text: &str) -> Value {
    number(text).unwrap_or_else(|_| text.into())
}

fn duration(text: &str, unit: f64) -> Result<Value, String> {
    let bad = || "a number is expected".to_owned();
    let count: f64 = text.parse().map_err(|_ignored| bad())?;
    let length = Duration::try_from_secs_f64(count * unit).map_err(|_ignored| bad())?;
    Ok(GoDuration(length).to_string().into())
}

fn range(text: &str) -> Result<Value, String> {
    let bad = || format!("{text:?} is no range such as 1-250");
    let (min, max) = text.split_once('-').ok_or_else(bad)?;
    let end = |text: &str| text.trim().parse::<u32>().map_err(|_ignored| bad());
    Ok(json!({"min": end(min)?, "max": end(max)?}))
}

fn pair(text: &str) -> Result<(&str, &str), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
    pair.ok_or_else(|| format!("{text:?} is no key=value"))
}

/// `[tcp:|udp:][cidr:]port`; an IPv6 range is in brackets.
fn port(text: &str) -> Result<Value, String> {
    let bad = || format!("{text:?} is no port such as 22, tcp:22 or tcp:10.0.0.0/8:22");
    let (before, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port: u16 = port.trim().parse().map_err(|_ignored| bad())?;
    let (protocol, net) = match before.split_once(':') {
        _ if before.is_empty() => ("tcp", ""),
        None => (before, ""),
        Some((protocol, net)) => (protocol, net),
    };
    let protocol = match protocol.trim().to_ascii_lowercase().as_str() {
        "tcp" => "TCP",
        "udp" => "UDP",
        _ => return Err(bad()),
    };
    let net = net.trim().trim_start_matches('[').trim_end_matches(']');
    Ok(match net {
        "" => json!({"protocol": protocol, "port": port}),
        net => json!({"protocol": protocol, "port": port, "net": net}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str, text: &str) -> Result<Value, String> {
        Parameter::by_field(field).unwrap().read(text)
    }

    #[test]
    fn texts_become_what_the_resource_has() {
        for (field, text, expected) in [
            ("ipv6Support", "Y", json!(true)),
            ("vxlanPort", "4790", json!(4790)),
            ("nftablesMarkMask", "0xff000000", json!(0xff00_0000_u32)),
            ("routeRefreshInterval", "90", json!("1m30s")),
            ("iptablesLockProbeInterval", "12.5", json!("12.5ms")),
            ("defaultEndpointToHostAction", "ACCEPT", json!("Accept")),
            ("externalNodesList", "10.0.0.1, 10.0.0.2/31", json!(["10.0.0.1", "10.0.0.2/31"])),
            ("natPortRange", "32768:65535", json!("32768:65535")),
            ("kubeNodePortRanges", "30000:32767,80", json!(["30000:32767", 80])),
            (
                "routeTableRanges",
                "1-5 10-20",
                json!([{"min": 1, "max": 5}, {"min": 10, "max": 20}]),
            ),
            ("bpfLogFilters", "all=host 10.0.0.1", json!({"all": "host 10.0.0.1"})),
            ("healthTimeoutOverrides", "a=1m", json!([{"name": "a", "timeout": "1m"}])),
            ("interfacePrefix", " tap ", json!("tap")),
            ("vxlanMTU", "None", json!(0)),
            (
                "failsafeInboundHostPorts",
                "22, udp:68,tcp:10.0.0.0/8:179,tcp:[fd00::/8]:1",
                json!([
                    {"protocol": "TCP", "port": 22},
                    {"protocol": "UDP", "port": 68},
                    {"protocol": "TCP", "port": 179, "net": "10.0.0.0/8"},
                    {"protocol": "TCP", "port": 1, "net": "fd00::/8"},
                ]),
            ),
            ("failsafeInboundHostPorts", "none", json!([])),
        ] {
            assert_eq!(read(field, text), Ok(expected), "{field} {text}");
        }
    }

    #[test]
    fn nonsense_says_what_is_expected() {
        for (field, text, expected) in [
            ("ipv6Support", "maybe", "true or false"),
            ("vxlanPort", "x", "integer"),
            ("nftablesMarkMask", "0xfffffffff", "32 bits"),
            ("routeRefreshInterval", "-1", "number"),
            ("logSeverityScreen", "loud", "Debug, Error"),
            ("failsafeInboundHostPorts", "icmp:1", "icmp:1"),
            ("routeTableRange", "7", "1-250"),
            ("bpfLogFilters", "x", "key=value"),
        ] {
            let error = read(field, text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_default_is_of_its_form() {
        for parameter in PARAMETERS.iter().filter(|parameter| !parameter.default.is_empty()) {
            let value = parameter.default_value();
            assert!(value.is_some(), "{parameter:?}");
        }
    }
}
