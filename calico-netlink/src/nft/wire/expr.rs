//! Expressions: the instructions a rule is made of.

use super::data::{Data, encode_value};
use super::{Attr, Attrs, DecodeError, Reg, Result, Verdict, Writer};

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

/// Declares an enum of kernel numbers that keeps numbers it does not know.
macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
            /// A number this crate has no name for.
            Other(u32),
        }

        impl $name {
            fn number(self) -> u32 {
                match self {
                    $(Self::$item => $number,)*
                    Self::Other(number) => number,
                }
            }

            fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$item,)*
                    other => Self::Other(other),
                }
            }
        }
    };
}

numbers!(
    /// What `meta` reads or sets (`enum nft_meta_keys`).
    MetaKey {
        /// Packet mark, host byte order.
        Mark = 3,
        /// Index of the incoming interface.
        Iif = 4,
        /// Index of the outgoing interface.
        Oif = 5,
        /// Name of the incoming interface, 16 bytes, NUL padded.
        IifName = 6,
        /// Name of the outgoing interface, 16 bytes, NUL padded.
        OifName = 7,
        /// Network protocol (`NFPROTO_IPV4` 2, `NFPROTO_IPV6` 10), one byte.
        NfProto = 15,
        /// Transport protocol, one byte.
        L4Proto = 16,
    }
);

numbers!(
    /// Where `payload` reads (`enum nft_payload_bases`).
    PayloadBase {
        /// Link layer header.
        Link = 0,
        /// Network header.
        Network = 1,
        /// Transport header.
        Transport = 2,
    }
);

numbers!(
    /// Comparison (`enum nft_cmp_ops`).
    CmpOp {
        /// Equal.
        Eq = 0,
        /// Not equal.
        Neq = 1,
        /// Less.
        Lt = 2,
        /// Less or equal.
        Lte = 3,
        /// Greater.
        Gt = 4,
        /// Greater or equal.
        Gte = 5,
    }
);

numbers!(
    /// What `ct` reads (`enum nft_ct_keys`).
    CtKey {
        /// State bit mask, host byte order: invalid 1, established 2, related 4, new 8,
        /// untracked 64.
        State = 0,
        /// Status bit mask (`IPS_*`), host byte order.
        Status = 2,
        /// Connection mark, host byte order.
        Mark = 3,
    }
);

numbers!(
    /// How `reject` answers (`enum nft_reject_types`).
    RejectKind {
        /// ICMP or ICMPv6 unreachable, the code being of that family.
        Icmp = 0,
        /// TCP reset.
        TcpReset = 1,
        /// Unreachable for either family (`enum nft_reject_inet_code`).
        Icmpx = 2,
    }
);

numbers!(
    /// Direction of address translation (`enum nft_nat_types`).
    NatKind {
        /// Source.
        Snat = 0,
        /// Destination.
        Dnat = 1,
    }
);

/// Flags and results of `fib`.
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod fib {
    pub const RESULT_OIF: u32 = 1;
    /// The kind of the address: `RTN_UNICAST` 1, `RTN_LOCAL` 2, host byte order.
    pub const RESULT_TYPE: u32 = 3;
    pub const SADDR: u32 = 1;
    pub const DADDR: u32 = 2;
    pub const MARK: u32 = 4;
    pub const IIF: u32 = 8;
    pub const OIF: u32 = 16;
    /// The result is whether there is one.
    pub const PRESENT: u32 = 32;
}

/// Flags of translations (`NF_NAT_RANGE_*`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod nat {
    pub const MAP_IPS: u32 = 1;
    pub const PROTO_SPECIFIED: u32 = 2;
    pub const RANDOM: u32 = 4;
    pub const PERSISTENT: u32 = 8;
    pub const FULLY_RANDOM: u32 = 16;
}

/// Checksums that [`Expr::PayloadSet`] mends (`enum nft_payload_csum_types`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod checksum {
    pub const NONE: u32 = 0;
    /// The internet checksum (RFC 791).
    pub const INET: u32 = 1;
}

