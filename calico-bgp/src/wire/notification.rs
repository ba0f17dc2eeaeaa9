//! NOTIFICATION (RFC 4271, sections 4.5 and 6): why a session ends, as a value.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;

/// Defines one error code's subcodes: named ones, and `Other` for the rest of the numbers.
macro_rules! subcodes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A subcode that this crate has no name for.
            Other(u8),
        }

        impl $name {
            /// The number on the wire.
            pub const fn value(self) -> u8 {
                match self { $(Self::$variant => $value,)* Self::Other(v) => v }
            }

            const fn from_value(value: u8) -> Self {
                match value { $($value => Self::$variant,)* v => Self::Other(v) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$variant => f.write_str($text),)* Self::Other(v) => write!(f, "subcode {v}") }
            }
        }
    };
}

subcodes! {
    /// Message header errors (code 1).
    HeaderErrorCode {
        /// The marker is wrong.
        ConnectionNotSynchronized = 1 => "connection not synchronized",
        /// The length field is out of bounds.
        BadMessageLength = 2 => "bad message length",
        /// The type field is unknown.
        BadMessageType = 3 => "bad message type",
    }
}
subcodes! {
    /// OPEN errors (code 2).
    OpenErrorCode {
        /// None of the others.
        Unspecific = 0 => "unspecific",
        /// Not BGP-4.
        UnsupportedVersion = 1 => "unsupported version number",
        /// The AS number is not the configured one.
        BadPeerAs = 2 => "bad peer AS",
        /// The BGP identifier is zero or ours.
        BadBgpIdentifier = 3 => "bad BGP identifier",
        /// An optional parameter we do not know.
        UnsupportedOptionalParameter = 4 => "unsupported optional parameter",
        /// A hold time of 1 or 2 s.
        UnacceptableHoldTime = 6 => "unacceptable hold time",
        /// A needed capability is missing (RFC 5492).
        UnsupportedCapability = 7 => "unsupported capability",
        /// The roles do not fit (RFC 9234).
        RoleMismatch = 11 => "role mismatch",
    }
}
subcodes! {
    /// UPDATE errors (code 3).
    UpdateErrorCode {
        /// The attribute list cannot be read.
        MalformedAttributeList = 1 => "malformed attribute list",
        /// An unknown well-known attribute.
        UnrecognizedWellKnownAttribute = 2 => "unrecognized well-known attribute",
        /// A mandatory attribute is missing.
        MissingWellKnownAttribute = 3 => "missing well-known attribute",
        /// Flags contradict the attribute.
        AttributeFlags = 4 => "attribute flags error",
        /// The length contradicts the attribute.
        AttributeLength = 5 => "attribute length error",
        /// ORIGIN has an unknown value.
        InvalidOrigin = 6 => "invalid ORIGIN attribute",
        /// NEXT_HOP is no host address.
        InvalidNextHop = 8 => "invalid NEXT_HOP attribute",
        /// An optional attribute cannot be read.
        OptionalAttribute = 9 => "optional attribute error",
        /// A prefix cannot be read.
        InvalidNetworkField = 10 => "invalid network field",
        /// AS_PATH cannot be read.
        MalformedAsPath = 11 => "malformed AS_PATH",
    }
}
subcodes! {
    /// State machine errors (code 5, RFC 6608).
    FsmErrorCode {
        /// None of the others.
        Unspecific = 0 => "unspecified error",
        /// In OpenSent.
        InOpenSent = 1 => "unexpected message in OpenSent",
        /// In OpenConfirm.
        InOpenConfirm = 2 => "unexpected message in OpenConfirm",
        /// In Established.
        InEstablished = 3 => "unexpected message in Established",
    }
}
subcodes! {
    /// Cease (code 6, RFC 4486, RFC 8538, RFC 9384).
    CeaseCode {
        /// None of the others.
        Unspecific = 0 => "unspecified",
        /// A prefix limit was exceeded.
        MaximumPrefixes = 1 => "maximum number of prefixes reached",
        /// The operator shut the session down; may carry text (RFC 9003).
        AdministrativeShutdown = 2 => "administrative shutdown",
        /// The peer was removed from the configuration.
        PeerDeconfigured = 3 => "peer de-configured",
        /// The operator reset the session; may carry text (RFC 9003).
        AdministrativeReset = 4 => "administrative reset",
        /// The connection is refused.
        ConnectionRejected = 5 => "connection rejected",
        /// The configuration changed.
        OtherConfigurationChange = 6 => "other configuration change",
        /// The other connection of a collision was kept (RFC 4271, section 6.8).
        ConnectionCollisionResolution = 7 => "connection collision resolution",
        /// Out of resources.
        OutOfResources = 8 => "out of resources",
        /// Do not keep routes over this reset (RFC 8538).
        HardReset = 9 => "hard reset",
        /// BFD saw the path fail.
        BfdDown = 10 => "BFD down",
    }
}
subcodes! {
    /// ROUTE-REFRESH errors (code 7, RFC 7313).
    RouteRefreshErrorCode {
        /// Not four octets of body.
        InvalidLength = 1 => "invalid message length",
    }
}

