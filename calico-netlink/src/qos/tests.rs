//! Token buckets in the running kernel, judged by `tc` and by how fast packets come through.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;
use crate::pod::{self, PodSpec};
use crate::sysctl;
use crate::testing::TestNet;

const HOST: &str = "192.0.2.9";
const POD: &str = "10.65.0.2";
const CALI: &str = "cali0123456789a";
/// Sent through a limit that lets it pass in about a second.
const AMOUNT: usize = 1 << 20;
const BITS_PER_SECOND: u64 = 8 * AMOUNT as u64;

fn limits(ingress: u64, egress: u64) -> Limits {
    let bandwidth = |rate: u64| {
        (rate > 0).then_some(Bandwidth { rate, burst: 1 << 18, peak_rate: 0, peak_burst: 0 })
    };
    let mut limits = Limits::default();
    limits.ingress.bandwidth = bandwidth(ingress);
    limits.egress.bandwidth = bandwidth(egress);
    limits
}

/// A host, and a pod with these limits.
fn nets(label: &str, limits: Limits) -> Option<(TestNet, TestNet)> {
    let host = TestNet::new(&format!("{label}-host"))?;
    let pod = TestNet::new(&format!("{label}-pod"))?;
    host.run(sysctl::prepare_host).unwrap();
    host.output("ip", &["address", "add", &format!("{HOST}/32"), "dev", "lo"]);
    let spec = PodSpec {
        netns: pod.netns().path().to_owned(),
        ifname: "eth0".into(),
        host_ifname: CALI.into(),
        addresses: vec![POD.parse().unwrap()],
        limits,
        ..PodSpec::default()
    };
    host.run(|| pod::setup(&spec)).unwrap();
    Some((host, pod))
}

fn put(host: &TestNet, limits: &Limits) -> bool {
    host.run(|| apply(&mut Connection::open().unwrap(), CALI, limits)).unwrap()
}

/// How long it takes to send the amount to a listener at `address` in `to`.
fn time_to_send(from: &TestNet, to: &TestNet, address: &str) -> Duration {
    let listener = to.run(|| TcpListener::bind((address, 0)).unwrap());
    let target: SocketAddr = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), AMOUNT);
        });
        let started = Instant::now();
        from.run(|| {
            let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(20)).unwrap();
            stream.write_all(&vec![7; AMOUNT]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        receiver.join().unwrap();
        started.elapsed()
    })
}

fn devices(host: &TestNet) -> Vec<String> {
    let links =
        host.run(|| link::list(&mut Connection::open().unwrap(), &LinkFilter::default())).unwrap();
    let ifb = |link: &Link| link.kind.as_deref() == Some("ifb") && link.name.starts_with("bw");
    links.into_iter().filter(ifb).map(|link| link.name).collect()
}

#[test]
fn devices_have_upstreams_names() {
    // sha512 of the name, as `printf cali0123456789a | sha512sum` says.
    assert_eq!(ifb_name("cali0123456789a"), "bwcali627a0cdce");
}

#[test]
fn a_pod_sends_and_receives_no_faster_than_it_may() {
    let Some((host, pod)) = nets("rate", limits(BITS_PER_SECOND, BITS_PER_SECOND / 2)) else {
        return;
    };
    // Less the burst of 32 KiB; how much longer it takes depends on the machine.
    let inwards = time_to_send(&host, &pod, POD);
    assert!(inwards > Duration::from_millis(800), "1 MiB into the pod in {inwards:?}");
    let outwards = time_to_send(&pod, &host, HOST);
    assert!(outwards > Duration::from_millis(1700), "1 MiB out of the pod in {outwards:?}");
    assert!(inwards.max(outwards) < Duration::from_secs(40), "{inwards:?}, {outwards:?}");

    // What `tc` says of them, and of nothing else.
    let shown = host.output("tc", &["qdisc", "show"]);
    assert!(shown.contains(&format!("qdisc tbf ca11: dev {CALI} root")), "{shown}");
    assert!(shown.contains(&format!("qdisc tbf ca11: dev {} root", ifb_name(CALI))), "{shown}");
    assert!(shown.contains("rate 8388Kbit") && shown.contains("rate 4194Kbit"), "{shown}");

    // Without limits, nothing is left, and it is quick.
    assert!(put(&host, &Limits::default()));
    assert_eq!(devices(&host), [] as [&str; 0]);
    let shown = host.output("tc", &["qdisc", "show", "dev", CALI]);
    assert!(!shown.contains("tbf") && !shown.contains("ingress"), "{shown}");
    for (from, to, address) in [(&host, &pod, POD), (&pod, &host, HOST)] {
        // Ten attempts at most: a busy machine may be as slow as the limit was.
        let quick = (0..10).any(|_| time_to_send(from, to, address) < Duration::from_millis(700));
        assert!(quick, "still slow to {address}");
    }
}