/// One expression of a rule. Expressions run in order; the first that does not match ends the
/// rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "operand names are those of the kernel header")]
#[non_exhaustive]
pub enum Expr {
    /// Loads packet metadata.
    Meta { key: MetaKey, dreg: Reg },
    /// Sets packet metadata.
    MetaSet { key: MetaKey, sreg: Reg },
    /// Matches when the register compares so with the value.
    Cmp { sreg: Reg, op: CmpOp, value: Vec<u8> },
    /// Loads packet bytes.
    Payload { base: PayloadBase, offset: u32, len: u32, dreg: Reg },
    /// Writes packet bytes, and mends the header's checksum if it is of this kind at this offset;
    /// see [`checksum`].
    PayloadSet {
        base: PayloadBase,
        offset: u32,
        len: u32,
        sreg: Reg,
        checksum: u32,
        checksum_offset: u32,
    },
    /// `dreg = (sreg & mask) ^ xor`; both operands have the length of the value.
    Bitwise { sreg: Reg, dreg: Reg, mask: Vec<u8>, xor: Vec<u8> },
    /// Matches when the register lies in `from..=to`, or outside when `negated`.
    Range { sreg: Reg, negated: bool, from: Vec<u8>, to: Vec<u8> },
    /// Matches when the register is in the set, or not when `inverted`; with `dreg` loads what
    /// the map holds for it (with [`Reg::Verdict`]: acts on it).
    Lookup { set: String, sreg: Reg, dreg: Option<Reg>, inverted: bool },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Loads a constant.
    Immediate { dreg: Reg, value: Vec<u8> },
    /// Loads connection tracking data.
    Ct { key: CtKey, dreg: Reg },
    /// Counts what gets here.
    Counter { packets: u64, bytes: u64 },
    /// Reports the packet to netlink group `group` with `prefix` (NFLOG).
    NfLog { group: u16, prefix: String, snaplen: Option<u32> },
    /// Reports the packet to the kernel log at a syslog level.
    KernelLog { level: u32, prefix: String },
    /// Masquerades behind the outgoing interface; see [`nat`]. Registers hold the lowest and the
    /// highest port to translate to.
    Masquerade { flags: u32, ports: Option<(Reg, Reg)> },
    /// Translates to an address, and to ports from one to another, given in registers.
    Nat { kind: NatKind, family: u8, addr: Reg, ports: Option<(Reg, Reg)>, flags: u32 },
    /// Refuses the packet with an answer.
    Reject { kind: RejectKind, code: u8 },
    /// Looks an address up in the routing table; see [`fib`].
    Fib { dreg: Reg, result: u32, flags: u32 },
    /// Takes the packet out of connection tracking.
    NoTrack,
    /// Matches while packets are no more than `rate` per `unit` seconds, with `burst` at once;
    /// those beyond when `inverted` (`NFT_LIMIT_PKTS`).
    PacketLimit { rate: u64, unit: u64, burst: u32, inverted: bool },
    /// Matches while the connections that were seen here and live are at most `count`; those
    /// beyond when `inverted`.
    ConnLimit { count: u32, inverted: bool },
    /// An expression this crate does not model, kept as it came.
    Unknown { name: String, data: Vec<u8> },
}

impl Expr {
    /// A counter that starts at zero.
    pub const COUNTER: Self = Self::Counter { packets: 0, bytes: 0 };

