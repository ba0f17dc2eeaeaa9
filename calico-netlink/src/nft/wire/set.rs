//! Sets and their elements.

use super::data::{Data, encode_value};
use super::expr_decode::{by_kind, need};
use super::{Attrs, DecodeError, Result, Verdict, Writer};

const NFTA_LIST_ELEM: u16 = 1;
/// `NFT_DATA_VERDICT`, the data type of verdict maps.
const DATA_VERDICT: u32 = 0xffff_ff00;

/// `NFTNL_UDATA_SET_KEYBYTEORDER` of libnftnl, and its value for strings.
const UDATA_KEY_BYTEORDER: u8 = 0;
const BYTEORDER_HOST: u32 = 1;

/// Flags of sets (`enum nft_set_flags`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod set_flags {
    pub const INTERVAL: u32 = 0x4;
    pub const MAP: u32 = 0x8;
    pub const CONCAT: u32 = 0x80;
}

/// Type of a set's key, as `nft` knows it, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// IPv4 address.
    Ipv4,
    /// IPv6 address.
    Ipv6,
    /// Transport protocol number.
    Proto,
    /// Port.
    Service,
    /// Interface name.
    IfName,
    /// Interface number, in host order.
    IfIndex,
    /// ICMP type.
    IcmpType,
    /// ICMPv6 type.
    Icmp6Type,
}

impl KeyType {
    /// Number of the type in `nft` (informational for the kernel).
    pub fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Proto => 12,
            Self::Service => 13,
            Self::IcmpType => 14,
            Self::IfIndex => 20,
            Self::Icmp6Type => 29,
            Self::IfName => 41,
        }
    }

    /// Length of a value, bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Ipv4 | Self::IfIndex => 4,
            Self::Ipv6 | Self::IfName => 16,
            Self::Proto | Self::IcmpType | Self::Icmp6Type => 1,
            Self::Service => 2,
        }
    }

    fn from_number(number: u32) -> Result<Self> {
        [
            Self::Ipv4,
            Self::Ipv6,
            Self::Proto,
            Self::Service,
            Self::IfName,
            Self::IfIndex,
            Self::IcmpType,
            Self::Icmp6Type,
        ]
        .into_iter()
        .find(|kind| kind.number() == number)
        .ok_or(DecodeError::Invalid { what: "set key type" })
    }
}

/// A set, without its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Table it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Fields of the key: one, or several concatenated. Each is padded to four bytes in a
    /// concatenation.
    pub key: Vec<KeyType>,
    /// Whether elements are ranges.
    pub interval: bool,
    /// Whether it maps keys to verdicts.
    pub verdict_map: bool,
    /// How many elements it may have, for which the kernel then makes room at once
    /// (`NFTA_SET_DESC_SIZE`); absent: as many as come, for which it grows.
    pub size: Option<u32>,
}

/// One element of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key; first key of the range in an interval set.
    pub key: Vec<u8>,
    /// Last key of the range, in an interval set with concatenated keys.
    pub key_end: Option<Vec<u8>>,
    /// In an interval set with a simple key: this key is the first one *after* a range.
    pub interval_end: bool,
    /// What a verdict map answers.
    pub verdict: Option<Verdict>,
}

/// Elements of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elements {
    /// Table of the set.
    pub table: String,
    /// The set.
    pub set: String,
    /// Its elements, or some of them.
    pub elements: Vec<Element>,
}

impl Set {
    /// Length of a key, bytes.
    pub fn key_len(&self) -> usize {
        match self.key.as_slice() {
            [single] => single.size(),
            fields => fields.iter().map(|field| field.size().next_multiple_of(4)).sum(),
        }
    }

