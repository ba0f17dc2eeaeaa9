//! All messages in one value.

use bytes::{BufMut, BytesMut};

use super::frame::encode_frame;
use super::reader::Reader;
use super::{
    EncodeError, Family, Frame, MAX_LEN, MessageKind, Notification, Open, Update, UpdateContext,
    WireError,
};

/// A ROUTE-REFRESH message (RFC 2918, RFC 7313).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteRefresh {
    /// The family whose routes are wanted again.
    pub family: Family,
    /// 0 request, 1 beginning of a refresh, 2 end of one (RFC 7313).
    pub subtype: u8,
}

/// A BGP message.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved a few times and never stored; a box would cost an allocation per UPDATE"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Introduces a speaker.
    Open(Open),
    /// Announces and withdraws routes.
    Update(Update),
    /// Says why the session ends.
    Notification(Notification),
    /// Says that the sender lives.
    Keepalive,
    /// Asks for all routes of a family again.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// Reads a framed message.
    ///
    /// # Errors
    /// Any [`WireError`]: the session has to end, with [`WireError::notification`]. Milder faults
    /// of an UPDATE are inside the value ([`Update::errors`]).
    pub fn decode(frame: Frame, context: &UpdateContext) -> Result<Self, WireError> {
        let mut message = Self::Keepalive;
        message.read(frame, context)?;
        Ok(message)
    }

    /// Reads a framed message in place of this one. An UPDATE is a large value with lists in it;
    /// whoever reads many saves moving it, and allocating some of them.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); then the value means nothing.
    pub fn read(&mut self, frame: Frame, context: &UpdateContext) -> Result<(), WireError> {
        if frame.kind != MessageKind::Update {
            *self = Self::decode_small(frame)?;
            return Ok(());
        }
        if let Self::Update(update) = self {
            update.clear();
            return update.read(frame.body, context);
        }
        *self = Self::Update(Update::default());
        match self {
            Self::Update(update) => update.read(frame.body, context),
            // It has just become one.
            _ => Ok(()),
        }
    }

    fn decode_small(frame: Frame) -> Result<Self, WireError> {
        match frame.kind {
            MessageKind::Open => Open::decode(frame.body).map(Self::Open),
            MessageKind::Update => Ok(Self::Update(Update::default())),
            MessageKind::Notification => Notification::decode(frame.body).map(Self::Notification),
            MessageKind::Keepalive => Ok(Self::Keepalive),
            MessageKind::RouteRefresh => {
                let octets = frame.body.len();
                let mut r = Reader::new(&frame.body);
                match (r.u16(), r.u8(), r.u8(), r.is_empty()) {
                    (Some(afi), Some(subtype), Some(safi), true) => {
                        Ok(Self::RouteRefresh(RouteRefresh {
                            family: Family { afi, safi },
                            subtype,
                        }))
                    }
                    _ => Err(WireError::RouteRefresh(octets)),
                }
            }
        }
    }

    /// Appends the message to `out`; on an error `out` is as before.
    ///
    /// # Errors
    /// [`EncodeError`] if it does not fit the longest message that `context` allows.
    pub fn encode(&self, context: &UpdateContext, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Open(open) => {
                encode_frame(MessageKind::Open, MAX_LEN, out, |out| open.encode_body(out))
            }
            Self::Update(update) => {
                encode_frame(MessageKind::Update, context.max_len, out, |out| {
                    update.encode_body(context, out)
                })
            }
            Self::Notification(notification) => {
                encode_frame(MessageKind::Notification, context.max_len, out, |out| {
                    notification.encode_body(out);
                    Ok(())
                })
            }
            Self::Keepalive => encode_frame(MessageKind::Keepalive, MAX_LEN, out, |_| Ok(())),
            Self::RouteRefresh(refresh) => {
                encode_frame(MessageKind::RouteRefresh, MAX_LEN, out, |out| {
                    out.put_u16(refresh.family.afi);
                    out.put_u8(refresh.subtype);
                    out.put_u8(refresh.family.safi);
                    Ok(())
                })
            }
        }
    }
}
