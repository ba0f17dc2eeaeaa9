//! Small streams for backends that have nothing to say.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

/// A stream that stays open and never yields.
#[derive(Debug, Clone, Copy)]
pub struct Silent<T>(PhantomData<fn() -> T>);

impl<T> Default for Silent<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Stream for Silent<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Pending
    }
}