/// Error code and subcode of a NOTIFICATION.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotificationCode {
    /// Message header error.
    Header(HeaderErrorCode),
    /// OPEN message error.
    Open(OpenErrorCode),
    /// UPDATE message error.
    Update(UpdateErrorCode),
    /// Nothing was heard for the hold time. The subcode is 0.
    HoldTimerExpired,
    /// A message that the state does not allow.
    Fsm(FsmErrorCode),
    /// An orderly end.
    Cease(CeaseCode),
    /// ROUTE-REFRESH message error.
    RouteRefresh(RouteRefreshErrorCode),
    /// Nothing could be sent for the send hold time (RFC 9687). The subcode is 0.
    SendHoldTimerExpired,
    /// A code that this crate has no name for.
    Other {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
    },
}

impl NotificationCode {
    /// Code and subcode as they are on the wire.
    pub const fn values(self) -> (u8, u8) {
        match self {
            Self::Header(s) => (1, s.value()),
            Self::Open(s) => (2, s.value()),
            Self::Update(s) => (3, s.value()),
            Self::HoldTimerExpired => (4, 0),
            Self::Fsm(s) => (5, s.value()),
            Self::Cease(s) => (6, s.value()),
            Self::RouteRefresh(s) => (7, s.value()),
            Self::SendHoldTimerExpired => (8, 0),
            Self::Other { code, subcode } => (code, subcode),
        }
    }

    /// The value for a code and subcode from the wire.
    pub const fn from_values(code: u8, subcode: u8) -> Self {
        match (code, subcode) {
            (1, s) => Self::Header(HeaderErrorCode::from_value(s)),
            (2, s) => Self::Open(OpenErrorCode::from_value(s)),
            (3, s) => Self::Update(UpdateErrorCode::from_value(s)),
            (4, 0) => Self::HoldTimerExpired,
            (5, s) => Self::Fsm(FsmErrorCode::from_value(s)),
            (6, s) => Self::Cease(CeaseCode::from_value(s)),
            (7, s) => Self::RouteRefresh(RouteRefreshErrorCode::from_value(s)),
            (8, 0) => Self::SendHoldTimerExpired,
            (code, subcode) => Self::Other { code, subcode },
        }
    }
}

impl fmt::Display for NotificationCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(s) => write!(f, "message header error: {s}"),
            Self::Open(s) => write!(f, "OPEN error: {s}"),
            Self::Update(s) => write!(f, "UPDATE error: {s}"),
            Self::HoldTimerExpired => f.write_str("hold timer expired"),
            Self::Fsm(s) => write!(f, "state machine error: {s}"),
            Self::Cease(s) => write!(f, "cease: {s}"),
            Self::RouteRefresh(s) => write!(f, "ROUTE-REFRESH error: {s}"),
            Self::SendHoldTimerExpired => f.write_str("send hold timer expired"),
            Self::Other { code, subcode } => write!(f, "code {code} subcode {subcode}"),
        }
    }
}

/// A NOTIFICATION message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Notification {
    /// What happened.
    pub code: NotificationCode,
    /// Detail in the form that the code prescribes; often empty.
    pub data: Bytes,
}

impl Notification {
    /// A NOTIFICATION without data.
    pub const fn new(code: NotificationCode) -> Self {
        Self { code, data: Bytes::new() }
    }

