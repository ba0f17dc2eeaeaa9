//! What an object takes that is kept in memory.

use calico_core::datastore::{Entry, Listing, Revision};
use calico_core::memory::{Change, Table};

use super::{key, sys, value};

/// Prints bytes per object of a table that was filled change by change, and of one that took over
/// a listing.
pub(crate) fn measure(objects: usize) {
    let compact: usize = (0..objects).map(|n| value(n, 0).len()).sum();
    println!("an object has {} bytes of compact JSON", compact / objects);

    sys::count(true);
    let before = sys::used();
    let mut table = Table::new(0);
    for n in 0..objects {
        let (key, value, revision) = (key(n), Some(value(n, 0)), Revision(n as u64 + 1));
        table.apply(Change { key, value, revision });
    }
    print("in a table (memory, embedded store)", sys::used() - before, objects, compact);
    drop(table);

    let before = sys::used();
    let mut table = Table::new(0);
    let entry = |n| Entry { key: key(n), value: value(n, 0), revision: Revision(1) };
    let entries = (0..objects).map(entry).collect();
    table.replace(Listing { entries, revision: Revision(1) });
    print("in a table that was listed (fan-out)", sys::used() - before, objects, compact);
    drop(table);
    sys::count(false);
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn print(what: &str, bytes: usize, objects: usize, compact: usize) {
    let ratio = bytes as f64 / compact as f64;
    println!("{what:<44} {:>6} bytes: {ratio:>5.2} of its JSON", bytes / objects);
}
