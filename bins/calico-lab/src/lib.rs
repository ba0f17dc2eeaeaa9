//! Labs of network namespaces that run the real programs.
//!
//! A [topology] becomes a [`Lab`]: a network namespace per node, joined by veth to a
//! fabric, with `calico-agent` in each; a namespace per pod, made by the CNI protocol; route
//! reflectors and BIRD routers beside them. The network of the machine itself is not touched.
//! A lab is removed when it is dropped; [`cleanup`] removes what a killed one left.
//!
//! ```
//! use calico_lab::topology::Topology;
//!
//! let text = "
//! name: tiny
//! nodes: [{ name: node1, addresses: [172.30.0.11/24] }]
//! pools: [{ name: v4, cidr: 10.244.0.0/16 }]
//! pods: [{ name: web, node: node1, tcp: [80] }]
//! ";
//! let topology = Topology::parse("tiny.yaml", text)?;
//! # let _ = async {
//! let lab = calico_lab::Lab::up(topology.clone(), text).await?; // needs root
//! println!("{}", lab.route_text("node1", false)?);
//! lab.remove()?;
//! # Ok::<(), calico_lab::LabError>(())
//! # };
//! assert_eq!(topology.pods[0].id(), "default/web");
//! # Ok::<(), calico_lab::topology::TopologyError>(())
//! ```

pub mod bench;
pub mod builtin;
pub mod cleanup;
pub mod cni;
pub mod control;
pub mod demo;
pub mod error;
pub mod fabric;
mod frr;
mod ip;
pub mod lab;
pub mod netns;
pub mod probe;
mod process;
pub mod programs;
pub mod record;
mod reflector;
mod router;
mod screen;
mod service;
pub mod store;
pub mod topology;
pub mod wait;

pub use error::LabError;
pub use lab::Lab;