#[test]
fn what_is_as_wanted_stays_untouched_and_what_is_not_is_mended() {
    let wanted = limits(10_000_000, 20_000_000);
    let Some((host, _pod)) = nets("again", wanted) else { return };
    let state = || {
        let name = ifb_name(CALI);
        let link = host.output("ip", &["-o", "link", "show", "dev", &name]);
        let index = link.split(':').next().unwrap().to_owned();
        let filter = host.output("tc", &["filter", "show", "dev", CALI, "ingress"]);
        (index, host.output("tc", &["qdisc", "show"]), filter)
    };
    let before = state();
    assert!(before.2.contains("mirred (Egress Redirect"), "{}", before.2);
    let mut connection = host.run(Connection::open).unwrap();
    let link = link::by_name(&mut connection, CALI).unwrap().unwrap();
    let seen = kernel::bucket(&mut connection, link.index).unwrap().expect("a bucket");
    let bucket = Bucket::new(wanted.ingress.bandwidth.as_ref().unwrap(), link.mtu);
    assert!(bucket.is(&seen), "recognised: {bucket:?}, {seen:?}");
    assert!(put(&host, &wanted));
    assert_eq!(state(), before);
    let different = |limits: &Limits| {
        host.run(|| check(&mut Connection::open().unwrap(), CALI, limits)).unwrap()
    };
    assert_eq!(different(&wanted), None);
    for (other, words) in [
        (limits(11_000_000, 20_000_000), "to the workload"),
        (limits(10_000_000, 0), "from the workload"),
        (limits(0, 20_000_000), "(unlimited)"),
    ] {
        let found = different(&other).unwrap();
        assert!(found.contains(words), "{found}");
    }

    for damage in [
        vec!["qdisc", "del", "dev", CALI, "root"],
        vec!["qdisc", "del", "dev", CALI, "ingress"],
        vec!["filter", "del", "dev", CALI, "ingress"],
        vec![
            "qdisc", "replace", "dev", CALI, "root", "handle", "ca11:", "tbf", "rate", "1mbit",
            "burst", "32k", "limit", "64k",
        ],
    ] {
        host.output("tc", &damage);
        assert!(different(&wanted).is_some(), "{damage:?}");
        assert!(put(&host, &wanted));
        assert_eq!(state().1, before.1, "{damage:?}");
    }
    host.output("ip", &["link", "del", &ifb_name(CALI)]);
    assert!(put(&host, &wanted));
    assert!(state().1.contains("rate 20Mbit"), "{}", state().1);
    let peak =
        Bandwidth { rate: 1_000_000, burst: 1 << 20, peak_rate: 2_000_000, peak_burst: 3000 };
    let mut peaked = wanted;
    peaked.ingress.bandwidth = Some(peak);
    for _ in 0..2 {
        assert!(put(&host, &peaked));
    }
    let shown = host.output("tc", &["qdisc", "show", "dev", CALI]);
    assert!(shown.contains("rate 1Mbit") && shown.contains("peakrate 2Mbit"), "{shown}");
}

#[test]
fn queues_of_others_stay() {
    let Some((host, _pod)) = nets("others", Limits::default()) else { return };
    let tbf = [
        "qdisc", "add", "dev", CALI, "root", "handle", "1:", "tbf", "rate", "5mbit", "burst",
        "32k", "limit", "64k",
    ];
    host.output("tc", &tbf);
    host.output("tc", &["qdisc", "add", "dev", CALI, "ingress"]);
    assert!(put(&host, &Limits::default()));
    let shown = host.output("tc", &["qdisc", "show", "dev", CALI]);
    assert!(shown.contains("tbf 1:") && shown.contains("ingress"), "{shown}");
}

#[test]
fn devices_go_with_their_interfaces() {
    let wanted = limits(10_000_000, 20_000_000);
    let Some((host, pod)) = nets("gone", wanted) else { return };
    let device = ifb_name(CALI);
    assert_eq!(devices(&host), std::slice::from_ref(&device));
    let sweep = || host.run(|| sweep(&mut Connection::open().unwrap())).unwrap();
    assert_eq!(sweep(), [] as [&str; 0], "its interface is there");
    // Somebody removes the interface alone.
    host.output("ip", &["link", "del", CALI]);
    assert_eq!(sweep(), std::slice::from_ref(&device));
    assert!(!put(&host, &wanted), "nothing to limit");

    let spec = PodSpec {
        netns: pod.netns().path().to_owned(),
        ifname: "eth0".into(),
        host_ifname: CALI.into(),
        addresses: vec![POD.parse().unwrap()],
        limits: wanted,
        ..PodSpec::default()
    };
    host.run(|| pod::setup(&spec)).unwrap();
    host.run(|| pod::teardown(CALI, Some(&spec.netns), "eth0")).unwrap();
    assert_eq!(devices(&host), [] as [&str; 0], "after a teardown");
    host.run(|| pod::setup(&spec)).unwrap();
    assert!(host.run(|| pod::cut_off(CALI)).unwrap());
    assert!(host.run(pod::remove_cut_off).unwrap());
    assert_eq!(devices(&host), [] as [&str; 0], "after a removal");
}
