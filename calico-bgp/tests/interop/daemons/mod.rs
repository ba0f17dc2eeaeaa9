//! The daemons, each behind one trait.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;

pub(crate) use exabgp::OTHER_HOP;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use calico_bgp::wire::{Community, ExtendedCommunity, LargeCommunity, Role};
use ipnet::IpNet;

use super::feature::{Feature, Support};
use super::lab::{PATIENCE, Place};

/// What the daemon is to do, in no daemon's words. It is 10.9.0.2 and fd09::2.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) asn: u32,
    pub(crate) sessions: Vec<Session>,
    pub(crate) routes: Vec<Origin>,
}

/// A route of the daemon's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) prefix: IpNet,
    pub(crate) communities: Communities,
}

impl Origin {
    /// Whether it carries one community of each size; for routers.
    fn has_communities(&self) -> bool {
        assert!(self.communities != Communities::Many, "it can be sent such a route");
        self.communities == Communities::OneOfEach
    }
}

/// What a route of the daemon carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Communities {
    None,
    /// [`COMMUNITY`], [`EXTENDED`] and [`LARGE`].
    OneOfEach,
    /// So many large ones that they fit no message of 4,096 octets: [`many_communities`]. Only
    /// for daemons that cannot be sent such a route to pass on.
    Many,
}

/// Large communities of 6,000 octets.
pub(crate) fn many_communities() -> Vec<LargeCommunity> {
    (0..500).map(|n| LargeCommunity { global: 64512, local1: 1, local2: n }).collect()
}

/// A session of the daemon with one of our speakers.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) remote_as: u32,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    pub(crate) password: Option<&'static str>,
    pub(crate) ttl_security: bool,
    /// It waits for us to connect. So it does unless told otherwise: two sides that connect at
    /// once are no matter of these tests, and some daemons lose a young session over it.
    pub(crate) passive: bool,
    /// Restart time in seconds.
    pub(crate) graceful_restart: Option<u16>,
    /// Stale time in seconds.
    pub(crate) long_lived: Option<u32>,
    /// Our speaker is its client.
    pub(crate) client: bool,
    pub(crate) add_path: bool,
    pub(crate) ipv4_over_ipv6: bool,
    pub(crate) extended_messages: bool,
    pub(crate) role: Option<Role>,
}

impl Session {
    /// A plain session for the family of the addresses.
    pub(crate) fn new(local: IpAddr, remote: IpAddr, remote_as: u32) -> Self {
        Self {
            local,
            remote,
            remote_as,
            ipv4: local.is_ipv4(),
            ipv6: local.is_ipv6(),
            password: None,
            ttl_security: false,
            passive: true,
            graceful_restart: None,
            long_lived: None,
            client: false,
            add_path: false,
            ipv4_over_ipv6: false,
            extended_messages: false,
            role: None,
        }
    }
}

/// What routes with communities carry.
pub(crate) const COMMUNITY: Community = Community::new(64512, 300);
/// Route target 64512:77.
pub(crate) const EXTENDED: ExtendedCommunity = ExtendedCommunity([0, 2, 0xfc, 0, 0, 0, 0, 77]);
pub(crate) const LARGE: LargeCommunity =
    LargeCommunity { global: 4_200_000_001, local1: 1, local2: 2 };

/// What is looked for in a daemon's account of a route.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sign {
    Community,
    Extended,
    Large,
    NextHop(IpAddr),
    Originator(IpAddr),
    Cluster(IpAddr),
    LongLivedStale,
    /// The last of [`many_communities`].
    ManyCommunities,
    AsPath(&'static [u32]),
}

/// A daemon under test.
pub(crate) trait Daemon {
    /// Writes its configuration.
    fn configure(&mut self, setup: &Setup);

    /// Starts it and waits until it answers; `again` after a crash that it is to recover from.
    fn start(&mut self, again: bool);

    /// Ends it as a crash does.
    fn crash(&mut self);

    /// Whether its session with one of our addresses is established, as it says.
    fn is_established(&self, with: IpAddr) -> bool;

    /// All it says about a prefix in its table; `None` if it holds no route.
    fn route(&self, prefix: IpNet) -> Option<String>;

    /// How it would say something about a route.
    fn spelling(&self, sign: Sign) -> String;

