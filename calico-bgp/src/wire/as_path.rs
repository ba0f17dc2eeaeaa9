//! AS_PATH, in two and in four octets per AS number (RFC 4271, section 4.3; RFC 6793).

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::reader::Reader;

/// The AS number that stands for any that does not fit two octets (RFC 6793).
pub const AS_TRANS: u16 = 23456;

/// What the AS numbers of a segment mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Unordered (1).
    Set,
    /// Ordered, nearest AS first (2).
    Sequence,
    /// Ordered, inside a confederation (3, RFC 5065).
    ConfedSequence,
    /// Unordered, inside a confederation (4, RFC 5065).
    ConfedSet,
}

impl SegmentKind {
    const fn value(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfedSequence => 3,
            Self::ConfedSet => 4,
        }
    }

    const fn from_value(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Set),
            2 => Some(Self::Sequence),
            3 => Some(Self::ConfedSequence),
            4 => Some(Self::ConfedSet),
            _ => None,
        }
    }
}

/// One segment of an AS path: 1 to 255 AS numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AsPathSegment {
    /// How to read the numbers.
    pub kind: SegmentKind,
    /// The AS numbers.
    pub asns: Vec<u32>,
}

/// The ASes that a route came through, nearest first.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct AsPath {
    segments: Segments,
}

/// Nearly all paths have one segment, which then needs no list.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
enum Segments {
    #[default]
    None,
    One(AsPathSegment),
    /// Two and more.
    Many(Vec<AsPathSegment>),
}

impl Segments {
    fn push(&mut self, segment: AsPathSegment) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(segment),
            Self::One(first) => Self::Many(vec![first, segment]),
            Self::Many(mut segments) => {
                segments.push(segment);
                Self::Many(segments)
            }
        }
    }

    fn as_slice(&self) -> &[AsPathSegment] {
        match self {
            Self::None => &[],
            Self::One(segment) => std::slice::from_ref(segment),
            Self::Many(segments) => segments,
        }
    }

    fn into_vec(self) -> Vec<AsPathSegment> {
        match self {
            Self::None => Vec::new(),
            Self::One(segment) => vec![segment],
            Self::Many(segments) => segments,
        }
    }
}

impl FromIterator<AsPathSegment> for Segments {
    fn from_iter<I: IntoIterator<Item = AsPathSegment>>(segments: I) -> Self {
        let mut all = Self::None;
        segments.into_iter().for_each(|segment| all.push(segment));
        all
    }
}

impl AsPath {
    /// The empty path of a route that starts in this AS.
    pub const fn empty() -> Self {
        Self { segments: Segments::None }
    }

    /// A path of one sequence, nearest AS first.
    pub fn sequence(asns: impl IntoIterator<Item = u32>) -> Self {
        Self::from_segments([AsPathSegment {
            kind: SegmentKind::Sequence,
            asns: asns.into_iter().collect(),
        }])
    }

    /// A path of several segments. Empty ones are left out, long ones are cut into pieces of
    /// 255, because the wire has no other form for them.
    pub fn from_segments(segments: impl IntoIterator<Item = AsPathSegment>) -> Self {
        let mut all = Segments::None;
        for segment in segments {
            for piece in segment.asns.chunks(255) {
                all.push(AsPathSegment { kind: segment.kind, asns: piece.to_vec() });
            }
        }
        Self { segments: all }
    }

    /// The segments, nearest first.
    pub fn segments(&self) -> &[AsPathSegment] {
        self.segments.as_slice()
    }

    /// Length as the best path selection counts it: a set counts one (RFC 4271, section
    /// 9.1.2.2), confederation segments count nothing (RFC 5065, section 5.3).
    pub fn hop_count(&self) -> usize {
        let count = |s: &AsPathSegment| match s.kind {
            SegmentKind::Sequence => s.asns.len(),
            SegmentKind::Set => 1,
            SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
        };
        self.segments().iter().map(count).sum()
    }

