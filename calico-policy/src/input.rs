//! What goes into a graph.

use std::fmt;

use calico_core::datastore::{Entry, StoreError};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{
    AnyResource, BgpConfiguration, EndpointOutline, FelixConfiguration, FieldError,
    GlobalNetworkPolicy, GlobalNetworkSet, HostEndpoint, IpPool, KubernetesEndpointSlice,
    NetworkPolicy, NetworkSet, Node, Profile, Tier, WorkloadEndpoint,
};

/// One change of what is configured.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Input {
    /// An object is there, or has changed.
    Put(Object),
    /// An object is gone.
    Remove(Key),
}

macro_rules! objects {
    ($($(#[$doc:meta])* $kind:ident;)*) => {
        /// An object of a kind that policy depends on.
        ///
        /// Staged policies are not among them: they are never enforced.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Object {
            $($(#[$doc])* $kind(Box<$kind>),)*
            /// What matters here of a workload's interface on another node.
            EndpointElsewhere(Box<EndpointOutline>),
        }

        impl Object {
            /// Whether objects of this kind have a say in policy.
            #[must_use]
            pub const fn has_kind(kind: Kind) -> bool {
                matches!(kind, $(Kind::$kind)|*)
            }

            /// The object's name in a datastore.
            #[must_use]
            pub fn key(&self) -> Key {
                match self {
                    $(Self::$kind(object) => object.key(),)*
                    Self::EndpointElsewhere(endpoint) => endpoint.key(),
                }
            }

            /// Reads a stored object; `None` if it has no say in policy.
            ///
            /// The name under which it is stored counts, not the one in its metadata.
            ///
            /// # Errors
            ///
            /// [`StoreError::BadObject`] if the text does not describe an object of its kind.
            pub fn decode(entry: &Entry) -> Result<Option<Self>, StoreError> {
                let Key::Resource { kind, namespace, name } = &entry.key else { return Ok(None) };
                Ok(match kind {
                    $(Kind::$kind => {
                        let mut object: $kind = entry.resource()?;
                        object.metadata.name.clone_from(name);
                        object.metadata.namespace = namespace.clone().unwrap_or_default();
                        Some(object.into())
                    })*
                    _ => None,
                })
            }

            /// As [`decode`](Self::decode), for the node of this name: of other nodes' endpoints no
            /// more is read than a graph for it takes in, which is several times as fast.
            ///
            /// # Errors
            ///
            /// As [`decode`](Self::decode). Mistakes in what only an endpoint's own node uses are
            /// not found.
            pub fn decode_for(node: &str, entry: &Entry) -> Result<Option<Self>, StoreError> {
                match EndpointOutline::read(&entry.key, &entry.value, node) {
                    Some(outline) => Ok(Some(Self::EndpointElsewhere(Box::new(outline)))),
                    None => Self::decode(entry),
                }
            }

            /// Types a resource of any kind, such as one from a manifest; `None` if it has no say
            /// in policy.
            ///
            /// # Errors
            ///
            /// The first field that does not fit the kind.
            pub fn from_resource(resource: &AnyResource) -> Result<Option<Self>, FieldError> {
                Ok(match resource.kind {
                    $(Kind::$kind => {
                        let typed: $kind = resource.typed()?;
                        Some(typed.into())
                    })*
                    _ => None,
                })
            }
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Box::new(object))
            }
        })*
    };
}

objects! {
    /// Where services have their addresses, in `default`.
    BgpConfiguration;
    /// Settings of the node agents: `default`, and `node.<name>` for one node.
    FelixConfiguration;
    /// A policy for endpoints of all namespaces.
    GlobalNetworkPolicy;
    /// A labelled list of networks.
    GlobalNetworkSet;
    /// An interface of a host that policy protects, on this node or another.
    HostEndpoint;
    /// A range of workload addresses.
    IpPool;
    /// What stands behind a service.
    KubernetesEndpointSlice;
    /// A policy for the endpoints of one namespace.
    NetworkPolicy;
    /// A labelled list of networks in a namespace.
    NetworkSet;
    /// A host.
    Node;
    /// Rules and labels that endpoints name.
    Profile;
    /// A group of policies.
    Tier;
    /// A workload's interface, on this node or another.
    WorkloadEndpoint;
}

impl<T: Into<Object>> From<T> for Input {
    fn from(object: T) -> Self {
        Self::Put(object.into())
    }
}

/// An object that was refused. The version that was in force before, if any, stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// Fields do not make sense.
    #[error("{key} was refused, its last good version stays in force: {}", List(errors))]
    Invalid {
        /// The object.
        key: Key,
        /// Everything that is wrong.
        errors: Vec<FieldError>,
    },
    /// The stored text does not describe an object.
    #[error(transparent)]
    Unreadable(#[from] StoreError),
}

/// Something in an object that is accepted but does not do what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The object.
    pub key: Key,
    /// What, and where in it.
    pub problem: FieldError,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

struct List<'a>(&'a [FieldError]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}
