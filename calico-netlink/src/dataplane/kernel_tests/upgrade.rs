//! A table that another version of ours left: its chains, maps and sets have names that we use
//! otherwise. It is replaced in one transaction, under traffic.

use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::super::Settings;
use super::lab::forward;
use super::owner::Talk;
use super::*;

/// The server's policy, in another layout: chains named by interface, a map to them by address, a
/// set of ranges where we have addresses, a hook of another priority, and chains we know nothing of.
const OTHER_LAYOUT: &str = r#"
table inet calico {
    map cali-from-wl-dispatch { type ifname : verdict; }
    map cali-to-wl-dispatch { type ipv4_addr : verdict; }
    set cali40s-client { type ipv4_addr; flags interval; elements = { 10.65.0.0/30 }; }
    set cali40network-ip-pools { type ipv4_addr; }
    set cali40all-hosts-net { type ipv4_addr . inet_service; }
    chain cali-fw-cali1 { ip saddr != 10.65.0.1 drop; }
    chain cali-fw-cali2 { ip saddr != 10.65.0.2 drop; }
    chain cali-tw-cali1 {
        ct state established,related accept
        udp dport 6 counter drop comment "another version"
        ip saddr @cali40s-client jump cali-allowed-to
        drop
    }
    chain cali-tw-cali2 { accept; }
    chain cali-allowed-to { meta mark set meta mark or 0x10000; accept; }
    chain cali-from-wl-dispatch { iifname vmap @cali-from-wl-dispatch; drop; }
    chain cali-to-wl-dispatch { ip daddr vmap @cali-to-wl-dispatch; drop; }
    chain cali-failsafes { tcp dport 22 accept; }
    chain filter-INPUT { type filter hook input priority filter; tcp dport 22 jump cali-failsafes; }
    chain filter-FORWARD {
        type filter hook forward priority filter - 5;
        iifname "cali*" jump cali-from-wl-dispatch
        oifname "cali*" jump cali-to-wl-dispatch
    }
    chain raw-PREROUTING {
        type filter hook prerouting priority raw - 1;
        meta mark set meta mark and 0x0000ffff
    }
}
add element inet calico cali-from-wl-dispatch { "cali1" : goto cali-fw-cali1, "cali2" : goto cali-fw-cali2 }
add element inet calico cali-to-wl-dispatch { 10.65.0.1 : goto cali-tw-cali1, 10.65.0.2 : goto cali-tw-cali2 }
"#;

/// Port that policy denies, before and after.
const DENIED: u16 = 6;
/// Port that it allows.
const ALLOWED: u16 = 7;

/// What of it keeps the table from being changed in place: hooks and keys of our names.
const IN_THE_WAY: [(&str, &str); 6] = [
    ("cali-to-wl-dispatch { type ipv4_addr", "cali-to-wl-dispatch { type ifname"),
    ("{ type ipv4_addr; flags interval; elements = { 10.65.0.0/30 }; }", "{ type ipv4_addr; }"),
    ("filter - 5", "filter"),
    ("cali40network-ip-pools", "cali40s-unknown"),
    ("cali40all-hosts-net", "cali40s-unheard"),
    ("ip daddr vmap", "oifname vmap"),
];

#[test]
fn a_table_of_another_layout_is_replaced_without_a_gap() {
    let mut alike = OTHER_LAYOUT.to_owned();
    for (theirs, ours) in IN_THE_WAY {
        assert!(alike.contains(theirs), "{theirs}");
        alike = alike.replace(theirs, ours);
    }
    let by_name = ["cali1", "cali2"].map(|name| format!("\"{name}\" : goto cali-tw-{name}"));
    let by_address = "10.65.0.1 : goto cali-tw-cali1, 10.65.0.2 : goto cali-tw-cali2";
    assert!(alike.contains(by_address));
    alike = alike.replace(by_address, &by_name.join(", "));
    alike.push_str("add element inet calico cali40s-client { 10.65.0.2, 10.65.0.3 }\n");
    for (layout, owning) in [(OTHER_LAYOUT, false), (OTHER_LAYOUT, true), (&alike, false)] {
        in_new_netns(async || replaced_under_traffic(layout, owning).await);
    }
}

