//! How rules say what they decide: which bits of marks are ours, and what becomes of packets that
//! policy denies.

use calico_core::dataplane::{DenyAction, HostSettings, LogLimit};

use super::matches;
use crate::nft::wire::{Expr, RejectKind};

/// `NFT_REJECT_ICMPX_PORT_UNREACH`: what `reject` of `nft` and REJECT of iptables answer.
const PORT_UNREACHABLE: u8 = 1;

/// Bits of marks, from the lowest of the mask up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// Policy accepted the packet ...
    pub(super) accept: u32,
    /// ... or passed it on to the next tier.
    pub(super) pass: u32,
    /// ... or a rule that goes on has noted it already.
    pub(super) noted: u32,
    /// ... or it is judged at a host endpoint, not at a workload.
    pub(super) host: u32,
    /// Of a connection: policy changed and denies it now.
    pub(super) condemned: u32,
}

impl Marks {
    /// The bits of a mask. One that has too few counts as upstream's default.
    pub(super) fn of(mask: u32) -> Self {
        let enough = mask.count_ones() >= HostSettings::MARK_BITS;
        let mut rest = if enough { mask } else { HostSettings::default().mark_mask };
        let mut next = || {
            let lowest = rest & rest.wrapping_neg();
            rest &= !lowest;
            lowest
        };
        Self { accept: next(), pass: next(), noted: next(), host: next(), condemned: next() }
    }
}

impl Default for Marks {
    fn default() -> Self {
        Self::of(HostSettings::default().mark_mask)
    }
}

/// All of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) marks: Marks,
    pub(super) deny: DenyAction,
    /// How often the rules with action Log report.
    pub(super) log_limit: Option<LogLimit>,
}

impl Style {
    /// For rules that only workloads meet.
    pub(super) fn of(host: &HostSettings) -> Self {
        let marks = Marks::of(host.mark_mask);
        Self { marks, deny: host.deny, log_limit: host.log_limit }
    }

    /// For rules that host endpoints meet: they are jumped to from hooks where the kernel refuses
    /// nothing (behind routing), so they drop.
    pub(super) fn at_host(host: &HostSettings) -> Self {
        Self { deny: DenyAction::Drop, ..Self::of(host) }
    }

    /// Counts, reports and denies.
    pub(super) fn deny_logged(self, group: u16, prefix: String) -> Vec<Expr> {
        match self.deny {
            DenyAction::Drop => matches::drop_logged(group, prefix),
            DenyAction::Reject => vec![
                Expr::COUNTER,
                Expr::NfLog { group, prefix, snaplen: None },
                Expr::Reject { kind: RejectKind::Icmpx, code: PORT_UNREACHABLE },
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_taken_from_the_lowest_up() {
        let bits = |mask| {
            let Marks { accept, pass, noted, host, condemned } = Marks::of(mask);
            [accept, pass, noted, host, condemned]
        };
        let usual = [0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000];
        assert_eq!(bits(0xffff_0000), usual);
        assert_eq!(bits(0x8000_3201), [1, 0x200, 0x1000, 0x2000, 0x8000_0000]);
        assert_eq!(bits(0xf0), usual, "four are too few");
    }
}
