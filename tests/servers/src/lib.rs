//! A real kube-apiserver and a real etcd, for tests and for the lab.
//!
//! [`programs`] finds the programs, or builds them with the Go toolchain; [`control_plane`] knows
//! their arguments, certificates and accounts, and leaves it to others to run them (the lab does,
//! in a network namespace); [`api`] asks an API server; [`cluster`] joins all of it on loopback
//! for the tests of a crate, and [`crowd`] fills it with pods.
//!
//! ```no_run
//! use calico_test_servers::cluster::{Cluster, Etcd};
//! use serde_json::Value;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let cluster = Cluster::start(Etcd::Current);
//! let nodes = cluster.must("GET", "/api/v1/nodes", Value::Null).await;
//! assert_eq!(nodes["items"].as_array().map(Vec::len), Some(0));
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod api;
pub mod cluster;
pub mod control_plane;
pub mod crowd;
pub mod programs;

use std::path::{Path, PathBuf};

/// Who may do everything.
pub const ADMIN: &str = "admin-token";
/// Who may do nothing.
pub const NOBODY: &str = "nobody-token";

/// The workspace: where `deploy/` and the Go module are.
///
/// # Errors
///
/// If this program does not run on the machine that it was built on.
pub fn workspace() -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().find(|dir| dir.join("tests/kube-apiserver/go.mod").exists());
    root.map(Path::to_owned).ok_or_else(|| {
        format!("{} is not part of the workspace any more; build anew", manifest.display())
    })
}