    /// How often an AS number appears.
    pub fn count(&self, asn: u32) -> usize {
        self.segments().iter().flat_map(|s| &s.asns).filter(|a| **a == asn).count()
    }

    /// The AS that sent us the route, if the path starts with a sequence.
    pub fn neighbor(&self) -> Option<u32> {
        let first = self
            .segments()
            .iter()
            .find(|s| matches!(s.kind, SegmentKind::Sequence | SegmentKind::Set))?;
        (first.kind == SegmentKind::Sequence).then(|| first.asns.first().copied()).flatten()
    }

    /// The AS that originated the route, if the path ends with a sequence.
    pub fn origin(&self) -> Option<u32> {
        let last = self.segments().last()?;
        (last.kind == SegmentKind::Sequence).then(|| last.asns.last().copied()).flatten()
    }

    /// The path with an AS number put in front `times` times (RFC 4271, section 5.1.2).
    pub fn prepend(&self, asn: u32, times: usize) -> Self {
        let mut segments = self.segments.clone().into_vec();
        for _ in 0..times {
            match segments.first_mut() {
                Some(s) if s.kind == SegmentKind::Sequence && s.asns.len() < 255 => {
                    s.asns.insert(0, asn);
                }
                _ => segments
                    .insert(0, AsPathSegment { kind: SegmentKind::Sequence, asns: vec![asn] }),
            }
        }
        Self { segments: segments.into_iter().collect() }
    }

    /// Whether an AS number needs four octets.
    pub(super) fn needs_four_octets(&self) -> bool {
        self.segments().iter().flat_map(|s| &s.asns).any(|a| *a > 0xFFFF)
    }

    /// The path for AS4_PATH: without confederation segments (RFC 6793, section 3).
    pub(super) fn without_confederation(&self) -> Self {
        let keep = |s: &&AsPathSegment| matches!(s.kind, SegmentKind::Sequence | SegmentKind::Set);
        Self { segments: self.segments().iter().filter(keep).cloned().collect() }
    }

    /// Reads the attribute's value; `None` if it is malformed (RFC 7606, section 7.2).
    #[inline]
    pub(super) fn decode(value: &[u8], four_octet: bool) -> Option<Self> {
        let mut reader = Reader::new(value);
        if reader.is_empty() {
            return Some(Self::empty());
        }
        let first = Self::decode_segment(&mut reader, four_octet)?;
        let mut segments = Segments::One(first);
        while !reader.is_empty() {
            segments.push(Self::decode_segment(&mut reader, four_octet)?);
        }
        Some(Self { segments })
    }

    #[inline]
    fn decode_segment(reader: &mut Reader<'_>, four_octet: bool) -> Option<AsPathSegment> {
        let kind = SegmentKind::from_value(reader.u8()?)?;
        let count = usize::from(reader.u8()?);
        if count == 0 {
            return None;
        }
        let octets = reader.take(count * if four_octet { 4 } else { 2 })?;
        let asns: Vec<u32> = if four_octet {
            octets.as_chunks::<4>().0.iter().map(|c| u32::from_be_bytes(*c)).collect()
        } else {
            octets.as_chunks::<2>().0.iter().map(|c| u16::from_be_bytes(*c).into()).collect()
        };
        // RFC 7607, section 2: no AS has the number 0.
        (!asns.contains(&0)).then_some(AsPathSegment { kind, asns })
    }

    /// Whether any segment belongs to a confederation (RFC 5065).
    pub(super) fn has_confederation(&self) -> bool {
        let inside = |s: &AsPathSegment| {
            matches!(s.kind, SegmentKind::ConfedSequence | SegmentKind::ConfedSet)
        };
        self.segments().iter().any(inside)
    }

