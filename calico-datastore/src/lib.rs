//! Calico in Rust: datastore.
