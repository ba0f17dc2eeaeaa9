//! The speaker as Calico's [`RouteDistributor`].

use std::collections::HashSet;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use calico_core::routes::{
    DistributorError, LearnedRoute, RouteDistributor, RouteEvent, RouteStream,
};
use futures_core::Stream;
use ipnet::IpNet;

use super::{RouteSubscription, RouteUpdate, SpeakerHandle, SpeakerStopped};
use crate::rib::BestRoute;
use crate::wire::PathAttributes;

impl From<SpeakerStopped> for DistributorError {
    fn from(_: SpeakerStopped) -> Self {
        Self::Stopped
    }
}

#[async_trait]
impl RouteDistributor for SpeakerHandle {
    async fn announce(&self, prefixes: Vec<IpNet>) -> Result<(), DistributorError> {
        let routes = prefixes.into_iter().map(|p| (p, PathAttributes::default())).collect();
        match Self::announce(self, routes).await?.first() {
            None => Ok(()),
            Some(prefix) => Err(DistributorError::Refused {
                prefix: *prefix,
                reason: "it means nothing beyond one link".to_owned(),
            }),
        }
    }

    async fn withdraw(&self, prefixes: Vec<IpNet>) -> Result<(), DistributorError> {
        Ok(Self::withdraw(self, prefixes).await?)
    }

    fn learned(&self) -> RouteStream {
        Box::pin(Learned { routes: self.subscribe(), known: HashSet::new() })
    }
}

/// The best routes without this speaker's own.
struct Learned {
    routes: RouteSubscription,
    /// What was handed out, so that only that is taken back: 18 octets per route.
    known: HashSet<IpNet>,
}

impl Stream for Learned {
    type Item = RouteEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RouteEvent>> {
        loop {
            let Some(update) = ready!(Pin::new(&mut self.routes).poll_next(cx)) else {
                return Poll::Ready(None);
            };
            let event = match update {
                RouteUpdate::Begin => {
                    self.known.clear();
                    RouteEvent::Begin
                }
                RouteUpdate::Ready => RouteEvent::Ready,
                RouteUpdate::Item(route) if is_learned(&route) => {
                    self.known.insert(route.prefix);
                    RouteEvent::Item(learned(route))
                }
                RouteUpdate::Put(route) if is_learned(&route) => {
                    self.known.insert(route.prefix);
                    RouteEvent::Put(learned(route))
                }
                // A learned route that our own takes the place of is gone.
                RouteUpdate::Item(BestRoute { prefix, .. })
                | RouteUpdate::Put(BestRoute { prefix, .. })
                | RouteUpdate::Gone(prefix) => {
                    if !self.known.remove(&prefix) {
                        continue;
                    }
                    RouteEvent::Gone(prefix)
                }
            };
            return Poll::Ready(Some(event));
        }
    }
}

/// Whether the route leads somewhere else; this speaker's own have no next hop.
const fn is_learned(route: &BestRoute) -> bool {
    !route.next_hops.is_empty()
}

fn learned(route: BestRoute) -> LearnedRoute {
    let local_pref = route.attributes.local_pref;
    LearnedRoute { prefix: route.prefix, next_hops: route.next_hops, local_pref }
}
