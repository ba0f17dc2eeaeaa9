//! Leaks of routes, prevented and found by roles and ONLY_TO_CUSTOMER (RFC 9234, section 5).

use super::PeerFacts;
use crate::wire::{PathAttributes, Role};

/// Marks a route from a peer, or says that it is a leak and must not be used.
pub(super) fn receive(from: &PeerFacts, attributes: &mut PathAttributes) -> bool {
    // This side's role; the peer has the opposite one.
    let Some(role) = from.traits.role else { return true };
    match (role.opposite(), attributes.only_to_customer) {
        (Role::Customer | Role::RouteServerClient, Some(_)) => return false,
        (Role::Peer, Some(asn)) if asn != from.asn => return false,
        (Role::Provider | Role::Peer | Role::RouteServer, None) => {
            attributes.only_to_customer = Some(from.asn);
        }
        _ => {}
    }
    true
}

/// Marks a route for a peer, or says that it must not go there.
pub(super) fn send(to: &PeerFacts, attributes: &mut PathAttributes) -> bool {
    let Some(role) = to.traits.role else { return true };
    match (role.opposite(), attributes.only_to_customer) {
        (Role::Provider | Role::Peer | Role::RouteServer, Some(_)) => return false,
        (Role::Customer | Role::Peer | Role::RouteServerClient, None) => {
            attributes.only_to_customer = Some(to.local_as);
        }
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::super::{PeerKind, SessionTraits};
    use super::*;

    fn peer(theirs: Role) -> PeerFacts {
        PeerFacts {
            asn: 7,
            local_as: 1,
            traits: SessionTraits { role: Some(theirs.opposite()), ..Default::default() },
            ..facts(2, PeerKind::External)
        }
    }

    /// `None` for a leak, else the mark afterwards.
    fn check(
        act: fn(&PeerFacts, &mut PathAttributes) -> bool,
        theirs: Role,
        before: Option<u32>,
        expected: Option<Option<u32>>,
    ) {
        let mut attributes =
            PathAttributes { only_to_customer: before, ..PathAttributes::default() };
        let passes = act(&peer(theirs), &mut attributes);
        let after = passes.then_some(attributes.only_to_customer);
        assert_eq!(after, expected, "{theirs} {before:?}");
    }

    #[test]
    fn received_routes() {
        check(receive, Role::Customer, None, Some(None));
        check(receive, Role::Customer, Some(9), None);
        check(receive, Role::RouteServerClient, Some(9), None);
        check(receive, Role::Peer, Some(9), None);
        check(receive, Role::Peer, Some(7), Some(Some(7)));
        check(receive, Role::Peer, None, Some(Some(7)));
        check(receive, Role::Provider, None, Some(Some(7)));
        check(receive, Role::Provider, Some(9), Some(Some(9)));
        check(receive, Role::RouteServer, None, Some(Some(7)));
    }

    #[test]
    fn sent_routes() {
        check(send, Role::Customer, None, Some(Some(1)));
        check(send, Role::Customer, Some(9), Some(Some(9)));
        check(send, Role::RouteServerClient, None, Some(Some(1)));
        check(send, Role::Peer, None, Some(Some(1)));
        check(send, Role::Peer, Some(9), None);
        check(send, Role::Provider, Some(9), None);
        check(send, Role::Provider, None, Some(None));
        check(send, Role::RouteServer, Some(9), None);
    }
}
