//! An allocator that counts the bytes that are in use.

#![expect(unsafe_code, reason = "an allocator cannot be had without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static USED: AtomicUsize = AtomicUsize::new(0);
/// Counting takes time, most of all between threads: it is off while time is measured.
static COUNTS: AtomicBool = AtomicBool::new(false);

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

/// Counts from now on, or no longer.
pub(crate) fn count(on: bool) {
    COUNTS.store(on, Ordering::Relaxed);
}

/// Bytes that were taken into use since counting began, as they were asked for.
pub(crate) fn used() -> usize {
    USED.load(Ordering::Relaxed)
}

// SAFETY: every call goes to the system's allocator as it came; counting changes nothing about it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Ordering::Relaxed) {
            USED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller keeps what `System` asks for, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if COUNTS.load(Ordering::Relaxed) {
            USED.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: `place` came from `alloc` above, and so from `System`.
        unsafe { System.dealloc(place, layout) }
    }
}
