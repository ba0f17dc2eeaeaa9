//! Labelled lists of networks.

use std::collections::BTreeMap;

use super::object::object;
use super::{Cidr, Errors, NoStatus, ObjectMeta, Resource, Spec};
use crate::kind::Kind;
use crate::selector::NAMESPACE_LABEL;

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

impl NetworkSet {
    /// The set's own labels as selectors see them: those of its metadata, and its namespace.
    #[must_use]
    pub fn selector_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.metadata.labels.clone();
        labels.insert(NAMESPACE_LABEL.to_owned(), self.metadata.namespace.clone());
        labels
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
