//! Calls that come at the same time share one write to the store.

use std::net::IpAddr;

use calico_core::datastore::Write;
use calico_ipam::{Allocator, AssignRequest, Ending, IpamError, Outcome};

use super::turns::{Item, Turns};

/// What is written along with the addresses of a request.
pub(super) type Along = Box<dyn Fn(&[IpAddr]) -> Vec<Write> + Send + Sync>;

/// Requests for addresses, and releases of them, that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    assign: Turns<Assignment>,
    release: Turns<Releases>,
}

impl Queue {
    /// Assigns addresses, together with whoever else wants some now.
    pub(super) async fn assign(
        &self,
        allocator: &Allocator,
        request: AssignRequest,
        along: Along,
    ) -> Outcome {
        let outcome = self.assign.take(Assignment { request, along }, allocator).await;
        outcome.unwrap_or_else(|| Outcome { assigned: Err(broken_off("assigning")), also: None })
    }

    /// Releases handles, together with whoever else wants to now.
    ///
    /// # Errors
    ///
    /// If anything is in the way of any of them: then each is to be released on its own.
    pub(super) async fn release(
        &self,
        allocator: &Allocator,
        endings: Vec<Ending>,
    ) -> Result<(), IpamError> {
        let released = self.release.take(Releases(endings), allocator).await;
        released.unwrap_or_else(|| Err(broken_off("releasing")))
    }
}

struct Assignment {
    request: AssignRequest,
    along: Along,
}

impl Item for Assignment {
    type Answer = Outcome;
    type With = Allocator;

    async fn serve(batch: Vec<Self>, allocator: &Allocator) -> Vec<Outcome> {
        let (requests, along): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|item| (item.request, item.along)).unzip();
        let also = |nth: usize, assigned: &calico_ipam::Assigned| {
            let addresses: Vec<IpAddr> = assigned.addresses().map(|a| a.ip).collect();
            along.get(nth).map(|along| along(&addresses)).unwrap_or_default()
        };
        allocator.assign_along(&requests, also).await
    }
}

struct Releases(Vec<Ending>);

impl Item for Releases {
    type Answer = Result<(), IpamError>;
    type With = Allocator;

    async fn serve(batch: Vec<Self>, allocator: &Allocator) -> Vec<Self::Answer> {
        let count = batch.len();
        let endings: Vec<Ending> = batch.into_iter().flat_map(|item| item.0).collect();
        vec![allocator.release_along(&endings).await.map(drop); count]
    }
}

/// The call that served this one was dropped: nobody knows what became of it.
fn broken_off(what: &str) -> IpamError {
    let what = format!("{what} addresses together with a call that broke off");
    IpamError::Contention { what, attempts: 1 }
}
