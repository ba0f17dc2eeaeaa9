//! The objects of nf_tables: tables, chains, rules, sets and their elements.

use super::data::{Data, encode_value};
use super::expr::{by_kind, decode_list, encode_list, need};
use super::header::Received;
use super::{Attrs, DecodeError, Expr, Result, Userdata, Verdict, Writer, msg};

const NFTA_LIST_ELEM: u16 = 1;
/// `NFT_DATA_VERDICT`, the data type of verdict maps.
const DATA_VERDICT: u32 = 0xffff_ff00;

/// `NFTNL_UDATA_SET_KEYBYTEORDER` of libnftnl, and its value for strings.
const UDATA_KEY_BYTEORDER: u8 = 0;
const BYTEORDER_HOST: u32 = 1;

/// Family a table belongs to (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6 in one table.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// Hooks of the IP families (`enum nf_inet_hooks`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod hook {
    pub const PREROUTING: u32 = 0;
    pub const INPUT: u32 = 1;
    pub const FORWARD: u32 = 2;
    pub const OUTPUT: u32 = 3;
    pub const POSTROUTING: u32 = 4;
}

/// Flags of sets (`enum nft_set_flags`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod set_flags {
    pub const INTERVAL: u32 = 0x4;
    pub const MAP: u32 = 0x8;
    pub const CONCAT: u32 = 0x80;
}

/// Flags of tables (`enum nft_table_flags`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod table_flags {
    pub const DORMANT: u32 = 0x1;
    /// Only the socket that made it changes it. Linux 5.12.
    pub const OWNER: u32 = 0x2;
    /// An owned table stays when its socket is closed. Linux 6.9.
    pub const PERSIST: u32 = 0x4;
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// See [`table_flags`].
    pub flags: u32,
}

/// Where a chain is called from by the kernel itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseChain {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// See [`hook`].
    pub hook: u32,
    /// Lower runs earlier.
    pub priority: i32,
    /// What happens to packets that reach the end: [`Verdict::Accept`] or [`Verdict::Drop`].
    pub policy: Verdict,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Table it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Hook, for a base chain.
    pub base: Option<BaseChain>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Table it is in.
    pub table: String,
    /// Chain it is in.
    pub chain: String,
    /// The kernel's number for it; 0 in a rule to be added.
    pub handle: u64,
    /// What it does.
    pub expressions: Vec<Expr>,
    /// Who it is.
    pub userdata: Userdata,
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
            Self::Icmp6Type => 29,
            Self::IfName => 41,
        }
    }

    /// Length of a value, bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Ipv4 => 4,
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

/// Generation of the whole ruleset of a network namespace; every commit by anyone changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub u32);

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is its type")]
pub enum Object {
    Table(Table),
    Chain(Chain),
    Rule(Rule),
    Set(Set),
    Elements(Elements),
    Generation(Generation),
    /// An nf_tables object not modelled here (flow table, stateful object).
    Other(u16),
}

impl Object {
    /// Reads an nf_tables message.
    ///
    /// # Errors
    /// When an attribute is malformed or one that the object needs is absent.
    pub fn decode(message: &Received<'_>) -> Result<Self> {
        let attrs = message.attrs();
        Ok(match message.header.kind {
            msg::NEW_TABLE | msg::DEL_TABLE => Self::Table(Table::decode(attrs)?),
            msg::NEW_CHAIN | msg::DEL_CHAIN => Self::Chain(Chain::decode(attrs)?),
            msg::NEW_RULE | msg::DEL_RULE => Self::Rule(Rule::decode(attrs)?),
            msg::NEW_SET | msg::DEL_SET => Self::Set(Set::decode(attrs)?),
            msg::NEW_SET_ELEM | msg::DEL_SET_ELEM => Self::Elements(Elements::decode(attrs)?),
            msg::NEW_GEN => Self::Generation(Generation::decode(attrs)?),
            other => Self::Other(other),
        })
    }
}

