//! Bytes of the log file. All numbers are little endian.
//!
//! ```text
//! file    header, frame*
//! header  "CALICODB", version u32, base u64, count u64, crc32 u32 (of what stands before it)
//! frame   length u32 (of what follows the checksum), crc32 u32 (of length and what follows it),
//!         synced u64, change+
//! change  revision u64, tag u8 (0 gone, 1 put), path u16 + UTF-8, and for put: value u32 + UTF-8
//! ```
//!
//! The first `count` changes are a snapshot as of revision `base`, in order of revision; they were
//! on disk before the file got its name. Each later change has the revision after the one before
//! it. `synced` is an offset: when the frame was written, all before that offset was on disk.

use std::ops::Range;

/// Longest value in bytes. Upstream's stores take about 1.5 MB.
pub const MAX_VALUE: usize = 2 << 20;

/// Longest path of a key in bytes.
pub const MAX_PATH: usize = 4096;

/// A frame is closed once it is this long, in bytes.
const FRAME_TARGET: usize = 4 << 20;

/// Longest frame in bytes, without length and checksum.
pub(super) const MAX_FRAME: usize = FRAME_TARGET + MAX_VALUE + MAX_PATH + 64;

pub(super) const MAGIC: [u8; 8] = *b"CALICODB";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 32;

/// Length and checksum of a frame.
const PREFIX: usize = 8;
/// `synced`, and the shortest change.
const SHORTEST: usize = 8 + 8 + 1 + 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Revision of the snapshot.
    pub(super) base: u64,
    /// Changes that make up the snapshot.
    pub(super) count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Too short, or other first bytes.
    NotAStore,
    /// Ours, with a wrong checksum.
    Damaged,
    /// Of a version that this program does not know.
    Version(u32),
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.base.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.count.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let mut reader = Reader(bytes);
        if reader.take(8) != Some(&MAGIC) {
            return Err(BadHeader::NotAStore);
        }
        let version = reader.u32().ok_or(BadHeader::Damaged)?;
        let base = reader.u64().ok_or(BadHeader::Damaged)?;
        let count = reader.u64().ok_or(BadHeader::Damaged)?;
        let crc = reader.u32().ok_or(BadHeader::Damaged)?;
        if crc != crc32fast::hash(&bytes[..28]) {
            return Err(BadHeader::Damaged);
        }
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        Ok(Self { base, count })
    }
}

/// One change as it stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) path: &'a str,
    /// `None` means deleted.
    pub(super) value: Option<&'a str>,
    pub(super) revision: u64,
}

/// Appends `records` to `out` as frames. `synced` as in the [module](self).
pub(super) fn encode<'a>(
    records: impl IntoIterator<Item = Record<'a>>,
    synced: u64,
    out: &mut Vec<u8>,
) {
    let mut start = None;
    for record in records {
        let at = *start.get_or_insert_with(|| {
            let at = out.len();
            out.extend_from_slice(&[0; PREFIX]);
            out.extend_from_slice(&synced.to_le_bytes());
            at
        });
        encode_record(record, out);
        if out.len() - at >= FRAME_TARGET {
            seal(&mut out[at..]);
            start = None;
        }
    }
    if let Some(at) = start {
        seal(&mut out[at..]);
    }
}

fn encode_record(record: Record<'_>, out: &mut Vec<u8>) {
    debug_assert!(record.path.len() <= MAX_PATH, "the writer refuses longer ones");
    out.extend_from_slice(&record.revision.to_le_bytes());
    out.push(u8::from(record.value.is_some()));
    out.extend_from_slice(&(record.path.len() as u16).to_le_bytes());
    out.extend_from_slice(record.path.as_bytes());
    if let Some(value) = record.value {
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
    }
}

fn seal(frame: &mut [u8]) {
    let length = (frame.len() - PREFIX) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(frame);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[PREFIX..]);
    hasher.finalize()
}

/// A frame whose checksum is right.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) synced: u64,
    /// Bytes of the frame, prefix included.
    pub(super) length: usize,
    changes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame at the start of `bytes`.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let range = Self::plausible(bytes)?;
        let frame = &bytes[..range.end];
        let crc = Reader(&frame[4..]).u32()?;
        if crc != checksum(frame) {
            return None;
        }
        let mut reader = Reader(&frame[range]);
        Some(Self { synced: reader.u64()?, length: frame.len(), changes: reader.0 })
    }

    /// The content of the frame at the start of `bytes`, if its length is possible.
    pub(super) fn plausible(bytes: &[u8]) -> Option<Range<usize>> {
        let length = Reader(bytes).u32()? as usize;
        let fits = bytes.len() >= PREFIX + length;
        (fits && (SHORTEST..=MAX_FRAME).contains(&length)).then(|| PREFIX..PREFIX + length)
    }

    /// Its changes; an `Err` ends them.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<Record<'a>, Malformed>> + use<'a> {
        let mut reader = Reader(self.changes);
        std::iter::from_fn(move || {
            if reader.0.is_empty() {
                return None;
            }
            let record = reader.record();
            if record.is_none() {
                reader.0 = &[];
            }
            Some(record.ok_or(Malformed))
        })
    }
}

/// A checksum was right and what it covers makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let revision = self.u64()?;
        let [tag] = self.array()?;
        let length = u16::from_le_bytes(self.array()?);
        let path = self.text(length.into())?;
        let value = match tag {
            0 => None,
            1 => {
                let length = self.u32()? as usize;
                Some(self.text(length)?)
            }
            _ => return None,
        };
        Some(Record { path, value, revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: Record<'_> = Record { path: "/a", value: Some("{}"), revision: 7 };
    const GONE: Record<'_> = Record { path: "/b", value: None, revision: 8 };

    #[test]
    fn frames_and_headers_come_back() {
        let mut bytes = Vec::new();
        encode([PUT, GONE], 32, &mut bytes);
        let frame = Frame::decode(&bytes).unwrap();
        assert_eq!((frame.synced, frame.length), (32, bytes.len()));
        assert_eq!(frame.records().collect::<Vec<_>>(), [Ok(PUT), Ok(GONE)]);

        let header = Header { base: 5, count: 2 };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut bytes = Vec::new();
        encode([PUT, GONE], 32, &mut bytes);
        let header = Header { base: 5, count: 2 }.encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::decode(&flipped).is_none(), "bit {bit}");
        }
        for bit in 0..HEADER * 8 {
            let mut flipped = header;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..length]).is_none());
        }
        for length in 0..HEADER {
            assert!(Header::decode(&header[..length]).is_err());
        }
    }

    #[test]
    fn a_large_batch_becomes_several_frames() {
        let value = "x".repeat(MAX_VALUE);
        let record = Record { path: "/a", value: Some(&value), revision: 1 };
        let mut bytes = Vec::new();
        encode([record; 5], 0, &mut bytes);
        let (mut rest, mut frames, mut records) = (&bytes[..], 0, 0);
        while !rest.is_empty() {
            let frame = Frame::decode(rest).unwrap();
            records += frame.records().filter(Result::is_ok).count();
            frames += 1;
            rest = &rest[frame.length..];
        }
        assert_eq!((frames, records), (3, 5));
    }
}
