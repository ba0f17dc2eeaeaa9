//! A cursor over a received slice: every read is bounded by what is there.

use bytes::{Buf, Bytes};

/// Reads big-endian values off the front of a buffer; `None` means "not that many bytes left".
#[derive(Debug)]
pub(super) struct Reader {
    bytes: Bytes,
}

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes.has_remaining().then(|| self.bytes.get_u8())
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        (self.bytes.len() >= 2).then(|| self.bytes.get_u16())
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        (self.bytes.len() >= 4).then(|| self.bytes.get_u32())
    }

    /// The next `n` bytes, sharing the buffer.
    pub(super) fn take(&mut self, n: usize) -> Option<Bytes> {
        (self.bytes.len() >= n).then(|| self.bytes.split_to(n))
    }

    /// The next byte, left where it is.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    /// Everything left.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }
}
