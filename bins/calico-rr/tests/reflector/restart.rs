//! Another program takes the place of the one that ran, and the peers notice nothing but that.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::clients;
use super::lab::{Lab, Router, lab};

const ROUTES: [(usize, &str); 4] =
    [(1, "10.65.2.0/24"), (1, "fd65:2::/64"), (2, "10.65.1.0/24"), (2, "fd65:1::/64")];

/// Ends the reflector, starts it anew, and looks all the time whether the routers have their
/// routes.
fn replaced(lab: &mut Lab, how: Signal) {
    let (done, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let birds: Vec<_> = [1, 2].map(|n| lab.path(&format!("bird{n}.ctl"))).into();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (n, prefix) in ROUTES {
                    let output = std::process::Command::new("birdc")
                        .arg("-s")
                        .arg(&birds[n - 1])
                        .args(["show", "route", "for", prefix])
                        .output()
                        .unwrap();
                    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
                    if !seen.contains(prefix) {
                        return Err(format!("router {n} lost {prefix}: {seen}"));
                    }
                }
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        lab.end_reflector(how);
        lab.until("the routers have lost their sessions", |lab| {
            [1, 2].iter().all(|n| !lab.birdc(*n, "show protocols").contains("Established"))
        });
        // It is away for a while, and somebody looks.
        let before = looks.load(Ordering::Relaxed);
        lab.until("somebody looks", |_| {
            watcher.is_finished() || looks.load(Ordering::Relaxed) > before + 10
        });
        let file = lab.path("rr.toml");
        lab.start_reflector_with(&["--config", &file.to_string_lossy()]);
        lab.until_established(4);
        lab.until("it has told all it knows", |lab| {
            let peers = lab.peers();
            peers.converged && peers.peers.iter().all(|peer| peer.advertised == 1)
        });
        lab.until("no route is marked stale any more", |lab| {
            [1, 2].iter().all(|n| !lab.birdc(*n, "show route all").to_lowercase().contains("stale"))
        });
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap().unwrap_or_else(|lost: String| panic!("{lost}"));
    });
    assert!(lab.log().contains("restarting=true"), "{}", lab.log());
}

fn two_routers() -> Option<Lab> {
    let mut lab = lab(2)?;
    lab.start_reflector(&clients(2));
    lab.start_router(1, Router::default());
    lab.start_router(2, Router::default());
    lab.until("everything is told", |lab| {
        ROUTES.iter().all(|(n, prefix)| lab.has_route(*n, prefix))
    });
    Some(lab)
}

#[test]
fn peers_keep_their_routes_over_an_upgrade() {
    let Some(mut lab) = two_routers() else { return };
    replaced(&mut lab, Signal::SIGTERM);
    // And again: the mark is still there.
    replaced(&mut lab, Signal::SIGKILL);
}

#[test]
fn peers_drop_the_routes_of_a_reflector_that_stops_for_good() {
    let Some(mut lab) = lab(2) else { return };
    lab.start_reflector(&format!("on_stop = 'cease'\n{}", clients(2)));
    lab.start_router(1, Router::default());
    lab.start_router(2, Router::default());
    lab.until("everything is told", |lab| {
        ROUTES.iter().all(|(n, prefix)| lab.has_route(*n, prefix))
    });
    lab.end_reflector(Signal::SIGTERM);
    lab.until("the routes are gone", |lab| {
        ROUTES.iter().all(|(n, prefix)| !lab.has_route(*n, prefix))
    });
    let file = lab.path("rr.toml");
    lab.start_reflector_with(&["--config", &file.to_string_lossy()]);
    assert!(lab.log().contains("restarting=false"), "{}", lab.log());
}
