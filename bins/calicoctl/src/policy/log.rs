//! `policy log`: which packets met which verdict on this node, and by which rule.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use calico_control::{AskError, Client, Heard, Recorded, Verdicts};
use calico_core::dataplane::{RuleOwner, Verdict, VerdictCause};
use calico_core::resource::Protocol;
use calico_ipam::plan::time::rfc3339;
use serde_json::{Value, json};

use super::Format;
use super::names::{Names, Workload};
use crate::failure::Failure;
use crate::output::colour::Colour;
use crate::run::Open;

/// Between attempts to reach an agent that ended.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be shown, and how.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) follow: bool,
    pub(super) filter: Filter,
    pub(super) format: Format,
    pub(super) socket: PathBuf,
}

/// Which verdicts; an empty list is all.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// `NAMESPACE/NAME`, or `NAME` in the namespace `default`.
    pub(super) pods: Vec<String>,
    /// `NAMESPACE/NAME`, or `NAME` of any namespace or none.
    pub(super) policies: Vec<String>,
    pub(super) verdicts: Vec<Verdict>,
}

/// A verdict with the names of those whom it is about.
#[derive(Debug)]
struct Line<'a> {
    node: &'a str,
    recorded: &'a Recorded,
    endpoint: Option<&'a Workload>,
    source: Option<&'a Workload>,
    destination: Option<&'a Workload>,
}

