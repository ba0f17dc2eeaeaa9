//! Which families the members of sets are of.

use calico_core::dataplane::SetMember;
use calico_core::key::Family;

/// Families of addresses. A family that was seen once stays: to leave it and to come back would
/// each time make all rules anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    pub(super) fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Takes in the families of these members; returns those that are new.
    pub(super) fn meet<'a>(
        &mut self,
        members: impl IntoIterator<Item = &'a SetMember>,
    ) -> Vec<Family> {
        let before = *self;
        for member in members {
            match family_of(member) {
                Family::V4 => self.v4 = true,
                Family::V6 => self.v6 = true,
            }
            if self.v4 && self.v6 {
                break;
            }
        }
        let new = |family: &Family| self.has(*family) && !before.has(*family);
        Family::BOTH.into_iter().filter(new).collect()
    }
}

fn family_of(member: &SetMember) -> Family {
    match member {
        SetMember::Net(net) => Family::of_net(net),
        SetMember::Port { address, .. } => Family::of(*address),
    }
}
