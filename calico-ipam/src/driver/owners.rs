//! Addresses with two owners: of a virtual machine that moves from one host to another, which for
//! a moment runs on both.
//!
//! The first owner is recorded with the address as any other, the second under
//! `alternateOwnerAttrs`, as upstream does for `KubeVirt`. Both have the same handle. An owner is
//! named by some of what is recorded of it, such as its pod and namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::resource::AllocationAttribute;

use super::Ipam;
use super::claim::is_race;
use super::release::write_or_delete;
use super::view;
use crate::error::IpamError;
use crate::plan::block::ReleaseCheck;
use crate::request::{describe_owner, sane_handle};

/// What is recorded of an owner, or as much of it as tells it from others.
pub type OwnerAttributes = BTreeMap<String, String>;

/// What became of an address when one of its owners left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The other owner has it alone now.
    ToTheOther,
    /// It had no other owner, and is released.
    Released,
    /// It had no other owner, and waits under its handle for the next.
    ToNobody,
    /// The one that left was no owner; nothing changed.
    NoOwner,
}

/// Both owners of an address as they are to be, and as they must be for that. Upstream's
/// `SetOwnerAttributes`; what it calls the active owner is the first here, the alternate the second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerChange {
    /// The first owner; `None` leaves it, empty removes it.
    pub first: Option<OwnerAttributes>,
    /// The second owner; `None` leaves it, empty removes it.
    pub second: Option<OwnerAttributes>,
    /// Who must be the first owner; empty: nobody.
    pub if_first: Option<OwnerAttributes>,
    /// Who must be the second owner; empty: nobody.
    pub if_second: Option<OwnerAttributes>,
}

pub(super) enum Change {
    /// Write these owners.
    To {
        first: OwnerAttributes,
        second: OwnerAttributes,
    },
    Nothing,
    Release,
}

impl Ipam {
    /// Records a second owner of `ip`: where the machine is about to arrive. The first keeps it;
    /// if there is none, as of a machine that was stopped, the second is the first. No change if
    /// `second` is recorded already.
    ///
    /// # Errors
    ///
    /// [`IpamError::OtherOwner`] if `handle` does not have the address, or a third one is recorded
    /// as its second owner.
    pub async fn add_owner(
        &self,
        ip: IpAddr,
        handle: &str,
        second: &OwnerAttributes,
    ) -> Result<(), IpamError> {
        self.change_owners(ip, handle, second, |now| {
            if is(&now.secondary, second) || is(&now.alternate_owner_attrs, second) {
                return Ok(Change::Nothing);
            }
            if now.secondary.is_empty() && now.alternate_owner_attrs.is_empty() {
                return Ok(Change::To { first: second.clone(), second: BTreeMap::new() });
            }
            if !now.alternate_owner_attrs.is_empty() {
                return Err(other(ip, "a free place for a second owner", now));
            }
            Ok(Change::To { first: now.secondary.clone(), second: second.clone() })
        })
        .await
        .map(drop)
    }

    /// Makes the second owner of `ip`, which `to` names, the first, and the first the second: the
    /// machine has arrived. No change if `to` is the first already.
    ///
    /// # Errors
    ///
    /// [`IpamError::OtherOwner`] if `handle` does not have the address, or `to` is no owner of it.
    pub async fn hand_over(
        &self,
        ip: IpAddr,
        handle: &str,
        to: &OwnerAttributes,
    ) -> Result<(), IpamError> {
        self.change_owners(ip, handle, to, |now| {
            if is(&now.secondary, to) {
                return Ok(Change::Nothing);
            }
            if !is(&now.alternate_owner_attrs, to) {
                return Err(other(ip, &words(to), now));
            }
            let first = now.alternate_owner_attrs.clone();
            Ok(Change::To { first, second: now.secondary.clone() })
        })
        .await
        .map(drop)
    }

    /// Takes an owner of `ip` away: the machine has left it, or never arrived. The address is
    /// released with its last owner.
    ///
    /// # Errors
    ///
    /// [`IpamError::OtherOwner`] if `handle` does not have the address.
    pub async fn drop_owner(
        &self,
        ip: IpAddr,
        handle: &str,
        who: &OwnerAttributes,
    ) -> Result<Left, IpamError> {
        self.leave(ip, handle, who, true).await
    }

    /// As [`drop_owner`](Self::drop_owner), but the address stays with its handle when the last
    /// owner goes: the machine was stopped, and gets it again when it starts, on whatever host.
    /// [`release_by_handle`](Self::release_by_handle) frees it when the machine is deleted.
    ///
    /// # Errors
    ///
    /// As [`drop_owner`](Self::drop_owner).
    pub async fn suspend_owner(
        &self,
        ip: IpAddr,
        handle: &str,
        who: &OwnerAttributes,
    ) -> Result<Left, IpamError> {
        self.leave(ip, handle, who, false).await
    }

