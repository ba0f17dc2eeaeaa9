//! Labs of network namespaces that run the real programs.

pub mod topology;