/// Writes to the standard output, until its reader has seen enough.
pub(super) async fn run(store: Open<'_>, request: &Request) -> Result<(), Failure> {
    let node = Client::connect(&request.socket).await?.status().await?.node;
    let (mut names, complete) = match store() {
        Ok(store) => Names::of(&*store).await,
        Err(_unavailable) => (Names::default(), false),
    };
    if !complete {
        eprintln!("the datastore does not tell who has which address; names are left out");
    }
    let mut verdicts = open(request).await?;
    let (mut latest, mut shown_already) = (0, 0);
    loop {
        match verdicts.next().await {
            Ok(Heard::Verdict(recorded)) if recorded.at <= shown_already => {}
            Ok(Heard::Verdict(recorded)) => {
                latest = recorded.at;
                names.catch_up();
                let line = Line::of(&node, &recorded, &names);
                if line.passes(&request.filter) && !print(&line, request.format)? {
                    return Ok(());
                }
            }
            Ok(Heard::Listening) if !request.follow => return Ok(()),
            Ok(Heard::Listening) => shown_already = 0,
            Ok(Heard::Missed(count)) => {
                eprintln!("{count} verdicts were lost: they came faster than they were written");
            }
            Ok(_) => {}
            Err(AskError::Broken { .. }) if request.follow => {
                eprintln!("the agent ended; waiting for it to come back");
                shown_already = latest;
                verdicts = reopen(request).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn open(request: &Request) -> Result<Verdicts, AskError> {
    Client::connect(&request.socket).await?.verdicts(true).await
}

async fn reopen(request: &Request) -> Result<Verdicts, Failure> {
    loop {
        match open(request).await {
            Ok(verdicts) => return Ok(verdicts),
            Err(AskError::Connect { .. } | AskError::Broken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether anybody still reads.
fn print(line: &Line<'_>, format: Format) -> Result<bool, Failure> {
    let text = match format {
        Format::Text => line.text(Colour::of_stdout()),
        Format::Json => line.document().to_string(),
    };
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl<'a> Line<'a> {
    fn of(node: &'a str, recorded: &'a Recorded, names: &'a Names) -> Self {
        let event = &recorded.event;
        Self {
            node,
            recorded,
            endpoint: names.at(node, &event.interface),
            source: names.with(event.flow.source),
            destination: names.with(event.flow.destination),
        }
    }

    fn passes(&self, filter: &Filter) -> bool {
        let event = &self.recorded.event;
        let ends = [self.endpoint, self.source, self.destination];
        let pod = |text: &String| ends.into_iter().flatten().any(|workload| workload.is(text));
        let policy = |text: &String| match &event.cause {
            VerdictCause::Rule(rule) => is_policy(&rule.owner, text),
            _ => false,
        };
        (filter.pods.is_empty() || filter.pods.iter().any(pod))
            && (filter.policies.is_empty() || filter.policies.iter().any(policy))
            && (filter.verdicts.is_empty() || filter.verdicts.contains(&event.verdict))
    }

    /// `TIME denied WHO (ADDRESS:PORT) -> WHOM (ADDRESS:PORT) TCP, ingress of WHOM: RULE`
    fn text(&self, colour: Colour) -> String {
        let event = &self.recorded.event;
        let flow = &event.flow;
        let verdict = match event.verdict {
            Verdict::Allowed => colour.green("allowed"),
            Verdict::Denied => colour.red("denied"),
            Verdict::Logged => colour.cyan("logged"),
        };
        let end = |workload: Option<&Workload>, address: IpAddr, port: Option<u16>| {
            let address = match (port, address) {
                (Some(port), IpAddr::V6(_)) => format!("[{address}]:{port}"),
                (Some(port), IpAddr::V4(_)) => format!("{address}:{port}"),
                (None, _) => address.to_string(),
            };
            match workload {
                Some(workload) => format!("{workload} ({address})"),
                None => address,
            }
        };
        let at = match self.endpoint {
            Some(workload) => workload.to_string(),
            None => format!("interface {}", event.interface),
        };
        format!(
            "{} {verdict} {} -> {} {}, {} of {at}: {}",
            self.time(),
            end(self.source, flow.source, flow.source_port),
            end(self.destination, flow.destination, flow.destination_port),
            protocol(flow.protocol),
            event.direction,
            event.cause,
        )
    }

    fn document(&self) -> Value {
        let event = &self.recorded.event;
        let flow = &event.flow;
        let name = |workload: Option<&Workload>| workload.map(ToString::to_string);
        json!({
            "time": self.time(),
            "node": self.node,
            "verdict": event.verdict,
            "direction": event.direction,
            "endpoint": name(self.endpoint),
            "interface": event.interface,
            "source": {"address": flow.source, "port": flow.source_port, "name": name(self.source)},
            "destination": {
                "address": flow.destination,
                "port": flow.destination_port,
                "name": name(self.destination),
            },
            "protocol": protocol(flow.protocol),
            "by": event.cause.to_string(),
            "cause": event.cause,
        })
    }

    /// RFC 3339, to the millisecond.
    fn time(&self) -> String {
        let seconds = rfc3339(UNIX_EPOCH + Duration::from_millis(self.recorded.at));
        let seconds = seconds.trim_end_matches('Z');
        format!("{seconds}.{:03}Z", self.recorded.at % 1000)
    }
}

/// Whether people mean the owner of a rule by `NAMESPACE/NAME` or `NAME`.
fn is_policy(owner: &RuleOwner, text: &str) -> bool {
    match owner {
        RuleOwner::Policy(policy) => match text.split_once('/') {
            Some((namespace, name)) => {
                policy.namespace.as_deref() == Some(namespace) && *policy.name == *name
            }
            None => *policy.name == *text,
        },
        RuleOwner::Profile(profile) => **profile == *text,
    }
}

/// Its name, or its number.
fn protocol(number: u8) -> String {
    let named = [
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Icmp,
        Protocol::IcmpV6,
        Protocol::Sctp,
        Protocol::UdpLite,
    ];
    let named = named.into_iter().find(|protocol| protocol.number() == number);
    named.unwrap_or(Protocol::Number(number)).to_string()
}

#[cfg(test)]
mod tests {
    use calico_core::dataplane::{Direction, Flow, PolicyId, RuleId, VerdictEvent};
    use calico_core::kind::Kind;

    use super::*;

    fn recorded() -> Recorded {
        let policy = PolicyId {
            kind: Kind::NetworkPolicy,
            namespace: Some("prod".into()),
            name: "deny".into(),
        };
        let rule =
            RuleId { owner: RuleOwner::Policy(policy), direction: Direction::Ingress, index: 2 };
        let flow = Flow {
            source: [192, 0, 2, 9].into(),
            destination: "fd00::2".parse().unwrap(),
            protocol: 6,
            source_port: Some(4000),
            destination_port: Some(80),
        };
        let event = VerdictEvent {
            verdict: Verdict::Denied,
            cause: VerdictCause::Rule(rule),
            direction: Direction::Ingress,
            interface: "cali1".into(),
            flow,
        };
        Recorded { at: 1_700_000_000_042, event }
    }

    fn web() -> Workload {
        let text = |text: &str| text.to_owned();
        Workload { namespace: text("prod"), endpoint: text("n1-k8s-web-eth0"), pod: text("web") }
    }

    #[test]
    fn a_line_says_who_to_whom_and_by_which_rule() {
        let (recorded, web) = (recorded(), web());
        let mut line = Line {
            node: "n1",
            recorded: &recorded,
            endpoint: Some(&web),
            source: None,
            destination: Some(&web),
        };
        assert_eq!(
            line.text(Colour::Never),
            "2023-11-14T22:13:20.042Z denied 192.0.2.9:4000 -> prod/web ([fd00::2]:80) TCP, \
             ingress of prod/web: NetworkPolicy prod/deny ingress rule 2"
        );
        let document = line.document();
        assert_eq!(document["destination"]["name"], "prod/web");
        assert_eq!(document["cause"]["rule"]["index"], 2);
        (line.endpoint, line.destination) = (None, None);
        assert!(line.text(Colour::Never).contains("ingress of interface cali1"));
    }

    #[test]
    fn filters_are_by_pod_policy_and_verdict() {
        let (recorded, web) = (recorded(), web());
        let line = Line {
            node: "n1",
            recorded: &recorded,
            endpoint: None,
            source: None,
            destination: Some(&web),
        };
        let filter = |pod: &str, policy: &str, verdict: Option<Verdict>| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let filter = Filter {
                pods: some(pod).into_iter().collect(),
                policies: some(policy).into_iter().collect(),
                verdicts: verdict.into_iter().collect(),
            };
            line.passes(&filter)
        };
        assert!(filter("", "", None));
        assert!(filter("prod/web", "deny", Some(Verdict::Denied)));
        assert!(filter("prod/n1-k8s-web-eth0", "prod/deny", None));
        assert!(!filter("web", "", None), "another namespace");
        assert!(!filter("", "prod/other", None) && !filter("", "default/deny", None));
        assert!(!filter("", "", Some(Verdict::Logged)));
    }
}