    /// Changes both owners of `ip` at once, if they are who they must be.
    ///
    /// # Errors
    ///
    /// [`IpamError::OtherOwner`] if `handle` does not have the address, or an owner is another;
    /// nothing is changed then.
    pub async fn set_owners(
        &self,
        ip: IpAddr,
        handle: &str,
        change: &OwnerChange,
    ) -> Result<(), IpamError> {
        let wanted = |who: &OwnerAttributes, is_now: &OwnerAttributes| {
            if who.is_empty() { is_now.is_empty() } else { is(is_now, who) }
        };
        self.decide_owners(ip, handle, |now| {
            let pairs = [
                (&change.if_first, &now.secondary),
                (&change.if_second, &now.alternate_owner_attrs),
            ];
            for (expected, found) in pairs {
                if let Some(who) = expected
                    && !wanted(who, found)
                {
                    let who = if who.is_empty() { "nobody".to_owned() } else { words(who) };
                    return Err(other(ip, &who, now));
                }
            }
            let keep = |new: &Option<OwnerAttributes>, old: &OwnerAttributes| {
                new.as_ref().unwrap_or(old).clone()
            };
            let first = keep(&change.first, &now.secondary);
            let second = keep(&change.second, &now.alternate_owner_attrs);
            let same = first == now.secondary && second == now.alternate_owner_attrs;
            Ok(if same { Change::Nothing } else { Change::To { first, second } })
        })
        .await
        .map(drop)
    }

    async fn leave(
        &self,
        ip: IpAddr,
        handle: &str,
        who: &OwnerAttributes,
        release: bool,
    ) -> Result<Left, IpamError> {
        let change = self
            .change_owners(ip, handle, who, |now| {
                let second = now.alternate_owner_attrs.clone();
                if is(&second, who) {
                    return Ok(Change::To {
                        first: now.secondary.clone(),
                        second: BTreeMap::new(),
                    });
                }
                if !is(&now.secondary, who) {
                    return Ok(Change::Nothing);
                }
                if second.is_empty() && release {
                    return Ok(Change::Release);
                }
                Ok(Change::To { first: second, second: BTreeMap::new() })
            })
            .await?;
        Ok(match change {
            Change::To { first, .. } if first.is_empty() => Left::ToNobody,
            Change::To { .. } => Left::ToTheOther,
            Change::Nothing => Left::NoOwner,
            Change::Release => Left::Released,
        })
    }

    async fn change_owners(
        &self,
        ip: IpAddr,
        handle: &str,
        who: &OwnerAttributes,
        decide: impl Fn(&AllocationAttribute) -> Result<Change, IpamError>,
    ) -> Result<Change, IpamError> {
        if who.is_empty() {
            return Err(IpamError::invalid("an owner is named by at least one attribute"));
        }
        self.decide_owners(ip, handle, decide).await
    }

    pub(super) async fn decide_owners(
        &self,
        ip: IpAddr,
        handle: &str,
        decide: impl Fn(&AllocationAttribute) -> Result<Change, IpamError>,
    ) -> Result<Change, IpamError> {
        let handle = sane_handle(handle)?;
        let expected = format!("handle {handle}");
        let nobody = || IpamError::OtherOwner {
            address: ip,
            expected: expected.clone(),
            found: "nobody".to_owned(),
        };
        for _ in 0..self.options.retries {
            let cidr = self.find_block(ip).await?.ok_or_else(nobody)?;
            let Some((mut block, revision)) = view::block(&self.store, cidr).await? else {
                return Err(nobody());
            };
            let now = block.allocation(ip).ok_or_else(nobody)?;
            if now.attributes.handle_id.as_deref() != Some(handle) {
                return Err(other(ip, &expected, &now.attributes));
            }
            let change = decide(&now.attributes)?;
            match &change {
                Change::Nothing => return Ok(change),
                Change::To { first, second } => block.set_owners(ip, first, second),
                Change::Release => {
                    let cooldown = view::cooldown(&self.config().await?);
                    let any = ReleaseCheck::default();
                    drop(block.release(ip, &any, cooldown, self.now()));
                }
            }
            let (write, _) = write_or_delete(&mut block, revision);
            match self.store.write(vec![write]).await {
                Ok(_) => {
                    if matches!(change, Change::Release) {
                        self.decrement(handle, &[(cidr, 1)].into()).await?;
                    }
                    return Ok(change);
                }
                Err(failed) if is_race(&failed.error) => {}
                Err(failed) => return Err(failed.error.into()),
            }
        }
        Err(IpamError::Contention {
            what: format!("changing the owners of {ip}"),
            attempts: self.options.retries,
        })
    }
}

/// Whether `attributes` are those of the owner that `who` names.
fn is(attributes: &OwnerAttributes, who: &OwnerAttributes) -> bool {
    !attributes.is_empty() && who.iter().all(|(key, value)| attributes.get(key) == Some(value))
}

fn words(who: &OwnerAttributes) -> String {
    let pairs: Vec<String> = who.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(", ")
}

fn other(address: IpAddr, expected: &str, found: &AllocationAttribute) -> IpamError {
    let mut text = describe_owner(found);
    if !found.alternate_owner_attrs.is_empty() {
        text = format!("{text}, and to {}", words(&found.alternate_owner_attrs));
    }
    IpamError::OtherOwner { address, expected: expected.to_owned(), found: text }
}
