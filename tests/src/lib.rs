//! Tests that join libraries which do not know each other.
//!
//! `tests/differential.rs` holds the reference evaluator of `calico-policy` against the kernel as
//! `calico-netlink` programs it: random policies ([`random`]), told in a small language
//! ([`scenario`]), random packets ([`wire`]) really sent between network namespaces ([`lab`]).
//! What the evaluator foretells ([`predict`]) and what the kernel does must be the same: whether
//! each packet arrives, which rules counted it, and what was reported about it ([`rig`]). What of
//! policy the packets reached is counted ([`coverage`]), and all of it must be. Random scenarios can
//! be had again ([`replay`]).
//!
//! `tests/optimised.rs` plays the same scenarios without a kernel: the evaluator must say the same of
//! what the engine made of them, and of a compilation that shares and leaves out nothing ([`plain`]).
//!
//! `tests/kubernetes.rs` has what Kubernetes' NetworkPolicy means in tables ([`reach`]): its objects
//! ([`cluster`]) are converted as the Kubernetes datastore does it, and then take the same way, from
//! every pod to every other. A reading of Kubernetes' documentation that knows nothing of ours
//! ([`oracle`]) must come to the same tables.
//!
//! ```
//! use calico_tests::scenario::Scenario;
//!
//! let scenario: Scenario = "
//!     WorkloadEndpoint a/p1 {app: web} {node: n1, interfaceName: cali1, ipNetworks: [10.65.0.1/32]}
//!     NetworkPolicy a/web {} {ingress: [{action: Allow, protocol: TCP}]}
//!     send out 203.0.113.5 10.65.0.1 6 40000 80
//! ".parse().unwrap();
//! assert_eq!((scenario.objects.len(), scenario.probes.len()), (2, 1));
//! ```

#![forbid(unsafe_code)]
// Everything here is for tests, which fail by panicking.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod cluster;
pub mod coverage;
pub mod dump;
pub mod lab;
pub mod oracle;
pub mod plain;
pub mod predict;
pub mod random;
pub mod reach;
pub mod replay;
pub mod rig;
pub mod scenario;
mod stack;
pub mod wire;
