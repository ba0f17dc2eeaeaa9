//! Felix' own calculation graph beside ours.
//!
//! `graph/` is a small Go program around upstream's packages: it takes resources, converts them
//! with upstream's processors, feeds upstream's graph, and prints what the graph says to a
//! dataplane. [`play`] tells the same [`story`] to both graphs, [`ours`] and [`theirs`] bring what
//! they ask for into one [`canonical`] form, in which both must be equal.
//!
//! What Felix said about some stories is [`recorded`] in `cases/`, so that a usual run of the
//! tests needs neither Go nor a network. `cargo xtask felix` makes the recordings anew, plays
//! further random stories, and measures both graphs (`benches/peer.rs`).
//!
//! ```
//! use calico_felix_tests::{play, story::Story};
//!
//! let story: Story = "
//!     WorkloadEndpoint a/n1-k8s-p-eth0 {} {node: n1, orchestrator: k8s, pod: p, endpoint: eth0, \
//!         interfaceName: cali1, ipNetworks: [10.65.0.1/32]}
//!     NetworkPolicy a/web {} {ingress: [{action: Allow, protocol: TCP}]}
//!     compare
//! ".parse().unwrap();
//! let outcome = play::ours(&story, &Default::default()).unwrap();
//! assert_eq!(outcome.states[0].0["policy a/web"], "in allow proto=6");
//! ```

#![forbid(unsafe_code)]

pub mod canonical;
pub mod ours;
pub mod play;
pub mod recorded;
pub mod story;
pub mod theirs;
