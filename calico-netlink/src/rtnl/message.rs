//! Bytes of netlink messages: several requests in one datagram, and answers told apart.

use netlink_packet_core::{
    NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator, ParseableParametrized as _,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use super::{Refusal, RtnlError};

/// Flags of a request that makes something and fails if it exists.
pub const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Flags of a request that makes something or takes the place of what exists.
pub const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// `MSG_TRUNC`: `recv` tells the true length even if it did not fit.
pub(super) const TRUNC: i32 = nix::sys::socket::MsgFlags::MSG_TRUNC.bits();

const HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// `NLMSGERR_ATTR_MSG`, see linux/netlink.h.
const ATTR_TEXT: u16 = 1;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_*` besides request and acknowledgement, which are added where needed.
    pub flags: u16,
}

impl Request {
    /// A request.
    #[must_use]
    pub fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags }
    }
}

/// An attribute that no type of `netlink-packet-route` writes, with what aligns the next one.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) sequence: u32,
    pub(super) flags: u16,
}

#[derive(Debug)]
pub(super) enum Answer {
    Ack,
    Refused(Refusal),
    Message(RouteNetlinkMessage),
    Unreadable(String),
    Done(Option<Refusal>),
}

pub(super) fn append(bytes: &mut Vec<u8>, body: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(body));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + aligned(message.buffer_len()), 0);
    message.serialize(&mut bytes[start..]);
}

/// The messages of a datagram. Ends after the first error, for what follows has no known place.
pub(super) fn split(
    bytes: &[u8],
) -> impl Iterator<Item = Result<(Header, Answer), RtnlError>> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            match next(&mut rest) {
                Ok(None) => {}
                Ok(Some(item)) => return Some(Ok(item)),
                Err(error) => {
                    rest = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    })
}

fn next(rest: &mut &[u8]) -> Result<Option<(Header, Answer)>, RtnlError> {
    let all = *rest;
    let length = u32_at(all, 0)? as usize;
    if length < HEADER || length > all.len() {
        return Err(malformed(format!("a message of {length} bytes in {} bytes", all.len())));
    }
    *rest = all.get(aligned(length)..).unwrap_or_default();
    let kind = u16_at(all, 4)?;
    let header = Header { flags: u16_at(all, 6)?, sequence: u32_at(all, 8)? };
    let body = &all[HEADER..length];
    let answer = match kind {
        NLMSG_NOOP => return Ok(None),
        NLMSG_OVERRUN => return Err(RtnlError::Overrun),
        NLMSG_ERROR => match refusal(header, body, true)? {
            None => Answer::Ack,
            Some(refusal) => Answer::Refused(refusal),
        },
        NLMSG_DONE if body.len() < 4 => Answer::Done(None),
        NLMSG_DONE => Answer::Done(refusal(header, body, false)?),
        kind => match RouteNetlinkMessage::parse_with_param(body, kind) {
            Ok(message) => Answer::Message(message),
            Err(error) => Answer::Unreadable(format!("message of type {kind}: {error}")),
        },
    };
    Ok(Some((header, answer)))
}

/// Reads `struct nlmsgerr` (`with_request`) or the bare error number of `NLMSG_DONE`, and the
/// attributes behind it.
fn refusal(header: Header, body: &[u8], with_request: bool) -> Result<Option<Refusal>, RtnlError> {
    let code = u32_at(body, 0)?.cast_signed();
    if code >= 0 {
        return Ok(None);
    }
    let attributes = if header.flags & NLM_F_ACK_TLVS == 0 {
        body.len()
    } else if !with_request {
        4
    } else if header.flags & NLM_F_CAPPED != 0 {
        4 + HEADER
    } else {
        4 + aligned(u32_at(body, 4)? as usize)
    };
    let text = NlasIterator::new(body.get(attributes..).unwrap_or_default())
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == ATTR_TEXT)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned()
        });
    Ok(Some(Refusal { errno: Errno::from_raw(code.wrapping_neg()), text }))
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, RtnlError> {
    bytes
        .get(at..at + 2)
        .and_then(|slice| slice.try_into().ok())
        .map(u16::from_ne_bytes)
        .ok_or_else(|| malformed(format!("it ends after {} bytes", bytes.len())))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, RtnlError> {
    bytes
        .get(at..at + 4)
        .and_then(|slice| slice.try_into().ok())
        .map(u32::from_ne_bytes)
        .ok_or_else(|| malformed(format!("it ends after {} bytes", bytes.len())))
}

fn malformed(reason: String) -> RtnlError {
    RtnlError::Malformed { reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error_message(code: i32, flags: u16, tail: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let length = u32::try_from(HEADER + 4 + HEADER + tail.len()).unwrap();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend([0; HEADER]);
        bytes.extend(tail);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn a_refusal_carries_the_words_of_the_kernel() {
        let text = [10u8, 0, 1, 0, b'n', b'o', b'p', b'e', b'!', 0, 0, 0];
        let bytes = error_message(-17, NLM_F_CAPPED | NLM_F_ACK_TLVS, &text);
        let (header, answer) = split(&bytes).next().unwrap().unwrap();
        assert_eq!(header.sequence, 7);
        let Answer::Refused(refusal) = answer else { panic!("{answer:?}") };
        assert_eq!(refusal.to_string(), "nope! (EEXIST: File exists)");
    }

    #[test]
    fn zero_is_a_yes() {
        let bytes = error_message(0, NLM_F_CAPPED, &[]);
        assert!(matches!(split(&bytes).next(), Some(Ok((_, Answer::Ack)))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(split(&bytes).count() <= bytes.len());
        }

        #[test]
        fn no_length_panics(
            length in any::<u32>(), kind in 0u16..130, body in proptest::collection::vec(any::<u8>(), 12..200)
        ) {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(body);
            prop_assert!(split(&bytes).count() <= bytes.len());
        }
    }
}
