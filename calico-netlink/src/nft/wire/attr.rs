//! Netlink attributes: a type-length-value list, padded to four bytes, possibly nested.

use super::{DecodeError, Header, Result};

/// `NLA_F_NESTED`: the payload is a list of attributes.
const NESTED: u16 = 0x8000;
/// Clears `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` from a type.
const TYPE_MASK: u16 = 0x3fff;
/// Length of an attribute's own header.
const ATTR_HEADER: usize = 4;

/// Writes messages and their attributes into one growing buffer.
///
/// A length that does not fit its field (64 KiB for an attribute) does not panic: it is
/// remembered and [`Writer::overflowed`] tells.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    buf: Vec<u8>,
    overflow: bool,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Length of what was written so far, in bytes.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// True when nothing was written.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// True when some attribute was longer than its 16-bit length can say; what was written is
    /// then not to be sent.
    pub fn overflowed(&self) -> bool {
        self.overflow
    }

    /// Writes one message: netlink header, nfnetlink header, then what `body` writes.
    pub fn message(&mut self, header: Header, body: impl FnOnce(&mut Self)) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&header.kind.to_ne_bytes());
        self.buf.extend_from_slice(&header.flags.to_ne_bytes());
        self.buf.extend_from_slice(&header.seq.to_ne_bytes());
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.push(header.family);
        self.buf.push(0);
        self.buf.extend_from_slice(&header.res_id.to_be_bytes());
        body(self);
        let len = self.buf.len() - start;
        match u32::try_from(len) {
            Ok(len) => self.buf[start..start + 4].copy_from_slice(&len.to_ne_bytes()),
            Err(_too_long) => self.overflow = true,
        }
    }

    /// A binary attribute.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) {
        let len = ATTR_HEADER + payload.len();
        self.attr_header(kind, len);
        self.buf.extend_from_slice(payload);
        self.pad();
    }

    /// A nested attribute holding what `body` writes.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.buf.len();
        self.attr_header(kind | NESTED, ATTR_HEADER);
        body(self);
        match u16::try_from(self.buf.len() - start) {
            Ok(len) => self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_too_long) => self.overflow = true,
        }
    }

    /// A NUL-terminated string.
    pub fn string(&mut self, kind: u16, value: &str) {
        self.attr_header(kind, ATTR_HEADER + value.len() + 1);
        self.buf.extend_from_slice(value.as_bytes());
        self.buf.push(0);
        self.pad();
    }

    /// A 16-bit number, big endian.
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A 32-bit number, big endian.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A 64-bit number, big endian.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    fn attr_header(&mut self, kind: u16, len: usize) {
        let len = u16::try_from(len).unwrap_or_else(|_too_long| {
            self.overflow = true;
            u16::MAX
        });
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.buf.len().is_multiple_of(4) {
            self.buf.push(0);
        }
    }
}

/// Adds flags to the message that starts here.
pub(crate) fn add_flags(message: &mut [u8], flags: u16) {
    if let Some(field) = message.get_mut(6..8) {
        let old = u16::from_ne_bytes([field[0], field[1]]);
        field.copy_from_slice(&(old | flags).to_ne_bytes());
    }
}

/// One attribute of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    /// Attribute type without the nesting flags.
    pub kind: u16,
    /// The value.
    pub payload: &'a [u8],
}

impl<'a> Attr<'a> {
    /// The attributes inside this one.
    pub fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.payload)
    }

    /// Reads a string, with or without its NUL; a name the kernel holds need not be UTF-8, so
    /// what is not becomes U+FFFD.
    pub fn string(&self) -> String {
        let end = self.payload.iter().position(|b| *b == 0).unwrap_or(self.payload.len());
        String::from_utf8_lossy(&self.payload[..end]).into_owned()
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// When the payload is not one byte long.
    pub fn u8(&self) -> Result<u8> {
        self.array::<1>().map(|b| b[0])
    }

    /// Reads a 16-bit number, big endian.
    ///
    /// # Errors
    /// When the payload is not two bytes long.
    pub fn u16(&self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Reads a 32-bit number, big endian.
    ///
    /// # Errors
    /// When the payload is not four bytes long.
    pub fn u32(&self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a 64-bit number, big endian.
    ///
    /// # Errors
    /// When the payload is not eight bytes long.
    pub fn u64(&self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&self) -> Result<[u8; N]> {
        self.payload.try_into().map_err(|_size| DecodeError::Invalid { what: "attribute length" })
    }
}

/// Walks a list of attributes; ends after the first malformed one, which it yields as an error.
#[derive(Debug, Clone)]
pub struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let head = self.rest.get(..ATTR_HEADER);
        let len = head.map_or(0, |h| usize::from(u16::from_ne_bytes([h[0], h[1]])));
        let (Some(head), Some(payload)) = (head, self.rest.get(ATTR_HEADER..len)) else {
            self.rest = &[];
            return Some(Err(DecodeError::Truncated { what: "attribute" }));
        };
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Attr { kind, payload }))
    }
}