    /// Writes the attributes. `id` names the set within the transaction, which the kernel
    /// requires even though names do as well.
    pub fn encode(&self, w: &mut Writer, id: u32) {
        let concatenated = self.key.len() > 1;
        let mut flags = 0;
        flags |= if self.interval { set_flags::INTERVAL } else { 0 };
        flags |= if self.verdict_map { set_flags::MAP } else { 0 };
        flags |= if concatenated && self.interval { set_flags::CONCAT } else { 0 };
        w.string(1, &self.table);
        w.string(2, &self.name);
        w.u32(3, flags);
        // nft numbers a concatenation with six bits for each field.
        w.u32(4, self.key.iter().fold(0, |number, field| number << 6 | field.number()));
        w.u32(5, u32::try_from(self.key_len()).unwrap_or(u32::MAX));
        if self.verdict_map {
            w.u32(6, DATA_VERDICT);
            w.u32(7, 0);
        }
        let ranges_of_fields = concatenated && self.interval;
        if ranges_of_fields || self.size.is_some() {
            w.nested(9, |w| {
                if let Some(size) = self.size {
                    w.u32(1, size);
                }
                if ranges_of_fields {
                    w.nested(2, |w| {
                        for field in &self.key {
                            let len = field.size().next_multiple_of(4);
                            w.nested(NFTA_LIST_ELEM, |w| {
                                w.u32(1, u32::try_from(len).unwrap_or(u32::MAX));
                            });
                        }
                    });
                }
            });
        }
        w.u32(10, id);
        if self.key == [KeyType::IfName] {
            // Without this nft shows the names as empty; the kernel does not care.
            let mut userdata = vec![UDATA_KEY_BYTEORDER, 4];
            userdata.extend_from_slice(&BYTEORDER_HOST.to_ne_bytes());
            w.attr(13, &userdata);
        }
    }

    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, table, name, flags, key_type, _len, data_type, _, _, desc] = by_kind::<10>(attrs)?;
        let flags = flags.map_or(Ok(0), |attr| attr.u32())?;
        // Sets that time out, belong to one rule or hold objects are not modelled.
        if flags & !(set_flags::INTERVAL | set_flags::MAP | set_flags::CONCAT) != 0 {
            return Err(DecodeError::Invalid { what: "set flags" });
        }
        let data_type = data_type.map(|attr| attr.u32()).transpose()?;
        let size = match desc {
            Some(desc) => by_kind::<2>(desc.nested())?[1].map(|attr| attr.u32()).transpose()?,
            None => None,
        };
        let mut number = need(key_type, "set key type")?.u32()?;
        let mut key = Vec::new();
        while number != 0 {
            key.insert(0, KeyType::from_number(number & 0x3f)?);
            number >>= 6;
        }
        Ok(Self {
            table: need(table, "table of a set")?.string(),
            name: need(name, "set name")?.string(),
            key,
            interval: flags & set_flags::INTERVAL != 0,
            verdict_map: flags & set_flags::MAP != 0 && data_type == Some(DATA_VERDICT),
            size,
        })
    }
}

impl Element {
    /// A plain element.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), key_end: None, interval_end: false, verdict: None }
    }

    /// Writes the element as one element of a list.
    pub fn encode(&self, w: &mut Writer) {
        w.nested(NFTA_LIST_ELEM, |w| {
            encode_value(w, 1, &self.key);
            if let Some(verdict) = &self.verdict {
                verdict.encode(w, 2);
            }
            if self.interval_end {
                w.u32(3, 1);
            }
            if let Some(end) = &self.key_end {
                encode_value(w, 10, end);
            }
        });
    }

    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let attrs = by_kind::<11>(attrs)?;
        let verdict = match attrs[2].map(|attr| Data::decode(attr.nested())).transpose()? {
            Some(Data::Verdict(verdict)) => Some(verdict),
            _ => None,
        };
        Ok(Self {
            key: Data::decode(need(attrs[1], "element key")?.nested())?.value()?,
            key_end: attrs[10].map(|attr| Data::decode(attr.nested())?.value()).transpose()?,
            interval_end: attrs[3].map_or(Ok(0), |attr| attr.u32())? & 1 != 0,
            verdict,
        })
    }
}

impl Elements {
    /// Writes the attributes.
    pub fn encode(&self, w: &mut Writer) {
        encode_elements(w, &self.table, &self.set, &self.elements);
    }

    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, table, set, elements] = by_kind::<4>(attrs)?;
        let elements = match elements {
            None => Vec::new(),
            Some(list) => list
                .nested()
                .map(|attr| Element::decode(attr?.nested()))
                .collect::<Result<Vec<_>>>()?,
        };
        Ok(Self {
            table: need(table, "table of elements")?.string(),
            set: need(set, "set of elements")?.string(),
            elements,
        })
    }
}

/// Writes elements of a set.
pub(crate) fn encode_elements(w: &mut Writer, table: &str, set: &str, elements: &[Element]) {
    w.string(1, table);
    w.string(2, set);
    w.nested(3, |w| elements.iter().for_each(|element| element.encode(w)));
}