impl Table {
    /// Writes the attributes.
    pub fn encode(&self, w: &mut Writer) {
        w.string(1, &self.name);
        w.u32(2, self.flags);
    }

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, name, flags] = by_kind::<3>(attrs)?;
        Ok(Self {
            name: need(name, "table name")?.string(),
            flags: flags.map(|attr| attr.u32()).transpose()?.unwrap_or(0),
        })
    }
}

impl Chain {
    /// Writes the attributes.
    pub fn encode(&self, w: &mut Writer) {
        w.string(1, &self.table);
        w.string(3, &self.name);
        if let Some(base) = &self.base {
            w.nested(4, |w| {
                w.u32(1, base.hook);
                w.u32(2, base.priority.cast_unsigned());
            });
            w.u32(5, base.policy.code().cast_unsigned());
            w.string(7, &base.kind);
        }
    }

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, table, _, name, hook, policy, _, kind] = by_kind::<8>(attrs)?;
        let base = hook
            .map(|hook| {
                let [_, number, priority] = by_kind::<3>(hook.nested())?;
                let policy = policy.map_or(Ok(1), |attr| attr.u32())?.cast_signed();
                Ok(BaseChain {
                    kind: kind.map(|attr| attr.string()).unwrap_or_default(),
                    hook: need(number, "hook number")?.u32()?,
                    priority: need(priority, "hook priority")?.u32()?.cast_signed(),
                    policy: Verdict::from_code(policy, None)?,
                })
            })
            .transpose()?;
        Ok(Self {
            table: need(table, "table of a chain")?.string(),
            name: need(name, "chain name")?.string(),
            base,
        })
    }
}

impl Rule {
    /// Writes the attributes; the handle only when it is not 0.
    pub fn encode(&self, w: &mut Writer) {
        encode_rule(w, &self.table, &self.chain, &self.expressions, &self.userdata);
        if self.handle != 0 {
            w.u64(3, self.handle);
        }
    }

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, table, chain, handle, expressions, _, _, userdata] = by_kind::<8>(attrs)?;
        Ok(Self {
            table: need(table, "table of a rule")?.string(),
            chain: need(chain, "chain of a rule")?.string(),
            handle: handle.map_or(Ok(0), |attr| attr.u64())?,
            expressions: expressions.map(decode_list).transpose()?.unwrap_or_default(),
            userdata: userdata.map(|attr| Userdata::decode(attr.payload)).unwrap_or_default(),
        })
    }
}

/// Writes the attributes of a rule to be added.
pub(crate) fn encode_rule(
    w: &mut Writer,
    table: &str,
    chain: &str,
    expressions: &[Expr],
    userdata: &Userdata,
) {
    w.string(1, table);
    w.string(2, chain);
    encode_list(w, 4, expressions);
    let userdata = userdata.encode();
    if !userdata.is_empty() {
        w.attr(7, &userdata);
    }
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
        if concatenated && self.interval {
            w.nested(9, |w| {
                w.nested(2, |w| {
                    for field in &self.key {
                        let len = field.size().next_multiple_of(4);
                        w.nested(NFTA_LIST_ELEM, |w| {
                            w.u32(1, u32::try_from(len).unwrap_or(u32::MAX));
                        });
                    }
                });
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

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, table, name, flags, key_type, _len, data_type] = by_kind::<7>(attrs)?;
        let flags = flags.map_or(Ok(0), |attr| attr.u32())?;
        // Sets that time out, belong to one rule or hold objects are not modelled.
        if flags & !(set_flags::INTERVAL | set_flags::MAP | set_flags::CONCAT) != 0 {
            return Err(DecodeError::Invalid { what: "set flags" });
        }
        let data_type = data_type.map(|attr| attr.u32()).transpose()?;
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

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
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

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
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

impl Generation {
    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, id] = by_kind::<2>(attrs)?;
        Ok(Self(need(id, "generation")?.u32()?))
    }
}
