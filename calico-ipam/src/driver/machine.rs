//! Addresses of virtual machines, which stay with the machine while its pods come and go: one handle
//! for the machine, one owner for each of its pods, two of them while it moves.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::key::Scope;
use calico_core::resource::AllocationAttribute;

use super::Ipam;
use super::owners::{Change, Left, OwnerAttributes};
use super::view;
use crate::error::IpamError;
use crate::plan::block::Block;
use crate::plan::owner::Owner;

/// Attribute of an owner that a repeated call may give another value.
const TIMESTAMP: &str = "timestamp";

impl Ipam {
    /// Gives the addresses of a machine to one of its pods, and returns them; none if the machine
    /// has none yet. `owner` is all that is recorded of the pod, and `is_this` tells it from others,
    /// so that a repeated call finds its place again.
    ///
    /// The pod is the first owner, in the place of one that was. A pod that the machine is
    /// `arriving` at is the second, in the place of an earlier attempt's, if somebody is the first.
    ///
    /// # Errors
    ///
    /// [`IpamError::OtherOwner`] if the handle loses an address meanwhile; failures of the store.
    pub async fn machine_starts(
        &self,
        handle: &str,
        owner: &OwnerAttributes,
        is_this: impl Fn(&OwnerAttributes) -> bool,
        arriving: bool,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let addresses = self.addresses_by_handle(handle).await?;
        for ip in &addresses {
            self.decide_owners(*ip, handle, |now| Ok(start(now, owner, &is_this, arriving)))
                .await?;
        }
        Ok(addresses)
    }

    /// Takes the addresses of a machine from one of its pods, which `is_this` tells from others,
    /// and says what became of each. They stay with the machine, unless it `ends`: then those that
    /// no other pod has are released.
    ///
    /// # Errors
    ///
    /// As [`machine_starts`](Self::machine_starts); the call can be repeated.
    pub async fn machine_stops(
        &self,
        handle: &str,
        is_this: impl Fn(&OwnerAttributes) -> bool,
        ends: bool,
    ) -> Result<Vec<(IpAddr, Left)>, IpamError> {
        let mut answer = Vec::new();
        for allocation in self.allocations_by_handle(handle).await? {
            let (ip, now) = (allocation.address, &allocation.attributes);
            let own = [&now.secondary, &now.alternate_owner_attrs].into_iter();
            let left = match own.clone().find(|owner| !owner.is_empty() && is_this(owner)) {
                Some(owner) if ends => self.drop_owner(ip, handle, owner).await?,
                Some(owner) => self.suspend_owner(ip, handle, owner).await?,
                // Its last pod went before anybody knew that the machine goes, too.
                None if ends && own.clone().all(BTreeMap::is_empty) => {
                    self.release_unowned(ip, handle).await?
                }
                None => Left::NoOwner,
            };
            answer.push((ip, left));
        }
        Ok(answer)
    }

    /// Addresses of machines that none of its pods has now, by handle: of blocks of `node`, and
    /// with `everything` also of blocks that nobody owns.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn machines_at_rest(
        &self,
        node: &str,
        everything: bool,
    ) -> Result<BTreeMap<String, Vec<IpAddr>>, IpamError> {
        let owner = Owner::host(node);
        let blocks = if everything {
            let entries = self.store.list(&Scope::Blocks).await?.entries;
            entries.iter().filter_map(|entry| Block::read(entry).ok()).collect()
        } else {
            let mut blocks = Vec::new();
            for cidr in view::claims(&*self.store, &owner).await?.into_keys() {
                blocks.extend(view::block(&self.store, cidr).await?.map(|(block, _)| block));
            }
            blocks
        };
        let own = |block: &&Block| block.owner().is_none_or(|of| of == owner);
        let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for allocation in blocks.iter().filter(own).flat_map(Block::allocations) {
            let is_unowned = unowned(&allocation.attributes) && allocation.is_of_machine();
            if let (true, Some(handle)) = (is_unowned, allocation.attributes.handle_id) {
                found.entry(handle).or_default().push(allocation.address);
            }
        }
        Ok(found)
    }

    /// Releases an address of `handle` unless it has an owner by now.
    async fn release_unowned(&self, ip: IpAddr, handle: &str) -> Result<Left, IpamError> {
        let decide = |now: &AllocationAttribute| {
            Ok(if unowned(now) { Change::Release } else { Change::Nothing })
        };
        Ok(match self.decide_owners(ip, handle, decide).await? {
            Change::Release => Left::Released,
            Change::Nothing | Change::To { .. } => Left::NoOwner,
        })
    }
}

