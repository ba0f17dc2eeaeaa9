//! Changing the configuration of a running reflector.

use std::net::IpAddr;

use calico_control::PeerInfo;
use nix::sys::signal::Signal;

use super::lab::{Lab, Router, lab};
use super::{client, clients};

fn peer(lab: &Lab, address: &str) -> PeerInfo {
    let address: IpAddr = address.parse().unwrap();
    lab.peers().peers.into_iter().find(|peer| peer.address == address).unwrap()
}

#[test]
fn a_changed_neighbor_disturbs_no_other() {
    let Some(mut lab) = lab(2) else { return };
    lab.start_reflector(&clients(2));
    lab.start_router(1, Router::default());
    lab.start_router(2, Router::default());
    lab.until_established(4);
    lab.until("they hear of each other", |lab| {
        lab.has_route(1, "10.65.2.0/24") && lab.has_route(2, "10.65.1.0/24")
    });

    // The file is watched: a neighbor more, and another hold time for the second router.
    let second = client("10.9.2.2");
    let config = clients(2).replace(&second, &format!("{second}hold_time = 30\n"));
    lab.write_config(&(config.clone() + &client("10.9.77.2")));
    lab.until("the change is in force", |lab| lab.peers().peers.len() == 5);
    lab.until("the changed session is back", |lab| {
        let changed = peer(lab, "10.9.2.2");
        changed.session.is_some_and(|session| session.hold_time == 30)
    });
    let undisturbed = |lab: &Lab| {
        for address in ["10.9.1.2", "fd09:1::2", "fd09:2::2"] {
            let peer = peer(lab, address);
            assert_eq!((peer.established, peer.lost), (1, 0), "{address}");
        }
    };
    undisturbed(&lab);

    // A filter is changed, on a signal: no session is lost for it.
    let first = client("10.9.1.2");
    let filtered = config.replace(&first, &format!("{first}export = 'reject-all'\n"));
    lab.write_config(&filtered);
    lab.signal(Signal::SIGHUP);
    lab.until("the route is taken back", |lab| !lab.has_route(1, "10.65.2.0/24"));
    undisturbed(&lab);
    assert_eq!(peer(&lab, "10.9.2.2").lost, 0, "a session that starts anew is another peer's");

    // What cannot be used changes nothing, and is told.
    for (bad, told) in [
        (filtered.replace("'reject-all'", "'reject-al'"), "there is no filter"),
        (filtered.replace("as = 64512\n", "as = 64513\n"), "a change of as needs a restart"),
        (String::new(), "`as` is missing"),
    ] {
        lab.write_config(&bad);
        lab.until(told, |lab| lab.log().contains(told));
        undisturbed(&lab);
        assert_eq!(lab.peers().as_number, 64512);
    }

    // Neighbors that are gone are gone.
    lab.write_config(&clients(1));
    lab.until("two neighbors are left", |lab| lab.peers().peers.len() == 2);
    lab.until("the other router has no session", |lab| {
        !lab.birdc(2, "show protocols").contains("Established")
    });
    for address in ["10.9.1.2", "fd09:1::2"] {
        assert_eq!(peer(&lab, address).lost, 0, "{address}");
    }
    lab.until("without its filter the first router hears nothing of the second", |lab| {
        !lab.has_route(1, "10.65.2.0/24")
    });
}
