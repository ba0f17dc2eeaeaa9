//! Labelled lists of networks.

use super::object::object;
use super::{Cidr, Errors, NoStatus, ObjectMeta, Resource, Spec};
use crate::kind::Kind;

/// A labelled list of networks in a namespace.
pub type NetworkSet = Resource<NetworkSetSpec>;

/// A labelled list of networks, visible everywhere.
pub type GlobalNetworkSet = Resource<GlobalNetworkSetSpec>;

object! {
    /// The networks of a set.
    pub struct NetworkSetSpec {
        /// Networks that rules reach by the set's labels.
        pub nets: Vec<Cidr> = "nets",
    }

    /// The networks of a set.
    pub struct GlobalNetworkSetSpec {
        /// Networks that rules reach by the set's labels.
        pub nets: Vec<Cidr> = "nets",
    }
}

impl Spec for NetworkSetSpec {
    const KIND: Kind = Kind::NetworkSet;
    type Status = NoStatus;

    fn validate(&self, metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::network_set(metadata, errors);
    }
}

impl Spec for GlobalNetworkSetSpec {
    const KIND: Kind = Kind::GlobalNetworkSet;
    type Status = NoStatus;

    fn validate(&self, metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::network_set(metadata, errors);
    }
}
