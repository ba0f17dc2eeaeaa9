//! Traffic that goes on, and routes that must not go.

use std::process::{Child, Command, Stdio};

use calico_lab::Lab;

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
