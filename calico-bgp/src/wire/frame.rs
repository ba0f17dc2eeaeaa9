//! Cutting a byte stream into messages (RFC 4271, section 4.1).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{EncodeError, WireError};

/// Octets of the message header: marker, length, type.
pub const HEADER_LEN: usize = 19;
/// Longest message without the extended message capability.
pub const MAX_LEN: usize = 4096;
/// Longest message with it (RFC 8654).
pub const MAX_EXTENDED_LEN: usize = 65535;

/// The type field of a message header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// 1
    Open,
    /// 2
    Update,
    /// 3
    Notification,
    /// 4
    Keepalive,
    /// 5 (RFC 2918)
    RouteRefresh,
}

impl MessageKind {
    /// The number on the wire.
    pub const fn value(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    const fn from_value(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// Shortest message of this kind, with header (RFC 4271, section 6.1).
    const fn min_len(self) -> usize {
        match self {
            Self::Open => 29,
            Self::Update => 23,
            Self::Notification => 21,
            Self::Keepalive | Self::RouteRefresh => HEADER_LEN,
        }
    }
}

/// One message, cut out of the stream but not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What kind of message it is.
    pub kind: MessageKind,
    /// Everything after the header.
    pub body: Bytes,
}

/// Collects received bytes and hands out whole messages.
///
/// It holds at most one incomplete message beyond what was pushed, so its memory is bounded by
/// the size of the reads if every [`push`](Self::push) is followed by draining
/// [`poll_frame`](Self::poll_frame).
#[derive(Debug)]
pub struct Framer {
    /// The beginning of a message that did not come in one piece.
    partial: BytesMut,
    /// What came in one piece, or was put together; comes after `partial`.
    ready: Bytes,
    max_len: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Self { partial: BytesMut::new(), ready: Bytes::new(), max_len: MAX_LEN }
    }
}

impl Framer {
    /// Allows messages up to 65,535 octets from now on (RFC 8654).
    pub fn allow_extended(&mut self) {
        self.max_len = MAX_EXTENDED_LEN;
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.ready.is_empty() {
            self.partial.extend_from_slice(&std::mem::take(&mut self.ready));
        }
        if self.partial.is_empty() {
            self.ready = Bytes::copy_from_slice(bytes);
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// The next whole message, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`WireError::Marker`], [`WireError::Length`] or [`WireError::Kind`]; the stream cannot be
    /// read on after any of them.
    pub fn poll_frame(&mut self) -> Result<Option<Frame>, WireError> {
        if !self.partial.is_empty() {
            if self.header(&self.partial)?.is_none() {
                return Ok(None);
            }
            self.ready = std::mem::take(&mut self.partial).freeze();
        }
        let Some((kind, octets)) = self.header(&self.ready)? else { return Ok(None) };
        let body = self.ready.slice(HEADER_LEN..octets);
        if self.ready.len() == octets {
            // Else an empty rest would keep the whole buffer alive.
            self.ready = Bytes::new();
        } else {
            self.ready.advance(octets);
        }
        Ok(Some(Frame { kind, body }))
    }

    /// The kind and length of the message that bytes begin with, if all of it is there.
    fn header(&self, bytes: &[u8]) -> Result<Option<(MessageKind, usize)>, WireError> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            // The marker is checked as soon as there is any of it: a stranger who sends something
            // else is found out at the first byte.
            let marked = bytes.iter().take(16).all(|b| *b == 0xFF);
            return if marked { Ok(None) } else { Err(WireError::Marker) };
        };
        let [marker @ .., high, low, value] = header;
        if *marker != [0xFF; 16] {
            return Err(WireError::Marker);
        }
        let length = u16::from_be_bytes([*high, *low]);
        let kind = MessageKind::from_value(*value).ok_or(WireError::Kind(*value))?;
        let octets = usize::from(length);
        // RFC 8654, section 4: OPEN and KEEPALIVE stay within the old bound.
        let max = match kind {
            MessageKind::Keepalive => HEADER_LEN,
            MessageKind::Open => MAX_LEN,
            _ => self.max_len,
        };
        if octets < kind.min_len() || octets > max {
            return Err(WireError::Length { length, kind: *value });
        }
        Ok((bytes.len() >= octets).then_some((kind, octets)))
    }
}

/// Writes a message: header, then what `body` writes, then the length into the header.
pub(super) fn encode_frame(
    kind: MessageKind,
    max_len: usize,
    out: &mut BytesMut,
    body: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_bytes(0xFF, 16);
    out.put_u16(0);
    out.put_u8(kind.value());
    let written = body(out);
    let length = out.len() - start;
    let fits = match u16::try_from(length) {
        Ok(length) if usize::from(length) <= max_len => Ok(length),
        _ => Err(EncodeError { what: "message", length, max: max_len }),
    };
    match written.and(fits) {
        Ok(length) => {
            out[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
        Err(e) => {
            out.truncate(start);
            Err(e)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepalive() -> Vec<u8> {
        let mut k = vec![0xFF; 16];
        k.extend_from_slice(&[0, 19, 4]);
        k
    }

    #[test]
    fn messages_come_out_whole_however_they_arrive() {
        let stream = [keepalive(), keepalive(), keepalive()].concat();
        for step in 1..stream.len() {
            let mut framer = Framer::default();
            let mut count = 0;
            for chunk in stream.chunks(step) {
                framer.push(chunk);
                while framer.poll_frame().unwrap().is_some() {
                    count += 1;
                }
            }
            assert_eq!(count, 3, "step {step}");
        }
    }

    #[test]
    fn bad_headers_are_refused() {
        let check = |bytes: &[u8], expected: WireError| {
            let mut framer = Framer::default();
            framer.push(bytes);
            assert_eq!(framer.poll_frame().unwrap_err(), expected);
        };
        check(b"GET / HTTP/1.1\r\n", WireError::Marker);
        check(b"\xff\xff\0", WireError::Marker);
        let header = |len: u16, kind: u8| {
            let mut h = vec![0xFF; 16];
            h.extend_from_slice(&len.to_be_bytes());
            h.push(kind);
            h
        };
        check(&header(20, 4), WireError::Length { length: 20, kind: 4 });
        check(&header(18, 4), WireError::Length { length: 18, kind: 4 });
        check(&header(4097, 2), WireError::Length { length: 4097, kind: 2 });
        check(&header(22, 2), WireError::Length { length: 22, kind: 2 });
        check(&header(19, 9), WireError::Kind(9));
    }
}