    /// Name of the expression in the kernel.
    pub fn name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::MetaSet { .. } => "meta",
            Self::Cmp { .. } => "cmp",
            Self::Payload { .. } | Self::PayloadSet { .. } => "payload",
            Self::Bitwise { .. } => "bitwise",
            Self::Range { .. } => "range",
            Self::Lookup { .. } => "lookup",
            Self::Verdict(_) | Self::Immediate { .. } => "immediate",
            Self::Ct { .. } => "ct",
            Self::Counter { .. } => "counter",
            Self::NfLog { .. } | Self::KernelLog { .. } => "log",
            Self::Masquerade { .. } => "masq",
            Self::Nat { .. } => "nat",
            Self::Reject { .. } => "reject",
            Self::Fib { .. } => "fib",
            Self::NoTrack => "notrack",
            Self::PacketLimit { .. } => "limit",
            Self::ConnLimit { .. } => "connlimit",
            Self::Unknown { name, .. } => name,
        }
    }

    /// Writes the expression as one element of a list.
    pub fn encode(&self, w: &mut Writer) {
        w.nested(NFTA_LIST_ELEM, |w| {
            w.string(NFTA_EXPR_NAME, self.name());
            match self {
                Self::NoTrack => {}
                Self::Unknown { data, .. } => w.attr(NFTA_EXPR_DATA | 0x8000, data),
                _ => w.nested(NFTA_EXPR_DATA, |w| self.encode_data(w)),
            }
        });
    }

    /// Reads one element of a list of expressions.
    ///
    /// # Errors
    /// When an attribute is malformed or one that the expression needs is absent.
    pub fn decode(element: Attrs<'_>) -> Result<Self> {
        let [_, name, data] = by_kind::<3>(element)?;
        let name = need(name, "expression name")?.string();
        let data = data.map_or(&[][..], |attr| attr.payload);
        decode_data(name, data)
    }

    fn encode_data(&self, w: &mut Writer) {
        match self {
            Self::Meta { key, dreg } => {
                w.u32(1, dreg.number());
                w.u32(2, key.number());
            }
            Self::MetaSet { key, sreg } => {
                w.u32(2, key.number());
                w.u32(3, sreg.number());
            }
            Self::Cmp { sreg, op, value } => {
                w.u32(1, sreg.number());
                w.u32(2, op.number());
                encode_value(w, 3, value);
            }
            Self::Payload { base, offset, len, dreg } => {
                w.u32(1, dreg.number());
                w.u32(2, base.number());
                w.u32(3, *offset);
                w.u32(4, *len);
            }
            Self::PayloadSet { base, offset, len, sreg, checksum, checksum_offset } => {
                w.u32(2, base.number());
                w.u32(3, *offset);
                w.u32(4, *len);
                w.u32(5, sreg.number());
                w.u32(6, *checksum);
                w.u32(7, *checksum_offset);
                // No checksum of the transport layer.
                w.u32(8, 0);
            }
            Self::Bitwise { sreg, dreg, mask, xor } => {
                w.u32(1, sreg.number());
                w.u32(2, dreg.number());
                w.u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                encode_value(w, 4, mask);
                encode_value(w, 5, xor);
            }
            Self::Range { sreg, negated, from, to } => {
                w.u32(1, sreg.number());
                w.u32(2, u32::from(*negated));
                encode_value(w, 3, from);
                encode_value(w, 4, to);
            }
            Self::Lookup { set, sreg, dreg, inverted } => {
                w.string(1, set);
                w.u32(2, sreg.number());
                if let Some(dreg) = dreg {
                    w.u32(3, dreg.number());
                }
                w.u32(5, u32::from(*inverted));
            }
            Self::Verdict(verdict) => {
                w.u32(1, Reg::Verdict.number());
                verdict.encode(w, 2);
            }
            Self::Immediate { dreg, value } => {
                w.u32(1, dreg.number());
                encode_value(w, 2, value);
            }
            Self::Ct { key, dreg } => {
                w.u32(1, dreg.number());
                w.u32(2, key.number());
            }
            // Silence means zero.
            Self::Counter { packets: 0, bytes: 0 } => {}
            Self::Counter { packets, bytes } => {
                w.u64(1, *bytes);
                w.u64(2, *packets);
            }
            Self::NfLog { group, prefix, snaplen } => {
                w.u16(1, *group);
                w.string(2, prefix);
                if let Some(snaplen) = snaplen {
                    w.u32(3, *snaplen);
                }
            }
            Self::KernelLog { level, prefix } => {
                w.string(2, prefix);
                w.u32(5, *level);
            }
            Self::Masquerade { flags, ports } => {
                let flags = with_ports(*flags, *ports);
                if flags != 0 {
                    w.u32(1, flags);
                }
                encode_ports(w, 2, *ports);
            }
            Self::Nat { kind, family, addr, ports, flags } => {
                w.u32(1, kind.number());
                w.u32(2, u32::from(*family));
                w.u32(3, addr.number());
                encode_ports(w, 5, *ports);
                let flags = with_ports(*flags, *ports);
                if flags != 0 {
                    w.u32(7, flags);
                }
            }
            Self::Reject { kind, code } => {
                w.u32(1, kind.number());
                if *kind != RejectKind::TcpReset {
                    w.attr(2, &[*code]);
                }
            }
            Self::Fib { dreg, result, flags } => {
                w.u32(1, dreg.number());
                w.u32(2, *result);
                w.u32(3, *flags);
            }
            Self::PacketLimit { rate, unit, burst, inverted } => {
                w.u64(1, *rate);
                w.u64(2, *unit);
                w.u32(3, *burst);
                w.u32(4, 0);
                w.u32(5, u32::from(*inverted));
            }
            Self::ConnLimit { count, inverted } => {
                w.u32(1, *count);
                w.u32(2, u32::from(*inverted));
            }
            Self::NoTrack | Self::Unknown { .. } => {}
        }
    }
}

