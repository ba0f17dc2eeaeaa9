//! The speaker as Calico's [`RouteDistributor`].

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
        Box::pin(Learned { routes: self.subscribe() })
    }
}

/// The best routes without this speaker's own.
struct Learned {
    routes: RouteSubscription,
}

impl Stream for Learned {
    type Item = RouteEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RouteEvent>> {
        loop {
            let Some(update) = ready!(Pin::new(&mut self.routes).poll_next(cx)) else {
                return Poll::Ready(None);
            };
            let event = match update {
                RouteUpdate::Begin => RouteEvent::Begin,
                RouteUpdate::Ready => RouteEvent::Ready,
                RouteUpdate::Gone(prefix) => RouteEvent::Gone(prefix),
                RouteUpdate::Item(route) => match learned(route) {
                    Ok(route) => RouteEvent::Item(route),
                    Err(_own) => continue,
                },
                // A learned route that our own takes the place of is gone.
                RouteUpdate::Put(route) => match learned(route) {
                    Ok(route) => RouteEvent::Put(route),
                    Err(prefix) => RouteEvent::Gone(prefix),
                },
            };
            return Poll::Ready(Some(event));
        }
    }
}

/// The route if it leads somewhere else, or its prefix.
fn learned(route: BestRoute) -> Result<LearnedRoute, IpNet> {
    if route.next_hops.is_empty() {
        return Err(route.prefix);
    }
    Ok(LearnedRoute { prefix: route.prefix, next_hops: route.next_hops })
}
