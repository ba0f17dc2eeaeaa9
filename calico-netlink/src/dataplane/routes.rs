//! The seam between this dataplane and what programs routes.

use std::fmt;

use async_trait::async_trait;
use calico_core::dataplane::{DataplaneError, Route};
use ipnet::IpNet;

/// Programs routes for [`LinuxDataplane`](super::LinuxDataplane). It owns the routes it made and
/// recognises them in the kernel (by their protocol), also those of an earlier run.
#[async_trait]
pub trait RouteProgrammer: fmt::Debug + Send + Sync {
    /// Makes these routes exist, and none of ours for the destinations in `gone`.
    ///
    /// # Errors
    /// When the kernel refuses one; the others are programmed nevertheless.
    async fn change(&self, have: &[Route], gone: &[IpNet]) -> Result<(), DataplaneError>;

    /// Makes exactly these our routes. Returns what was missing or wrong, one line each. Unless
    /// `learned`, routes over other routers that an earlier run left stay.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    async fn replace_all(
        &self,
        routes: &[Route],
        learned: bool,
    ) -> Result<Vec<String>, DataplaneError>;
}

/// Programs no routes: for hosts whose routes others manage, and for tests of policy alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRoutes;

#[async_trait]
impl RouteProgrammer for NoRoutes {
    async fn change(&self, _have: &[Route], _gone: &[IpNet]) -> Result<(), DataplaneError> {
        Ok(())
    }

    async fn replace_all(
        &self,
        _routes: &[Route],
        _learned: bool,
    ) -> Result<Vec<String>, DataplaneError> {
        Ok(Vec::new())
    }
}
