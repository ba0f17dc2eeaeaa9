//! Expressions: the instructions a rule is made of.

use super::data::encode_value;
use super::numbers::{CmpOp, CtKey, MetaKey, NatKind, PayloadBase, RejectKind, nat};
use super::{Reg, Verdict, Writer};

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

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
    /// see [`checksum`](super::checksum)(super::checksum).
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
    /// Looks an address up in the routing table; see [`fib`](super::fib)(super::fib).
    Fib { dreg: Reg, result: u32, flags: u32 },
    /// Takes the packet out of connection tracking.
    NoTrack,
    /// Matches while packets are no more than `rate` per `unit` seconds, with `burst` at once;
    /// those beyond when `inverted` (`NFT_LIMIT_PKTS`).
    PacketLimit { rate: u64, unit: u64, burst: u32, inverted: bool },
    /// Matches while the connections that were seen here and live are at most `count`; those
    /// beyond when `inverted`.
    ConnLimit { count: u32, inverted: bool },
    /// Puts the connection into a flow table, if it is established; ends the rule if it is not, or
    /// cannot be.
    FlowOffload { table: String },
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
            Self::FlowOffload { .. } => "flow_offload",
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
            Self::FlowOffload { table } => w.string(1, table),
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