    /// Takes back a route of its own.
    fn withdraw(&mut self, prefix: IpNet);

    /// Ends its session with one of our addresses, with words.
    fn shut_down(&mut self, with: IpAddr, words: &str);

    /// Whether it tells of words that came with the end of a session over IPv6.
    fn heard(&self, words: &str) -> bool;

    /// Asks us for all routes of a family again.
    fn ask_refresh(&mut self, of: IpAddr, ipv4: bool);
}

/// The daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Bird,
    Frr,
    GoBgp,
    ExaBgp,
    OpenBgpd,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Bird, Self::Frr, Self::GoBgp, Self::ExaBgp, Self::OpenBgpd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
            Self::GoBgp => "GoBGP",
            Self::ExaBgp => "ExaBGP",
            Self::OpenBgpd => "OpenBGPD",
        }
    }

    /// Debian package.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Bird => "bird2",
            Self::Frr => "frr",
            Self::GoBgp => "gobgpd",
            Self::ExaBgp => "exabgp",
            Self::OpenBgpd => "openbgpd",
        }
    }

    /// The program, and how it is asked for its version.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Bird => ("/usr/sbin/bird", "--version"),
            Self::Frr => ("/usr/lib/frr/bgpd", "--version"),
            Self::GoBgp => ("/usr/bin/gobgpd", "--version"),
            Self::ExaBgp => ("/usr/sbin/exabgp", "--version"),
            Self::OpenBgpd => ("/usr/sbin/bgpd", "-V"),
        }
    }

    /// First number of the installed version.
    pub(crate) fn version_family(self) -> String {
        let (program, flag) = self.program();
        let output = Command::new(program).arg(flag).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|e| {
            panic!(
                "{program}: {e}: install the Debian package {}, or set CALICO_SKIP_PRIVILEGED=1",
                self.package()
            )
        });
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let digits = text.split(|c: char| !c.is_ascii_digit()).find(|s| !s.is_empty());
        digits.unwrap_or_else(|| panic!("{program} {flag} says no version: {text}")).to_owned()
    }

    /// What it can do with us.
    pub(crate) fn support(self, feature: Feature) -> Support {
        match self {
            Self::Bird | Self::Frr => Support::Yes,
            Self::GoBgp => gobgp::support(feature),
            Self::ExaBgp => exabgp::support(feature),
            Self::OpenBgpd => openbgpd::support(feature),
        }
    }

    /// Whether it decides and passes routes on, as a router does.
    pub(crate) fn is_router(self) -> bool {
        self != Self::ExaBgp
    }

    pub(crate) fn daemon(self, place: Place) -> Box<dyn Daemon> {
        match self {
            Self::Bird => Box::new(bird::Bird::new(place)),
            Self::Frr => Box::new(frr::Frr::new(place)),
            Self::GoBgp => Box::new(gobgp::GoBgp::new(place)),
            Self::ExaBgp => Box::new(exabgp::ExaBgp::new(place)),
            Self::OpenBgpd => Box::new(openbgpd::OpenBgpd::new(place)),
        }
    }
}

/// Writes a daemon's configuration; OpenBGPD wants nobody else to read it.
fn write(place: &Place, name: &str, text: &str) {
    let path = place.path(name);
    fs::write(&path, text).expect("write the configuration");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("close it");
}

/// Starts a daemon's process with its output in `log`.
fn spawn(place: &Place, command: &mut Command) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(place.path("log"));
    let log = log.expect("open the log");
    let other = log.try_clone().expect("open the log twice");
    command.stdout(log).stderr(other).spawn().expect("start the daemon")
}

/// Waits until a daemon that has just been started answers.
fn until_it_answers(child: &mut Child, mut answers: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !answers() {
        assert!(start.elapsed() < PATIENCE, "the daemon does not answer");
        assert!(child.try_wait().expect("ask for the child").is_none(), "the daemon ended");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Ends all of a daemon's processes.
fn crash(place: &Place, child: &mut Option<Child>) {
    place.kill_all();
    if let Some(mut child) = child.take() {
        child.wait().expect("wait for the daemon");
    }
}

/// What the daemon has printed.
fn log(place: &Place) -> String {
    fs::read_to_string(place.path("log")).unwrap_or_default()
}
