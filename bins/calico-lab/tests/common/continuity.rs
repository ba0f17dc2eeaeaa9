//! Traffic that goes on, and routes that must not go.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use calico_lab::{Lab, netns};

/// A number of pings, a hundred a second.
pub(crate) struct Pings(Child);

impl Pings {
    pub(crate) fn start(lab: &Lab, from: &str, to: &str, count: u32) -> Self {
        let namespace = lab.pod(from).unwrap().namespace().to_owned();
        let count = count.to_string();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace, "ping", "-n", "-q", "-i", "0.01", "-W", "5"]);
        command.args(["-c", &count, to]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for the last answer, and says how many came.
    pub(crate) fn received(self) -> u32 {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let summary = text.lines().find(|line| line.contains("packets transmitted")).unwrap();
        let received = summary.split(", ").nth(1).unwrap().split_whitespace().next().unwrap();
        received.parse().unwrap()
    }
}

/// Pings without an end, a hundred a second.
pub(crate) struct Stream(Child);

impl Stream {
    pub(crate) fn start(lab: &Lab, from: &str, to: &str) -> Self {
        let namespace = lab.pod(from).unwrap().namespace().to_owned();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace, "ping", "-n", "-q", "-i", "0.01", to]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it. How many were sent and not answered, but for the last one, which may be on its way.
    pub(crate) fn lost(self) -> u32 {
        let text = interrupt(self.0);
        let summary = text.lines().find(|line| line.contains("packets transmitted")).unwrap();
        let number = |index: usize| -> u32 {
            let part = summary.split(", ").nth(index).unwrap();
            part.split_whitespace().next().unwrap().parse().unwrap()
        };
        println!("{summary}");
        assert!(number(0) > 50, "{summary}");
        (number(0) - number(1)).saturating_sub(1)
    }
}

/// Follows the routes of a member.
pub(crate) struct Monitor(Child);

impl Monitor {
    pub(crate) fn start(lab: &Lab, member: &str) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.namespace(member), "ip", "monitor", "route"]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Deletions that it saw, of routes that are ours.
    pub(crate) fn stop(self) -> Vec<String> {
        let text = interrupt(self.0);
        let ours = |line: &&str| line.starts_with("Deleted") && !line.contains("proto kernel");
        text.lines().filter(ours).map(str::to_owned).collect()
    }
}

/// Tells a program to end, as Ctrl-C does, and returns its output.
pub(crate) fn interrupt(child: Child) -> String {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

/// A connection from one namespace to a listener in another, with a byte to and fro when asked for.
pub(crate) struct Talk {
    client: TcpStream,
    /// Bytes sent whose echo has not come yet.
    owed: usize,
}

impl Talk {
    /// Listens at `at` in the namespace `to` and connects from the namespace `from` to `dialled`,
    /// which leads there.
    pub(crate) fn open(from: &str, dialled: SocketAddr, to: &str, at: SocketAddr) -> Self {
        let listener = netns::enter(to, || TcpListener::bind(at)).unwrap().unwrap();
        let limit = Duration::from_secs(20);
        let connect = || TcpStream::connect_timeout(&dialled, limit);
        let client = netns::enter(from, connect).unwrap();
        let client = client.unwrap_or_else(|error| panic!("{from} to {dialled}: {error}"));
        let (server, _) = listener.accept().unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        std::thread::spawn(move || std::io::copy(&mut &server, &mut &server));
        Self { client, owed: 0 }
    }

    /// Sends a byte; whether all that is owed comes back within `limit`.
    pub(crate) fn goes_on(&mut self, limit: Duration) -> bool {
        self.client.write_all(b"x").expect("the connection is not reset");
        self.owed += 1;
        self.client.set_read_timeout(Some(limit)).unwrap();
        while self.owed > 0 {
            match self.client.read(&mut [0; 64][..]) {
                Ok(0) | Err(_) => return false,
                Ok(came) => self.owed -= came,
            }
        }
        true
    }
}