/// Without this flag ports would not count.
fn with_ports(flags: u32, ports: Option<(Reg, Reg)>) -> u32 {
    if ports.is_some() { flags | nat::PROTO_SPECIFIED } else { flags }
}

/// Writes registers of ports as attributes `kind` and the one after it.
fn encode_ports(w: &mut Writer, kind: u16, ports: Option<(Reg, Reg)>) {
    if let Some((lowest, highest)) = ports {
        w.u32(kind, lowest.number());
        w.u32(kind + 1, highest.number());
    }
}

/// Writes a list of expressions as attribute `kind`.
pub(crate) fn encode_list(w: &mut Writer, kind: u16, expressions: &[Expr]) {
    w.nested(kind, |w| expressions.iter().for_each(|e| e.encode(w)));
}

/// Reads a list of expressions.
pub(crate) fn decode_list(attr: Attr<'_>) -> Result<Vec<Expr>> {
    attr.nested()
        .filter(|attr| !matches!(attr, Ok(attr) if attr.kind != NFTA_LIST_ELEM))
        .map(|attr| Expr::decode(attr?.nested()))
        .collect()
}

/// Sorts attributes by type; types of `N` and above are passed over.
pub(crate) fn by_kind<const N: usize>(attrs: Attrs<'_>) -> Result<[Option<Attr<'_>>; N]> {
    let mut found = [None; N];
    for attr in attrs {
        let attr = attr?;
        if let Some(slot) = found.get_mut(usize::from(attr.kind)) {
            *slot = Some(attr);
        }
    }
    Ok(found)
}

pub(crate) fn need<'a>(attr: Option<Attr<'a>>, what: &'static str) -> Result<Attr<'a>> {
    attr.ok_or(DecodeError::Missing { what })
}