async fn replaced_under_traffic(layout: &str, owning: bool) {
    forward();
    let (server, client) = (Pod::new(1), Pod::new(2));
    load(layout);
    let mut talk = Talk::begin(&client, &server);
    assert!(talk.goes_on());
    let denied = Flow::start(&client, &server, DENIED);
    let allowed = Flow::start(&client, &server, ALLOWED);
    allowed.runs();

    let open = async || {
        let settings = Settings::default();
        if owning {
            LinuxDataplane::open_owning(Arc::new(NoRoutes), settings).await.unwrap()
        } else {
            LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap()
        }
    };
    let dataplane = open().await;
    let before = nft_list();
    assert!(before.contains("another version"), "it stays in force until all is known: {before}");
    allowed.runs();
    apply(&dataplane, desired(&server, &client)).await;
    allowed.runs();
    let after = nft_list();
    assert!(!after.contains("another version") && !after.contains("cali-failsafes"), "{after}");
    assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
    assert!(talk.goes_on(), "a connection was cut");
    let (sent, came) = allowed.end();
    assert_eq!(sent, came, "packets that policy allows were dropped");
    let (tried, entered) = denied.end();
    assert!(tried > 0);
    assert_eq!(entered, 0, "of {tried} packets that policy denies");

    // Exactly what a start without any table makes.
    let upgraded = table().await;
    dataplane.remove_all().await.unwrap();
    drop(dataplane);
    let fresh = self::open().await;
    apply(&fresh, desired(&server, &client)).await;
    assert_eq!(upgraded, table().await);
}

/// As in the other layout.
fn desired(server: &Pod, client: &Pod) -> Vec<Update> {
    let mut all = everything(server, client);
    let rules: [RuleSpec<'_>; 2] = [
        (Action::Deny, &|rule| {
            rule.protocol = Some(17);
            rule.destination.ports = ports(DENIED, DENIED);
        }),
        (Action::Allow, &|rule| rule.source.sets = in_set("s:client")),
    ];
    all[2] = ingress_policy("udp", &rules);
    all
}

fn load(ruleset: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn();
    let nft = nft.as_mut().expect("nft: install the Debian package nftables");
    nft.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{ruleset}");
}

fn nft_list() -> String {
    super::lab::nft(&["list", "table", "inet", "calico"])
}

/// Datagrams, of many connections, and how many of them arrive.
struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<u64>,
}

impl Flow {
    fn start(from: &Pod, to: &Pod, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::default());
        let sockets: Vec<UdpSocket> = (0..64).map(|_| from.host.udp(from.v4, 0)).collect();
        let incoming = to.host.udp(to.v4, port);
        let to = (to.v4, port);
        let (told, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let sender = std::thread::spawn(move || {
            for socket in sockets.iter().cycle() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                socket.send_to(b"x", to).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                // The receiver's queue holds a quarter of a second of these.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let told = Arc::clone(&stop);
        let receiver = std::thread::spawn(move || {
            let mut came = 0;
            loop {
                match incoming.recv_from(&mut [0; 8]) {
                    Ok(_) => came += 1,
                    // Nothing for as long as a packet may take.
                    Err(_) if told.load(Ordering::Relaxed) => return came,
                    Err(_) => {}
                }
            }
        });
        Self { stop, sent, sender, receiver }
    }

    /// Waits until some more are sent.
    fn runs(&self) {
        let (began, started) = (self.sent.load(Ordering::Relaxed), Instant::now());
        while self.sent.load(Ordering::Relaxed) < began + 20 {
            assert!(started.elapsed() < Duration::from_secs(20), "nothing is sent");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many were sent, and how many came.
    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().unwrap();
        let came = self.receiver.join().unwrap();
        (self.sent.load(Ordering::Relaxed), came)
    }
}
