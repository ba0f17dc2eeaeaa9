//! The bare netlink calls.

use std::time::{Duration, Instant};

use calico_netlink::address;
use calico_netlink::link::{self, MacAddr, VethEnd};
use calico_netlink::netns::Netns;
use calico_netlink::rtnl::Connection;

use crate::error::LabError;
use crate::netns::enter;

const ADDRESS: [u8; 4] = [10, 65, 0, 2];

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Creates the veth with its peer in the pod's namespace at once.
pub(super) fn in_place(host: &str, name: &str, pod: &str) -> Result<Duration, LabError> {
    time(host, pod, |pod| {
        let mut connection = Connection::open()?;
        let mac = Some(MacAddr([0xee; 6]));
        let near = VethEnd { name, mac, up: true, ..VethEnd::default() };
        let far = VethEnd { name: "eth0", netns: Some(pod), ..VethEnd::default() };
        link::create_veth(&mut connection, &near, &far)?;
        inside(pod)
    })
}

/// Creates the veth here and moves its peer, as most plugins do.
pub(super) fn moved(host: &str, name: &str, pod: &str) -> Result<Duration, LabError> {
    time(host, pod, |pod| {
        let mut connection = Connection::open()?;
        let near = VethEnd { name, ..VethEnd::default() };
        let far = VethEnd { name: "temporary", ..VethEnd::default() };
        link::create_veth(&mut connection, &near, &far)?;
        link::move_to(&mut connection, "temporary", pod, Some("eth0"))?;
        link::set_up(&mut connection, name)?;
        inside(pod)
    })
}

fn time(
    host: &str,
    pod: &str,
    way: impl FnOnce(&Netns) -> Outcome + Send,
) -> Result<Duration, LabError> {
    let path = crate::netns::path(pod);
    let timed = enter(host, || -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
        let pod = Netns::open(&path)?;
        let start = Instant::now();
        way(&pod)?;
        Ok(start.elapsed())
    })?;
    timed.map_err(|error| LabError::Machine(format!("the bare calls failed: {error}")))
}

fn inside(pod: &Netns) -> Outcome {
    pod.run(|| {
        let mut connection = Connection::open()?;
        let eth0 = link::by_name(&mut connection, "eth0")?.ok_or("no eth0")?;
        let address = std::net::IpAddr::from(ADDRESS);
        address::add(&mut connection, eth0.index, address.into())?;
        link::set_up(&mut connection, "eth0")?;
        Ok(())
    })?
}
