//! A speaker in a process of its own, so that its memory can be measured.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use calico_bgp::runtime::SpeakerHandle;
use calico_bgp::speaker::{Config, DynamicPeers, LimitAction, PeerConfig, PrefixLimit};
use calico_bgp::wire::Family;

use super::client::{AS, addr};

/// Set in the process that is to be the speaker.
const ROLE: &str = "CALICO_BGP_TEST_SPEAKER";
/// The peer with a limit.
pub(crate) const LIMITED: u8 = 3;
/// Prefixes that it may have.
pub(crate) const LIMIT: usize = 1000;
/// Peers that may come by themselves, from 127.1.0.0/16.
pub(crate) const DYNAMIC: usize = 10;
/// The last of the peers that are configured; the first is 127.0.0.2.
const LAST: u8 = 9;

/// What a speaker says of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) address: IpAddr,
    pub(crate) state: String,
    pub(crate) received: usize,
}

/// A running speaker; it ends with this value.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(crate) listening: SocketAddr,
}

impl Process {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["process::speaker_for_other_tests", "--exact", "--nocapture"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let listening = line_with(&mut output, "listening ").parse().unwrap();
        Self { child, input, output, listening }
    }

    /// What it says of its peers.
    pub(crate) fn peers(&mut self) -> Vec<Status> {
        self.input.as_mut().unwrap().write_all(b"peers\n").unwrap();
        let line = line_with(&mut self.output, "peers ");
        let peer = |text: &str| {
            let mut words = text.split(',');
            let mut word = || words.next().unwrap();
            Status {
                address: word().parse().unwrap(),
                state: word().to_owned(),
                received: word().parse().unwrap(),
            }
        };
        line.split_whitespace().map(peer).collect()
    }

    pub(crate) fn peer(&mut self, n: u8) -> Status {
        self.peers().into_iter().find(|p| p.address == addr(n)).unwrap()
    }

    /// The most memory that was resident so far, in MB.
    pub(crate) fn peak(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes / 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line_with(output: &mut impl BufRead, start: &str) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the speaker's process has ended");
        // The test harness writes lines of its own, and parts of lines.
        if let Some((_, rest)) = line.split_once(start) {
            return rest.trim().to_owned();
        }
    }
}

/// No test: the other side of [`Process`].
#[test]
fn speaker_for_other_tests() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let speaker = runtime.block_on(async {
        let mut config = Config::new(AS, Ipv4Addr::new(10, 0, 0, 1));
        config.listen = vec![SocketAddr::new(addr(1), 0)];
        let speaker = SpeakerHandle::spawn(config).unwrap();
        let client = |address: IpAddr| {
            let mut peer = PeerConfig::new(address, AS);
            (peer.passive, peer.rr_client) = (true, true);
            peer.families = vec![Family::IPV4_UNICAST];
            peer
        };
        let peers = (2..=LAST).map(|n| {
            let mut peer = client(addr(n));
            let idle = Duration::from_secs(3600);
            peer.prefix_limit = (n == LIMITED).then_some(PrefixLimit {
                action: LimitAction::Cease { idle },
                ..PrefixLimit::new(LIMIT)
            });
            peer
        });
        speaker.set_peers(peers.collect()).await.unwrap().unwrap();
        let prefix = "127.1.0.0/16".parse().unwrap();
        let dynamic = DynamicPeers { prefix, limit: DYNAMIC, template: client(addr(100)) };
        speaker.set_dynamic(vec![dynamic]).await.unwrap().unwrap();
        speaker
    });
    let handle = speaker.clone();
    println!("\nlistening {}", speaker.listening()[0]);
    // Questions come on a thread of their own, the speaker has this one.
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || ask.send(()).is_err() {
                return;
            }
        }
    });
    runtime.block_on(async move {
        while asked.recv().await.is_some() {
            let peers = handle.peers().await.unwrap();
            let line: Vec<String> = peers
                .iter()
                .map(|p| format!("{},{},{}", p.config.address, p.state, p.prefixes_received))
                .collect();
            println!("\npeers {}", line.join(" "));
        }
    });
}
