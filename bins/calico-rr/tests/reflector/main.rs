//! The real calico-rr, with BIRD 2 (Debian package `bird2`) as its clients, asked by the real
//! calicoctl.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;
mod questions;
mod reload;
mod resources;
mod restart;

use lab::{Router, lab};
use nix::sys::signal::Signal;

/// A reflector with the routers of the lab as clients, each over both families.
fn clients(routers: usize) -> String {
    let mut text = "as = 64512\nrouter_id = '10.9.0.1'\nmetrics = '127.0.0.1:9179'\n".to_owned();
    for n in 1..=routers {
        for address in [format!("10.9.{n}.2"), format!("fd09:{n}::2")] {
            text.push_str(&client(&address));
        }
    }
    text
}

fn client(address: &str) -> String {
    format!("[[neighbor]]\naddress = '{address}'\nconnect_retry = 1\n")
}

#[test]
fn dynamic_neighbors_with_a_password_hear_of_each_other() {
    let Some(mut lab) = lab(2) else { return };
    std::fs::write(lab.path("secret"), "hush\n").unwrap();
    lab.start_reflector(&format!(
        "as = 64512\nrouter_id = '10.9.0.1'\n\
         [group.nodes]\npassword_file = {:?}\nprefix_limit = 10\n\
         [[dynamic]]\nprefix = '10.9.0.0/16'\ngroup = 'nodes'\n\
         [[dynamic]]\nprefix = 'fd09::/16'\ngroup = 'nodes'\n",
        lab.path("secret")
    ));
    let right = Router { options: "password \"hush\";", ..Router::default() };
    lab.start_router(1, right);
    lab.start_router(2, right);
    lab.until("both hear of each other", |lab| {
        lab.has_route(1, "10.65.2.0/24")
            && lab.has_route(2, "10.65.1.0/24")
            && lab.has_route(1, "fd65:2::/64")
            && lab.has_route(2, "fd65:1::/64")
    });
    let peers = lab.peers().peers;
    assert!(peers.iter().all(|peer| peer.dynamic && peer.relation == "client"), "{peers:?}");
    lab.end_reflector(Signal::SIGTERM);
    assert!(lab.log().contains("peers keep the routes"), "{}", lab.log());
}