    /// An administrative shutdown with a text for the peer's operator (RFC 9003), cut at 255
    /// octets on a character boundary.
    pub fn shutdown(text: &str) -> Self {
        let code = NotificationCode::Cease(CeaseCode::AdministrativeShutdown);
        if text.is_empty() {
            return Self::new(code);
        }
        let end = text.floor_char_boundary(255);
        let mut data = BytesMut::with_capacity(1 + end);
        // At most 255 by the line above.
        data.put_u8(end as u8);
        data.put_slice(&text.as_bytes()[..end]);
        Self { code, data: data.freeze() }
    }

    /// Wraps a NOTIFICATION so that a peer with RFC 8538 does not keep routes over it.
    #[must_use]
    pub fn hard_reset(&self) -> Self {
        let mut data = BytesMut::with_capacity(2 + self.data.len());
        self.encode_body(&mut data);
        let code = NotificationCode::Cease(CeaseCode::HardReset);
        Self { code, data: data.freeze() }
    }

    /// The NOTIFICATION inside of a hard reset (RFC 8538, section 3.1), if it has one.
    pub fn hard_reset_cause(&self) -> Option<Self> {
        let hard = self.code == NotificationCode::Cease(CeaseCode::HardReset);
        Self::decode(self.data.clone()).ok().filter(|_| hard)
    }

    /// The text of an administrative shutdown or reset (RFC 9003), if there is one that can be
    /// read. Control characters are replaced: it goes to logs.
    pub fn shutdown_text(&self) -> Option<String> {
        let NotificationCode::Cease(
            CeaseCode::AdministrativeShutdown | CeaseCode::AdministrativeReset,
        ) = self.code
        else {
            return None;
        };
        let (&length, rest) = self.data.split_first()?;
        let text = std::str::from_utf8(rest.get(..usize::from(length))?).ok()?;
        if text.is_empty() {
            return None;
        }
        Some(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
    }

    pub(super) fn decode(body: Bytes) -> Result<Self, WireError> {
        if body.len() < 2 {
            return Err(WireError::Notification);
        }
        let code = NotificationCode::from_values(body[0], body[1]);
        Ok(Self { code, data: body.slice(2..) })
    }

    pub(super) fn encode_body(&self, out: &mut BytesMut) {
        let (code, subcode) = self.code.values();
        out.put_u8(code);
        out.put_u8(subcode);
        out.put_slice(&self.data);
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        match (self.shutdown_text(), self.hard_reset_cause()) {
            (Some(text), _) => write!(f, " ({text})"),
            // No deeper: a peer could nest them without end.
            (None, Some(cause)) => match cause.shutdown_text() {
                Some(text) => write!(f, " for {} ({text})", cause.code),
                None => write!(f, " for {}", cause.code),
            },
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips() {
        for code in 0..=255 {
            for subcode in 0..=255 {
                let value = NotificationCode::from_values(code, subcode);
                assert_eq!(value.values(), (code, subcode));
            }
        }
    }

    #[test]
    fn a_hard_reset_carries_its_cause() {
        let inner = Notification::shutdown("moving");
        let hard = inner.hard_reset();
        assert_eq!(hard.code.values(), (6, 9));
        assert_eq!(hard.hard_reset_cause(), Some(inner));
        assert_eq!(
            hard.to_string(),
            "cease: hard reset for cease: administrative shutdown (moving)"
        );
        let bare = Notification::new(NotificationCode::Cease(CeaseCode::HardReset));
        assert_eq!(bare.hard_reset_cause(), None);
        assert_eq!(hard.hard_reset().to_string(), "cease: hard reset for cease: hard reset");
    }

    #[test]
    fn shutdown_text_survives_and_is_bounded() {
        let text = "é".repeat(200);
        let n = Notification::shutdown(&text);
        assert_eq!(n.data.len(), 255, "254 octets of whole characters and the length octet");
        assert_eq!(n.shutdown_text().unwrap(), "é".repeat(127));
        assert_eq!(Notification::shutdown("a\nb").shutdown_text().unwrap(), "a\u{fffd}b");
        assert_eq!(Notification::shutdown("").shutdown_text(), None);
    }
}
