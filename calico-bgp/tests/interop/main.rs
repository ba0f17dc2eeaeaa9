//! This speaker against BIRD, FRR, GoBGP, ExaBGP and OpenBGPD, in network namespaces.
//!
//! Each scenario has a daemon of its own; what comes out of all of them is the matrix in
//! `docs/bgp-interop.md`. After a change, write it anew with
//!
//! ```text
//! UPDATE=1 cargo test -p calico-bgp --test interop
//! ```
//!
//! `SCENARIO=passwords cargo test -p calico-bgp --test interop frr -- --nocapture` plays the
//! scenarios of that name with one daemon and shows the end of its log if they fail.

#![cfg(feature = "runtime")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemons;
mod feature;
mod lab;
mod matrix;
mod runner;
mod scenarios;
mod stage;

use daemons::Kind;

/// Whether there is anything to do.
fn privileged() -> bool {
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|v| v == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1)");
        return false;
    }
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
    true
}

/// Everything with one daemon.
fn check(kind: Kind) {
    if privileged() {
        let failures = runner::results(kind).failures();
        assert!(failures.is_empty(), "{}: {failures:#?}", kind.name());
    }
}

#[test]
fn bird() {
    check(Kind::Bird);
}

#[test]
fn frr() {
    check(Kind::Frr);
}

#[test]
fn gobgp() {
    check(Kind::GoBgp);
}

#[test]
fn exabgp() {
    check(Kind::ExaBgp);
}

#[test]
fn openbgpd() {
    check(Kind::OpenBgpd);
}

#[test]
fn matrix_in_docs_is_what_was_seen() {
    if privileged() {
        matrix::check();
    }
}