fn unowned(attributes: &AllocationAttribute) -> bool {
    attributes.secondary.is_empty()
        && attributes.alternate_owner_attrs.is_empty()
        && attributes.released_at.is_none()
}

fn start(
    now: &AllocationAttribute,
    owner: &OwnerAttributes,
    is_this: &impl Fn(&OwnerAttributes) -> bool,
    arriving: bool,
) -> Change {
    let (first, second) = (&now.secondary, &now.alternate_owner_attrs);
    let is = |other: &OwnerAttributes| !other.is_empty() && is_this(other);
    let (place, other) =
        if arriving && !first.is_empty() && !is(first) { (second, first) } else { (first, second) };
    if same(place, owner) {
        return Change::Nothing;
    }
    // One pod is one owner.
    let other = if is(other) { OwnerAttributes::new() } else { other.clone() };
    if std::ptr::eq(place, first) {
        Change::To { first: owner.clone(), second: other }
    } else {
        Change::To { first: other, second: owner.clone() }
    }
}

fn same(a: &OwnerAttributes, b: &OwnerAttributes) -> bool {
    let but_time = |owner: &OwnerAttributes| {
        let mut owner = owner.clone();
        owner.remove(TIMESTAMP);
        owner
    };
    but_time(a) == but_time(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> OwnerAttributes {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_pod_takes_its_place_and_finds_it_again() {
        for (first, second, pod, arriving, expected) in [
            ("", "", "pod=a", false, Some(("pod=a", ""))),
            ("pod=a", "", "pod=b", false, Some(("pod=b", ""))),
            ("pod=a", "", "pod=b", true, Some(("pod=a", "pod=b"))),
            // A second attempt, another attempt, a repetition.
            ("pod=a", "pod=b", "pod=c", true, Some(("pod=a", "pod=c"))),
            ("pod=a", "pod=b", "pod=b", true, None),
            ("pod=a timestamp=1", "pod=b timestamp=1", "pod=b timestamp=2", true, None),
            ("pod=a", "pod=b node=1", "pod=b node=2", true, Some(("pod=a", "pod=b node=2"))),
            // It has arrived: the next sandbox of the same pod.
            ("pod=b node=1", "", "pod=b node=2", true, Some(("pod=b node=2", ""))),
            ("pod=b node=1", "pod=a", "pod=b node=2", true, Some(("pod=b node=2", "pod=a"))),
            // A machine that was stopped while it moved.
            ("", "", "pod=b", true, Some(("pod=b", ""))),
            ("pod=a", "pod=b", "pod=b", false, Some(("pod=b", ""))),
            ("pod=a", "pod=b", "pod=c", false, Some(("pod=c", "pod=b"))),
        ] {
            let now = AllocationAttribute {
                secondary: owner(first),
                alternate_owner_attrs: owner(second),
                ..AllocationAttribute::default()
            };
            let pod = owner(pod);
            let is_this = |other: &OwnerAttributes| other.get("pod") == pod.get("pod");
            let found = match start(&now, &pod, &is_this, arriving) {
                Change::To { first, second } => Some((first, second)),
                Change::Nothing | Change::Release => None,
            };
            let expected = expected.map(|(first, second)| (owner(first), owner(second)));
            assert_eq!(found, expected, "{first} | {second} | {pod:?} {arriving}");
        }
    }
}
