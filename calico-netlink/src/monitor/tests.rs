use std::time::Duration;

use super::*;
use crate::testing::TestNet;

const SOON: Duration = Duration::from_secs(5);

/// Runs on a thread inside the namespace, with a runtime of its own.
fn inside<T: Send>(net: &TestNet, work: impl AsyncFnOnce() -> T + Send) -> T {
    net.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
}

async fn until(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) -> Event {
    let mut seen = Vec::new();
    let search = async {
        loop {
            let event = monitor.next().await.unwrap();
            if wanted(&event) {
                return event;
            }
            seen.push(event);
        }
    };
    let found = tokio::time::timeout(SOON, search).await;
    found.unwrap_or_else(|_elapsed| panic!("not seen in time; seen: {seen:?}"))
}

fn is(event: &Event, name: &str, change: LinkChange) -> bool {
    matches!(event, Event::Link(event) if event.link.name == name && event.change == change)
}

#[test]
fn interfaces_come_change_and_go() {
    let Some(net) = TestNet::new("monitor") else { return };
    inside(&net, async || {
        let mut monitor = Monitor::open(Follow::default()).unwrap();
        until(&mut monitor, |event| is(event, "lo", LinkChange::New)).await;
        let mut connection = Connection::open().unwrap();
        let near = link::VethEnd { name: "a", ..Default::default() };
        let far = link::VethEnd { name: "b", ..Default::default() };
        link::create_veth(&mut connection, &near, &far).unwrap();
        until(&mut monitor, |event| is(event, "a", LinkChange::New)).await;
        link::set_up(&mut connection, "a").unwrap();
        until(&mut monitor, |event| is(event, "a", LinkChange::Up)).await;
        link::create_bridge(&mut connection, "bridge").unwrap();
        let bridge = link::by_name(&mut connection, "bridge").unwrap().unwrap().index;
        link::set_master(&mut connection, "a", Some(bridge)).unwrap();
        link::set_master(&mut connection, "a", None).unwrap();
        link::set_down(&mut connection, "a").unwrap();
        // Leaving a bridge looks like a removal in another family: it must not be taken for one.
        let event = until(&mut monitor, |event| {
            is(event, "a", LinkChange::Down) || is(event, "a", LinkChange::Gone)
        })
        .await;
        assert!(is(&event, "a", LinkChange::Down), "{event:?}");
        link::delete(&mut connection, "b").unwrap();
        until(&mut monitor, |event| is(event, "a", LinkChange::Gone)).await;
    });
}

#[test]
fn routes_are_followed() {
    let Some(net) = TestNet::new("monitor-route") else { return };
    inside(&net, async || {
        let mut monitor = Monitor::open(Follow { routes: true }).unwrap();
        for command in ["add", "del"] {
            let status = std::process::Command::new("ip")
                .args(["route", command, "blackhole", "10.1.0.0/24"])
                .status();
            assert!(status.unwrap().success());
        }
        until(&mut monitor, |event| matches!(event, Event::Route(_))).await;
        until(&mut monitor, |event| matches!(event, Event::RouteGone(_))).await;
    });
}

#[test]
fn a_flood_ends_in_a_resync_with_the_right_interfaces() {
    let Some(net) = TestNet::new("monitor-flood") else { return };
    inside(&net, async || {
        let mut monitor = Monitor::open(Follow::default()).unwrap();
        monitor.socket.socket_ref().set_rx_buf_sz(4096usize).unwrap();
        let mut connection = Connection::open().unwrap();
        for round in 0..50 {
            let (a, b) = (format!("a{round}"), format!("b{round}"));
            let near = link::VethEnd { name: &a, ..Default::default() };
            let far = link::VethEnd { name: &b, ..Default::default() };
            link::create_veth(&mut connection, &near, &far).unwrap();
        }
        let mut seen = 0;
        until(&mut monitor, |event| matches!(event, Event::Resync)).await;
        let all = link::list(&mut connection, &LinkFilter::default()).unwrap();
        for link in all {
            seen += usize::from(monitor.links.gone(link.index).is_some());
        }
        assert!(seen > 100, "{seen} of over 100 interfaces are known after a resync");
    });
}
