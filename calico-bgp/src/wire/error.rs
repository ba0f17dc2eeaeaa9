//! What can be wrong with received bytes, sorted by what it costs the session (RFC 7606).

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::attributes::code;
use super::notification::{
    FsmErrorCode, HeaderErrorCode, Notification, NotificationCode, OpenErrorCode,
    RouteRefreshErrorCode, UpdateErrorCode,
};

/// How much an attribute error costs (RFC 7606, section 2), mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// The attribute is dropped, the routes stay.
    AttributeDiscard,
    /// The routes of the UPDATE count as withdrawn, the session stays.
    TreatAsWithdraw,
    /// The session ends with a NOTIFICATION.
    SessionReset,
}

/// What was wrong with one attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum AttributeFault {
    /// The optional or transitive bit contradicts the attribute's definition.
    #[error("wrong flags {0:#04x}")]
    Flags(u8),
    /// The length is impossible for this attribute.
    #[error("impossible length {0}")]
    Length(usize),
    /// The value cannot be read.
    #[error("malformed value")]
    Value,
    /// The attribute runs over the end of the attribute list.
    #[error("runs over the end of the attribute list")]
    Overrun,
    /// The attribute appears twice.
    #[error("appears twice")]
    Duplicate,
    /// A mandatory attribute is not there.
    #[error("mandatory and missing")]
    Missing,
    /// A well-known attribute that we do not know.
    #[error("well-known but unrecognized")]
    UnrecognizedWellKnown,
    /// Not allowed from this kind of peer.
    #[error("not allowed from an external peer")]
    NotFromExternal,
}

/// An error in one path attribute, with the class that RFC 7606, section 7, gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[error("path attribute {attribute}: {fault} ({class:?})")]
pub struct AttributeError {
    /// The attribute's type code (IANA).
    pub attribute: u8,
    /// What is wrong with it.
    pub fault: AttributeFault,
    /// What it costs.
    pub class: ErrorClass,
}

/// Received bytes that end the session. The peer is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The marker is not all ones (RFC 4271, section 4.1): not BGP, or framing was lost.
    #[error("message header without the all-ones marker: the sender does not speak BGP-4")]
    Marker,
    /// The length field is out of bounds for the message type.
    #[error("message length {length} is out of bounds for message type {kind}")]
    Length {
        /// The length field, in octets with header.
        length: u16,
        /// The type field.
        kind: u8,
    },
    /// An unknown message type.
    #[error("unknown message type {0}")]
    Kind(u8),
    /// A BGP version other than 4.
    #[error("peer speaks BGP version {0}, this speaker only version 4")]
    Version(u8),
    /// The OPEN cannot be read.
    #[error("malformed OPEN: {0}")]
    Open(&'static str),
    /// An optional parameter other than capabilities.
    #[error("OPEN carries the unsupported optional parameter {0}")]
    OptionalParameter(u8),
    /// A hold time of 1 or 2 seconds (RFC 4271, section 6.2).
    #[error("unacceptable hold time of {0} s")]
    HoldTime(u16),
    /// The BGP identifier is zero (RFC 6286).
    #[error("unacceptable BGP identifier {0}")]
    Identifier(Ipv4Addr),
    /// The lengths inside an UPDATE contradict each other.
    #[error("malformed UPDATE: {0}")]
    Update(&'static str),
    /// A prefix that cannot be read (RFC 7606, section 5.3).
    #[error("malformed prefix in an UPDATE: {0}")]
    Prefix(&'static str),
    /// An attribute error of class session reset.
    #[error("{error}")]
    Attribute {
        /// The error.
        error: AttributeError,
        /// The attribute as received, as much of it as a NOTIFICATION can carry.
        raw: Bytes,
    },
    /// A ROUTE-REFRESH of the wrong length (RFC 7313, section 5).
    #[error("ROUTE-REFRESH of {0} octets")]
    RouteRefresh(usize),
    /// A NOTIFICATION too short to say anything.
    #[error("truncated NOTIFICATION")]
    Notification,
}

impl WireError {
    /// The NOTIFICATION that RFC 4271, section 6, wants sent for this error.
    pub fn notification(&self) -> Notification {
        use NotificationCode as N;
        let (code, data) = match self {
            Self::Marker => (N::Header(HeaderErrorCode::ConnectionNotSynchronized), Bytes::new()),
            Self::Length { length, .. } => {
                (N::Header(HeaderErrorCode::BadMessageLength), be16(*length))
            }
            Self::Kind(kind) => (N::Header(HeaderErrorCode::BadMessageType), one(*kind)),
            Self::Version(_) => (N::Open(OpenErrorCode::UnsupportedVersion), be16(4)),
            Self::Open(_) => (N::Open(OpenErrorCode::Unspecific), Bytes::new()),
            Self::OptionalParameter(_) => {
                (N::Open(OpenErrorCode::UnsupportedOptionalParameter), Bytes::new())
            }
            Self::HoldTime(_) => (N::Open(OpenErrorCode::UnacceptableHoldTime), Bytes::new()),
            Self::Identifier(_) => (N::Open(OpenErrorCode::BadBgpIdentifier), Bytes::new()),
            Self::Update(_) => (N::Update(UpdateErrorCode::MalformedAttributeList), Bytes::new()),
            Self::Prefix(_) => (N::Update(UpdateErrorCode::InvalidNetworkField), Bytes::new()),
            // RFC 4271, section 6.3: with the attribute itself.
            Self::Attribute { error, raw } => (N::Update(update_code(*error)), raw.clone()),
            Self::RouteRefresh(_) => {
                (N::RouteRefresh(RouteRefreshErrorCode::InvalidLength), Bytes::new())
            }
            Self::Notification => (N::Fsm(FsmErrorCode::Unspecific), Bytes::new()),
        };
        Notification { code, data }
    }
}

/// A message that does not fit its maximum length. This side is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{what} needs {length} octets, more than the {max} that fit")]
pub struct EncodeError {
    /// What is too long.
    pub what: &'static str,
    /// Octets needed.
    pub length: usize,
    /// Octets allowed.
    pub max: usize,
}

fn update_code(error: AttributeError) -> UpdateErrorCode {
    let mp = matches!(error.attribute, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI);
    match error.fault {
        // RFC 4760, section 7.
        AttributeFault::Length(_) if mp => UpdateErrorCode::OptionalAttribute,
        AttributeFault::Flags(_) => UpdateErrorCode::AttributeFlags,
        AttributeFault::Length(_) | AttributeFault::Overrun => UpdateErrorCode::AttributeLength,
        AttributeFault::Value => UpdateErrorCode::OptionalAttribute,
        AttributeFault::Duplicate | AttributeFault::NotFromExternal => {
            UpdateErrorCode::MalformedAttributeList
        }
        AttributeFault::Missing => UpdateErrorCode::MissingWellKnownAttribute,
        AttributeFault::UnrecognizedWellKnown => UpdateErrorCode::UnrecognizedWellKnownAttribute,
    }
}

fn one(value: u8) -> Bytes {
    Bytes::copy_from_slice(&[value])
}

fn be16(value: u16) -> Bytes {
    let mut out = BytesMut::with_capacity(2);
    out.put_u16(value);
    out.freeze()
}