    pub(super) fn encode(&self, four_octet: bool, out: &mut BytesMut) {
        for segment in self.segments() {
            out.put_u8(segment.kind.value());
            // At most 255 by construction.
            out.put_u8(segment.asns.len() as u8);
            for asn in &segment.asns {
                if four_octet {
                    out.put_u32(*asn);
                } else {
                    out.put_u16(u16::try_from(*asn).unwrap_or(AS_TRANS));
                }
            }
        }
    }

    /// Puts AS_PATH and AS4_PATH of an old speaker together (RFC 6793, section 4.2.3): the
    /// leading ASes that AS4_PATH does not cover come from AS_PATH.
    pub(super) fn merge_as4(self, as4: Self) -> Self {
        let (ours, theirs) = (self.hop_count(), as4.hop_count());
        if ours < theirs {
            return self;
        }
        let mut missing = ours - theirs;
        let mut segments = Vec::new();
        for segment in self.segments.into_vec() {
            let hops = match segment.kind {
                SegmentKind::Sequence => segment.asns.len(),
                SegmentKind::Set => 1,
                // Confederation segments at the front belong to the part that is kept.
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            };
            if hops > 0 && missing == 0 {
                break;
            }
            if segment.kind == SegmentKind::Sequence && hops > missing {
                let asns = segment.asns[..missing].to_vec();
                segments.push(AsPathSegment { kind: segment.kind, asns });
                break;
            }
            missing -= hops;
            segments.push(segment);
        }
        // Joining the two at the seam keeps the merged path in the form its origin sent.
        let mut as4 = as4.segments.into_vec().into_iter();
        if let Some(seam) = as4.next() {
            match segments.last_mut() {
                Some(last)
                    if last.kind == SegmentKind::Sequence
                        && seam.kind == SegmentKind::Sequence
                        && last.asns.len() + seam.asns.len() <= 255 =>
                {
                    last.asns.extend(seam.asns);
                }
                _ => segments.push(seam),
            }
        }
        segments.extend(as4);
        Self { segments: segments.into_iter().collect() }
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.segments().iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            let (open, separator, close) = match segment.kind {
                SegmentKind::Sequence => ("", " ", ""),
                SegmentKind::Set => ("{", ",", "}"),
                SegmentKind::ConfedSequence => ("(", " ", ")"),
                SegmentKind::ConfedSet => ("[", ",", "]"),
            };
            f.write_str(open)?;
            for (j, asn) in segment.asns.iter().enumerate() {
                if j > 0 {
                    f.write_str(separator)?;
                }
                write!(f, "{asn}")?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_merge(as_path: AsPath, as4: AsPath, expected: &str) {
        assert_eq!(as_path.merge_as4(as4).to_string(), expected);
    }

    #[test]
    fn merge_takes_the_uncovered_front_from_as_path() {
        check_merge(
            AsPath::sequence([100, 23456, 23456]),
            AsPath::sequence([70000, 80000]),
            "100 70000 80000",
        );
        check_merge(AsPath::sequence([23456]), AsPath::sequence([70000]), "70000");
        // AS4_PATH longer than AS_PATH: it is ignored.
        check_merge(AsPath::sequence([1]), AsPath::sequence([70000, 80000]), "1");
        check_merge(AsPath::sequence([1, 2]), AsPath::empty(), "1 2");
    }

    #[test]
    fn hop_count_and_prepend() {
        let path = AsPath::from_segments([
            AsPathSegment { kind: SegmentKind::Sequence, asns: vec![1, 2] },
            AsPathSegment { kind: SegmentKind::Set, asns: vec![3, 4, 5] },
        ]);
        assert_eq!(path.hop_count(), 3);
        assert_eq!(path.prepend(9, 2).to_string(), "9 9 1 2 {3,4,5}");
        assert_eq!(path.prepend(9, 1).neighbor(), Some(9));
        assert_eq!(AsPath::empty().prepend(7, 1).to_string(), "7");
        let full = AsPath::sequence(std::iter::repeat_n(1, 255)).prepend(2, 1);
        assert_eq!(full.segments().len(), 2);
        assert_eq!(full.hop_count(), 256);
    }
}
