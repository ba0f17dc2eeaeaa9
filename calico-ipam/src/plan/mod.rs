//! What IPAM decides, without IO, clock or randomness: time and seeds are arguments.

mod allocation;
pub mod block;
pub mod collect;
pub mod geometry;
pub mod owner;
pub mod pool;
pub mod reserved;
pub mod service;
pub mod time;
pub mod tunnel;
