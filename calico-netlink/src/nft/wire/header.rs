//! Netlink and nfnetlink headers, and the kernel's answers.

use super::{Attrs, DecodeError, Result};

/// Length of `struct nlmsghdr`.
const NLMSG_HEADER: usize = 16;
/// Length of `struct nfgenmsg`.
const NFGEN_HEADER: usize = 4;
/// `NLMSGERR_ATTR_MSG`: the kernel's explanation in words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Message types: netlink's own, and nf_tables' with the subsystem in the high byte.
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod msg {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const OVERRUN: u16 = 4;
    pub const BATCH_BEGIN: u16 = 0x10;
    pub const BATCH_END: u16 = 0x11;
    /// Resource id of a batch: the subsystem it is for.
    pub const SUBSYS_NFTABLES: u16 = 10;
    const NFT: u16 = SUBSYS_NFTABLES << 8;
    pub const NEW_TABLE: u16 = NFT;
    pub const GET_TABLE: u16 = NFT + 1;
    pub const DEL_TABLE: u16 = NFT + 2;
    pub const NEW_CHAIN: u16 = NFT + 3;
    pub const GET_CHAIN: u16 = NFT + 4;
    pub const DEL_CHAIN: u16 = NFT + 5;
    pub const NEW_RULE: u16 = NFT + 6;
    pub const GET_RULE: u16 = NFT + 7;
    pub const DEL_RULE: u16 = NFT + 8;
    pub const NEW_SET: u16 = NFT + 9;
    pub const GET_SET: u16 = NFT + 10;
    pub const DEL_SET: u16 = NFT + 11;
    pub const NEW_SET_ELEM: u16 = NFT + 12;
    pub const GET_SET_ELEM: u16 = NFT + 13;
    pub const DEL_SET_ELEM: u16 = NFT + 14;
    pub const NEW_GEN: u16 = NFT + 15;
    pub const GET_GEN: u16 = NFT + 16;
    pub const NEW_FLOWTABLE: u16 = NFT + 22;
    pub const GET_FLOWTABLE: u16 = NFT + 23;
    pub const DEL_FLOWTABLE: u16 = NFT + 24;
}

/// Flags of `struct nlmsghdr`.
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod flags {
    pub const REQUEST: u16 = 0x001;
    pub const MULTI: u16 = 0x002;
    pub const ACK: u16 = 0x004;
    /// The objects changed while they were being dumped.
    pub const DUMP_INTR: u16 = 0x010;
    /// The error quotes only the header of the faulty message.
    pub const CAPPED: u16 = 0x100;
    /// The error carries attributes.
    pub const ACK_TLVS: u16 = 0x200;
    pub const DUMP: u16 = 0x300;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

/// The fields of both headers that vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message type, see [`msg`].
    pub kind: u16,
    /// See [`flags`].
    pub flags: u16,
    /// Sequence number; the kernel's answer repeats it.
    pub seq: u32,
    /// Address family of the object (`NFPROTO_*`).
    pub family: u8,
    /// Resource id: the subsystem of a batch, 0 otherwise.
    pub res_id: u16,
}

/// One message as it came from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// The headers; `family` and `res_id` are 0 for netlink's own messages.
    pub header: Header,
    /// What follows the headers.
    pub payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The attributes of an nfnetlink message.
    pub fn attrs(&self) -> Attrs<'a> {
        Attrs::new(self.payload)
    }
}

/// Splits a datagram into messages; ends after the first malformed one.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in `datagram`.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    fn split(&mut self) -> Result<Received<'a>> {
        let truncated = || DecodeError::Truncated { what: "message header" };
        let head = self.rest.get(..NLMSG_HEADER).ok_or_else(truncated)?;
        let len = u32_at(head, 0) as usize;
        let message = self.rest.get(..len).ok_or(DecodeError::Truncated { what: "message" })?;
        let body = message.get(NLMSG_HEADER..).ok_or_else(truncated)?;
        let mut header = Header {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            seq: u32_at(head, 8),
            family: 0,
            res_id: 0,
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        // Types below NLMSG_MIN_TYPE are netlink's own and carry no nfnetlink header.
        let mut payload = body;
        if header.kind >= msg::BATCH_BEGIN {
            let (nfgen, rest) = body.split_at_checked(NFGEN_HEADER).ok_or_else(truncated)?;
            header.family = nfgen[0];
            header.res_id = u16::from_be_bytes([nfgen[2], nfgen[3]]);
            payload = rest;
        }
        Ok(Received { header, payload })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Received<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.split();
        if message.is_err() {
            self.rest = &[];
        }
        Some(message)
    }
}

/// An `NLMSG_ERROR`: a refusal, or with `errno` 0 an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelError {
    /// Sequence number of the message this answers.
    pub seq: u32,
    /// Positive errno, 0 for success.
    pub errno: i32,
    /// The kernel's explanation (extended acknowledgement), when it gave one.
    pub message: Option<String>,
}

impl KernelError {
    /// Reads the payload of an `NLMSG_ERROR` (or of an `NLMSG_DONE`, which has the same start).
    ///
    /// # Errors
    /// When the payload is too short for the error number.
    pub fn decode(message: &Received<'_>) -> Result<Self> {
        let code = message.payload.get(..4).ok_or(DecodeError::Truncated { what: "error code" })?;
        let errno = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]).saturating_neg();
        let mut error = Self { seq: message.header.seq, errno, message: None };
        if message.header.kind == msg::ERROR && message.header.flags & flags::ACK_TLVS != 0 {
            let quoted = message.payload.get(4..).unwrap_or_default();
            let quoted_len = if message.header.flags & flags::CAPPED != 0 {
                NLMSG_HEADER
            } else if quoted.len() >= 4 {
                (u32_at(quoted, 0) as usize).next_multiple_of(4)
            } else {
                return Ok(error);
            };
            for attr in Attrs::new(quoted.get(quoted_len..).unwrap_or_default()).flatten() {
                if attr.kind == NLMSGERR_ATTR_MSG {
                    error.message = Some(attr.string());
                }
            }
        }
        Ok(error)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
