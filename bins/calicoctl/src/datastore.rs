//! `datastore migrate`: everything out of one datastore and into another.
//!
//! The file has upstream's three sections, separated by lines of `===`: resources as YAML,
//! ClusterInformation as JSON, and IPAM's data as JSON.

mod export;
mod file;
mod import;
mod rename;

pub(crate) use self::export::export;
pub(crate) use self::import::import;

use calico_core::Datastore;

use crate::cluster;
use crate::failure::Failure;

/// Tells agents and controllers to leave the datastore alone.
pub(crate) async fn lock(store: &dyn Datastore) -> Result<String, Failure> {
    cluster::set_ready(store, false).await?;
    Ok("Datastore locked.\n".to_owned())
}

/// Tells them to go on.
pub(crate) async fn unlock(store: &dyn Datastore) -> Result<String, Failure> {
    cluster::set_ready(store, true).await?;
    Ok("Datastore unlocked.\n".to_owned())
}

#[cfg(test)]
mod tests;
