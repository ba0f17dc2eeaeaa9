//! Host endpoints: interfaces of a host that policy applies to.

use std::net::IpAddr;

use super::object::object;
use super::{Errors, NoStatus, ObjectMeta, Protocol, Resource, Spec};
use crate::kind::Kind;

/// An interface of a host that policy applies to.
pub type HostEndpoint = Resource<HostEndpointSpec>;

object! {
    /// Which interface of which node.
    pub struct HostEndpointSpec {
        /// The node.
        pub node: String = "node",
        /// The interface; `*` is every one that leads to no workload.
        pub interface_name: String = "interfaceName",
        /// Addresses that identify the interface when it is not named.
        pub expected_ips: Vec<IpAddr> = "expectedIPs",
        /// Profiles, tried in order after policy.
        pub profiles: Vec<String> = "profiles",
        /// Named ports.
        pub ports: Vec<EndpointPort> = "ports",
    }

    /// A port with a name that rules use.
    pub struct EndpointPort {
        /// The name.
        pub name: String = "name" (required),
        /// TCP, UDP or SCTP.
        pub protocol: Option<Protocol> = "protocol" (required),
        /// The number.
        pub port: u16 = "port" (required),
    }
}

impl Spec for HostEndpointSpec {
    const KIND: Kind = Kind::HostEndpoint;
    type Status = NoStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::host_endpoint(self, errors);
    }
}
