//! Expressions as the kernel tells them.

use super::data::Data;
use super::numbers::{CmpOp, CtKey, MetaKey, NatKind, PayloadBase, RejectKind, checksum, nat};
use super::{Attr, Attrs, DecodeError, Expr, Reg, Result};

const NFTA_LIST_ELEM: u16 = 1;

impl Expr {
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
        "flow_offload" => {
            Expr::FlowOffload { table: need(attrs[1], "flow table of a rule")?.string() }
        }
        _ => return unknown(name),
    })
}
