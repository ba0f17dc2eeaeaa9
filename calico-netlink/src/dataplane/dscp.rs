//! Code points of packets that leave the cluster: a map leads from the packet's source to a chain
//! for each code point, which writes it if the destination is outside.
//!
//! Packets of sources that carry none cost one lookup, and nothing where no source carries one.

use std::collections::{BTreeMap, BTreeSet};

use calico_core::dataplane::{Dscp, HostSettings, Marking};
use calico_core::key::Family;

use super::elements::address_bytes;
use super::lower::address_key;
use super::matches::{self, End};
use super::names;
use super::state::State;
use crate::nft::wire::{Element, Expr, PayloadBase, Reg, Verdict, checksum};
use crate::nft::{ChainDef, RuleDef, SetDef, SetSpec};

/// Where IPv4 has the checksum of its header (RFC 791).
const IPV4_CHECKSUM: u32 = 10;

/// For the hook behind all decisions about where packets go: leads to the chains of code points,
/// and comes back.
pub(super) fn rules() -> [RuleDef; 2] {
    Family::BOTH.map(|family| {
        let mut expressions = matches::family(family).to_vec();
        expressions.push(matches::address(family, End::Source));
        let set = names::set(names::DSCP_SOURCES, family);
        let dreg = Some(Reg::Verdict);
        expressions.push(Expr::Lookup { set, sreg: Reg::R0, dreg, inverted: false });
        RuleDef { identity: "marked source".to_owned(), expressions }
    })
}

/// Writes the code point into packets that leave the cluster.
fn chain(dscp: Dscp, host: &HostSettings) -> ChainDef {
    let rules = Family::BOTH.map(|family| {
        let mut expressions = matches::family(family).to_vec();
        expressions.extend(matches::leaves_cluster(family, host));
        expressions.push(Expr::COUNTER);
        expressions.extend(write(family, dscp));
        RuleDef { identity: format!("dscp {dscp}"), expressions }
    });
    ChainDef { base: None, rules: rules.into() }
}

/// Both headers have the code point within their first two bytes: IPv4 as the upper six bits of the
/// second (RFC 791, RFC 2474), IPv6 in the middle, behind the version (RFC 8200). The others stay.
fn write(family: Family, dscp: Dscp) -> [Expr; 3] {
    let base = PayloadBase::Network;
    let (shift, checksum, checksum_offset) = match family {
        Family::V4 => (2, checksum::INET, IPV4_CHECKSUM),
        Family::V6 => (6, checksum::NONE, 0),
    };
    let place = |bits: u8| (u16::from(bits) << shift).to_be_bytes().to_vec();
    let mask = place(0x3f).into_iter().map(|byte| !byte).collect();
    [
        Expr::Payload { base, offset: 0, len: 2, dreg: Reg::R0 },
        Expr::Bitwise { sreg: Reg::R0, dreg: Reg::R0, mask, xor: place(dscp.number()) },
        Expr::PayloadSet { base, offset: 0, len: 2, sreg: Reg::R0, checksum, checksum_offset },
    ]
}

impl State {
    /// These are the sources whose packets carry code points.
    pub(super) fn put_markings(&mut self, markings: &[Marking]) {
        let mut chains = BTreeSet::new();
        let mut sources: BTreeMap<Family, BTreeSet<Element>> = BTreeMap::new();
        for Marking { source, dscp } in markings {
            let verdict = Some(Verdict::Jump(names::dscp_chain(*dscp)));
            let element = Element { verdict, ..Element::key(address_bytes(*source)) };
            sources.entry(Family::of(*source)).or_default().insert(element);
            chains.insert(*dscp);
        }
        let any = !markings.is_empty();
        for family in Family::BOTH {
            let name = names::set(names::DSCP_SOURCES, family);
            if any {
                let spec = SetSpec::verdict_map([address_key(family)]);
                let elements = sources.remove(&family).unwrap_or_default();
                self.table.put_set(&name, SetDef { spec, elements });
            }
        }
        let before = std::mem::replace(&mut self.marked, chains);
        self.render_markings();
        if before.is_empty() == any {
            self.put_base();
        }
        for gone in before.difference(&self.marked.clone()) {
            self.remove_chain(&names::dscp_chain(*gone));
        }
        if !any {
            for family in Family::BOTH {
                self.table.remove_set(&names::set(names::DSCP_SOURCES, family));
            }
        }
    }

    /// Makes the chains of code points.
    pub(super) fn render_markings(&mut self) {
        for dscp in self.marked.clone() {
            let chain = chain(dscp, &self.host);
            self.put_chain(&names::dscp_chain(dscp), chain, Vec::new());
        }
    }
}
