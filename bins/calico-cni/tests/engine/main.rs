//! What each verb does, and what is left after each failure.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod attach;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod gone;
mod many;