fn decode_data(name: String, data: &[u8]) -> Result<Expr> {
    let attrs = by_kind::<9>(Attrs::new(data))?;
    let number = |i: usize| need(attrs[i], "expression operand")?.u32();
    let optional = |i: usize| attrs[i].map(|attr| attr.u32()).transpose();
    let reg = |i: usize| Reg::from_number(number(i)?);
    let value = |i: usize| Data::decode(need(attrs[i], "expression constant")?.nested())?.value();
    // One port alone is the highest, too.
    let ports = |i: usize| match attrs[i] {
        None => Ok(None),
        Some(_) => {
            let lowest = reg(i)?;
            let highest = if attrs[i + 1].is_some() { reg(i + 1)? } else { lowest };
            Ok(Some((lowest, highest)))
        }
    };
    let text = |i: usize| attrs[i].map(|attr| attr.string()).unwrap_or_default();
    let unknown = |name: String| Ok(Expr::Unknown { name, data: data.to_vec() });
    Ok(match name.as_str() {
        "meta" => {
            let key = MetaKey::from_number(number(2)?);
            match attrs[3] {
                Some(sreg) => Expr::MetaSet { key, sreg: Reg::from_number(sreg.u32()?)? },
                None => Expr::Meta { key, dreg: reg(1)? },
            }
        }
        "cmp" => Expr::Cmp { sreg: reg(1)?, op: CmpOp::from_number(number(2)?), value: value(3)? },
        // With a source register this is a packet rewrite; those that mend the checksum of the
        // transport layer, too, are not modelled.
        "payload" if attrs[5].is_some() && optional(8)?.unwrap_or(0) == 0 => Expr::PayloadSet {
            base: PayloadBase::from_number(number(2)?),
            offset: number(3)?,
            len: number(4)?,
            sreg: reg(5)?,
            checksum: optional(6)?.unwrap_or(checksum::NONE),
            checksum_offset: optional(7)?.unwrap_or(0),
        },
        "payload" if attrs[5].is_none() => Expr::Payload {
            dreg: reg(1)?,
            base: PayloadBase::from_number(number(2)?),
            offset: number(3)?,
            len: number(4)?,
        },
        // Operation 0 is mask and xor; shifts and two-register forms are not modelled.
        "bitwise" if optional(6)?.unwrap_or(0) == 0 => {
            Expr::Bitwise { sreg: reg(1)?, dreg: reg(2)?, mask: value(4)?, xor: value(5)? }
        }
        "range" => {
            Expr::Range { sreg: reg(1)?, negated: number(2)? != 0, from: value(3)?, to: value(4)? }
        }
        "lookup" => Expr::Lookup {
            set: need(attrs[1], "set of a lookup")?.string(),
            sreg: reg(2)?,
            dreg: optional(3)?.map(Reg::from_number).transpose()?,
            inverted: optional(5)?.unwrap_or(0) & 1 != 0,
        },
        "immediate" => {
            match (reg(1)?, Data::decode(need(attrs[2], "expression constant")?.nested())?) {
                (Reg::Verdict, Data::Verdict(verdict)) => Expr::Verdict(verdict),
                (dreg @ Reg::Word(_), Data::Value(value)) => Expr::Immediate { dreg, value },
                _ => return Err(DecodeError::Invalid { what: "immediate" }),
            }
        }
        "ct" if attrs[3].is_none() && attrs[4].is_none() => {
            Expr::Ct { dreg: reg(1)?, key: CtKey::from_number(number(2)?) }
        }
        "counter" => Expr::Counter {
            bytes: attrs[1].map_or(Ok(0), |attr| attr.u64())?,
            packets: attrs[2].map_or(Ok(0), |attr| attr.u64())?,
        },
        "log" => match attrs[1] {
            Some(group) => {
                Expr::NfLog { group: group.u16()?, prefix: text(2), snaplen: optional(3)? }
            }
            None => Expr::KernelLog { level: optional(5)?.unwrap_or(4), prefix: text(2) },
        },
        // That there are ports says as much as this flag.
        "masq" => Expr::Masquerade {
            flags: optional(1)?.unwrap_or(0) & !nat::PROTO_SPECIFIED,
            ports: ports(2)?,
        },
        "nat" if attrs[3].is_some() => Expr::Nat {
            kind: NatKind::from_number(number(1)?),
            family: u8::try_from(number(2)?)
                .map_err(|_wide| DecodeError::Invalid { what: "family" })?,
            addr: reg(3)?,
            ports: ports(5)?,
            // The kernel sets the other one by itself when there is an address.
            flags: optional(7)?.unwrap_or(0) & !(nat::MAP_IPS | nat::PROTO_SPECIFIED),
        },
        "reject" => Expr::Reject {
            kind: RejectKind::from_number(number(1)?),
            code: attrs[2].map(|attr| attr.u8()).transpose()?.unwrap_or(0),
        },
        "fib" => Expr::Fib { dreg: reg(1)?, result: number(2)?, flags: number(3)? },
        "notrack" => Expr::NoTrack,
        // Type 0 counts packets; limits of bytes are not modelled.
        "limit" if optional(4)?.unwrap_or(0) == 0 => Expr::PacketLimit {
            rate: need(attrs[1], "rate of a limit")?.u64()?,
            unit: need(attrs[2], "unit of a limit")?.u64()?,
            burst: optional(3)?.unwrap_or(0),
            inverted: optional(5)?.unwrap_or(0) & 1 != 0,
        },
        "connlimit" => {
            Expr::ConnLimit { count: number(1)?, inverted: optional(2)?.unwrap_or(0) & 1 != 0 }
        }
        _ => return unknown(name),
    })
}
