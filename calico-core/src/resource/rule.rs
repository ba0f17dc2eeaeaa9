//! Rules of policies and profiles.

use std::collections::BTreeMap;

use super::choices::choices;
use super::object::object;
use super::{Cidr, Port, Protocol};

object! {
    /// One rule: what it matches, and what happens then. All its conditions must hold.
    pub struct Rule {
        /// What happens to traffic that matches.
        pub action: Action = "action" (required),
        /// 4 or 6; unset matches both.
        pub ip_version: Option<u8> = "ipVersion",
        /// The protocol.
        pub protocol: Option<Protocol> = "protocol",
        /// ICMP type and code.
        pub icmp: Option<Icmp> = "icmp",
        /// Any protocol but this.
        pub not_protocol: Option<Protocol> = "notProtocol",
        /// Any ICMP type and code but these.
        pub not_icmp: Option<Icmp> = "notICMP",
        /// Where traffic comes from.
        pub source: EntityRule = "source" (always),
        /// Where traffic goes to.
        pub destination: EntityRule = "destination" (always),
        /// HTTP requests; enforced above the packet layer only.
        pub http: Option<HttpMatch> = "http",
        /// Notes on the rule.
        pub metadata: Option<RuleMetadata> = "metadata",
    }

    /// One end of the traffic that a rule matches.
    pub struct EntityRule {
        /// Address in one of these; empty matches any.
        pub nets: Vec<Cidr> = "nets",
        /// Labels of the endpoint or network set.
        pub selector: String = "selector",
        /// Labels of its namespace; `global()` selects what has none.
        pub namespace_selector: String = "namespaceSelector",
        /// A Kubernetes service.
        pub services: Option<ServiceMatch> = "services",
        /// Port is one of these; empty matches any.
        pub ports: Vec<Port> = "ports",
        /// Address in none of these.
        pub not_nets: Vec<Cidr> = "notNets",
        /// Labels do not match this.
        pub not_selector: String = "notSelector",
        /// Port is none of these.
        pub not_ports: Vec<Port> = "notPorts",
        /// Kubernetes service accounts.
        pub service_accounts: Option<ServiceAccountMatch> = "serviceAccounts",
    }

    /// ICMP type and code.
    pub struct Icmp {
        /// Type, 0-254.
        pub icmp_type: Option<u8> = "type",
        /// Code, which needs a type.
        pub code: Option<u8> = "code",
    }

    /// A Kubernetes service.
    pub struct ServiceMatch {
        /// Its name.
        pub name: String = "name",
        /// Its namespace; the policy's when empty.
        pub namespace: String = "namespace",
    }

    /// Kubernetes service accounts, by name, by labels, or both.
    pub struct ServiceAccountMatch {
        /// One of these names; empty matches any.
        pub names: Vec<String> = "names",
        /// Labels of the account.
        pub selector: String = "selector",
    }

    /// HTTP requests.
    pub struct HttpMatch {
        /// One of these methods; empty matches any.
        pub methods: Vec<String> = "methods",
        /// One of these paths; empty matches any.
        pub paths: Vec<HttpPath> = "paths",
    }

    /// A path of HTTP requests: exactly one of the two.
    pub struct HttpPath {
        /// The whole path.
        pub exact: String = "exact",
        /// Its beginning.
        pub prefix: String = "prefix",
    }

    /// Notes on a rule.
    pub struct RuleMetadata {
        /// Free notes, carried to the dataplane.
        pub annotations: BTreeMap<String, String> = "annotations",
    }
}

choices! {
    /// What happens to traffic that a rule matches.
    #[derive(Default)]
    pub enum Action {
        /// It passes; no further rule is looked at.
        Allow = "Allow",
        /// It is dropped; no further rule is looked at.
        #[default]
        Deny = "Deny",
        /// It is logged and goes on to the next rule.
        Log = "Log",
        /// It goes on to the next tier, or to profiles after the last.
        Pass = "Pass",
    }

    /// A direction of traffic, seen from the endpoint.
    pub enum PolicyType {
        /// Into the endpoint.
        Ingress = "Ingress",
        /// Out of the endpoint.
        Egress = "Egress",
    }
}

impl Rule {
    /// A rule that does `action` to everything.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self { action, ..Self::default() }
    }

    /// Whether the rule has no condition.
    #[must_use]
    pub fn matches_everything(&self) -> bool {
        let conditions = Self { metadata: None, ..self.clone() };
        conditions == Self::new(self.action)
    }
}
