//! The engine, its evaluator and the kernel side by side, fed with the same resources.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use calico_core::dataplane::{
    Dataplane, Direction, Transaction, Update, VerdictCause, VerdictEvent,
};
use calico_core::key::Key;
use calico_core::resource::AnyResource;
use calico_netlink::dataplane::{LinuxDataplane, NoRoutes, Settings};
use calico_netlink::nft::wire::{Family, Verdict};
use calico_netlink::nft::{Socket, Tuple, parts};
use calico_policy::desired::Desired;
use calico_policy::eval::Packet;
use calico_policy::{Graph, Input, Object, staged};
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use crate::coverage::{Configured, Coverage};
use crate::lab::Lab;
use crate::predict::{self, Outcome};
use crate::scenario::{Probe, Scenario};
use crate::wire;

/// Our table in the kernel.
const TABLE: &str = "calico";

/// The node whose endpoints are behind the lab's interfaces.
pub const NODE: &str = "n1";

/// What is not there by then will not come: packets and reports take milliseconds, unless the
/// machine does something else for seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came though nobody expected it is there by then, mostly.
const SETTLING: Duration = Duration::from_secs(1);

/// Between looks at what came.
const PAUSE: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub struct Rig<'a> {
    lab: &'a Lab,
    dataplane: LinuxDataplane,
    graph: Graph,
    desired: Desired,
    objects: BTreeMap<Key, Object>,
    events: Arc<Mutex<Vec<VerdictEvent>>>,
    reader: JoinHandle<()>,
    revision: u64,
    next: u32,
    patience: Duration,
    /// What would be in force if staged policies were.
    staged: Option<Desired>,
    coverage: Coverage,
}

/// What became of packets.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// How many verdicts were compared.
    pub verdicts: u32,
    /// Which of them arrived.
    pub arrived: HashSet<Probe>,
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl<'a> Rig<'a> {
    /// Starts without any resource. To be called in the namespace of the lab's host.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub async fn new(lab: &'a Lab) -> Self {
        // Repairs would hide differences.
        let settings = Settings { guard_interval: None };
        let dataplane = LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap();
        let events = Arc::<Mutex<Vec<_>>>::default();
        let (mut stream, into) = (dataplane.verdicts(), Arc::clone(&events));
        let reader = tokio::spawn(async move {
            while let Some(event) = stream.next().await {
                into.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        Self {
            lab,
            dataplane,
            graph: Graph::for_node(NODE),
            desired: Desired::default(),
            objects: BTreeMap::new(),
            events,
            reader,
            revision: 0,
            next: 1,
            patience: PATIENCE,
            staged: None,
            coverage: Coverage::default(),
        }
    }

    /// From now on waits no longer than this for what is missing: once a failure is known, time
    /// that is lost counts more.
    pub const fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// What had a part in verdicts so far.
    #[must_use]
    pub const fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Configures what the scenario says, and nothing else, and sends its packets. Returns how
    /// many verdicts were compared.
    ///
    /// # Errors
    ///
    /// How the kernel and the evaluator differ.
    pub async fn play(&mut self, scenario: &Scenario) -> Result<u32, String> {
        self.configure(&scenario.objects).await?;
        self.staged = match &scenario.staged[..] {
            [] => None,
            staged => Some(enforced(&scenario.objects, staged)?),
        };
        // Once is enough, as a table is much to read.
        if !self.coverage.has_shared_chain() && shares_chains().await? {
            self.coverage.add_shared_chain();
        }
        Ok(self.send(&scenario.probes).await?.verdicts)
    }

    /// Sends packets through what is configured, and says what became of them. Of those of one
    /// flow only the first is sent.
    ///
    /// # Errors
    ///
    /// How the kernel and the evaluator differ.
    pub async fn send(&mut self, probes: &[Probe]) -> Result<Sent, String> {
        let before = self.counters().await?;
        let parts = part_counters().await?;
        drop(self.lab.received());
        self.take_reports();

        let mut expected = Outcome::default();
        let mut sent: BTreeMap<u32, Probe> = BTreeMap::new();
        let mut flows = HashSet::new();
        for probe in probes {
            // Reports tell packets apart by their flow only.
            if !flows.insert(probe.packet.flow()) {
                continue;
            }
            self.judge(&probe.packet).await?;
            let number = self.next;
            self.next += 1;
            // A length of its own each, so that bytes show when two rules swap packets.
            let length = wire::length(96 + u16::try_from(sent.len() * 397 % 1301).unwrap());
            expected.add(&self.desired, probe, number, length);
            sent.insert(number, *probe);
            self.lab.send(probe.from, &probe.packet, number, length);
        }
        let found = self.observe(&before, &expected).await?;
        let verdicts = expected.verdicts();
        let (objects, desired) = (&self.objects, &self.desired);
        let configured = Configured { objects, desired, staged: self.staged.as_ref() };
        expected.met.iter().for_each(|met| self.coverage.add(configured, met));
        for (rule, packets) in part_counters().await? {
            if packets > parts.get(&rule).copied().unwrap_or_default() {
                self.coverage.add_part();
            }
        }
        match self.differences(&expected, &found, &sent) {
            text if text.is_empty() => {
                let arrived =
                    sent.iter().filter(|(number, _)| found.delivered.contains_key(number));
                Ok(Sent { verdicts, arrived: arrived.map(|(_, probe)| *probe).collect() })
            }
            text => Err(text),
        }
    }

    /// Whether the dataplane, which holds connections against a policy that changed, and the
    /// evaluator agree.
    async fn judge(&self, packet: &Packet) -> Result<(), String> {
        let explained = self.desired.explain_packet(packet);
        let early = [VerdictCause::Spoofed, VerdictCause::Encapsulated];
        let mut decisions = explained.egress.iter().chain(&explained.ingress);
        if decisions.any(|decision| early.contains(&decision.cause)) {
            return Ok(());
        }
        let icmp = packet.icmp.map(|(kind, code)| (0, kind, code));
        let Packet { source, destination, protocol, ports, .. } = *packet;
        let tuple = Tuple { source, destination, protocol, ports, icmp };
        let allowed = self.dataplane.allows(&tuple).await;
        if allowed == explained.is_allowed() {
            return Ok(());
        }
        Err(format!("a connection that begins with {packet} may go on: {allowed}\n{explained}"))
    }

    /// Whether the kernel has, rule by rule, what it was told.
    ///
    /// # Errors
    ///
    /// How it differs.
    pub async fn check_kernel(&self) -> Result<(), String> {
        let drift = self.dataplane.resync().await.map_err(|error| error.to_string())?;
        if drift.repaired.is_empty() { Ok(()) } else { Err(drift.repaired.join("\n")) }
    }

    /// Configures these resources and nothing else.
    ///
    /// # Errors
    ///
    /// Which of them was refused, and why.
    pub async fn configure(&mut self, objects: &[Object]) -> Result<(), String> {
        let wanted: BTreeMap<Key, Object> =
            objects.iter().map(|object| (object.key(), object.clone())).collect();
        let gone: Vec<Key> =
            self.objects.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            self.graph.handle(Input::Remove(key)).map_err(|error| error.to_string())?;
        }
        for (key, object) in &wanted {
            if self.objects.get(key) != Some(object) {
                let put = self.graph.handle(Input::Put(object.clone()));
                put.map_err(|error| error.to_string())?;
            }
        }
        self.objects = wanted;
        let mut updates = self.graph.flush();
        for update in &updates {
            self.desired.apply(update).map_err(|error| error.to_string())?;
        }
        self.revision += 1;
        updates.push(Update::InSync);
        let transaction = Transaction { revision: self.revision, updates };
        let applied = self.dataplane.apply(transaction).await;
        let applied = applied.map_err(|error| error.to_string())?;
        if !applied.failed.is_empty() {
            return Err(format!("failed endpoints: {:?}", applied.failed));
        }
        Ok(())
    }

    /// Waits until everything that is expected was seen, and a while for what is missing.
    async fn observe(
        &self,
        before: &BTreeMap<String, (u64, u64)>,
        expected: &Outcome,
    ) -> Result<Outcome, String> {
        let (mut found, start) = (Outcome::default(), Instant::now());
        let reports: u32 = expected.reports.values().sum();
        let mut counted = 0;
        loop {
            tokio::time::sleep(PAUSE).await;
            found.delivered.extend(self.lab.received().into_iter().map(|(port, n)| (n, port)));
            for report in self.take_reports() {
                *found.reports.entry(report).or_default() += 1;
                counted += 1;
            }
            let complete = found.delivered.len() >= expected.delivered.len() && counted >= reports;
            let late = start.elapsed() > if complete { SETTLING } else { self.patience };
            if !(complete || late) {
                continue;
            }
            found.counters.clear();
            for (identity, (packets, bytes)) in self.counters().await? {
                let (packets_before, bytes_before) =
                    before.get(&identity).copied().unwrap_or_default();
                if packets > packets_before {
                    found
                        .counters
                        .insert(identity, (packets - packets_before, bytes - bytes_before));
                }
            }
            if late || found.counters == expected.counters {
                return Ok(found);
            }
        }
    }

    async fn counters(&self) -> Result<BTreeMap<String, (u64, u64)>, String> {
        let counters = self.dataplane.rule_counters().await.map_err(|error| error.to_string())?;
        Ok(counters.into_iter().map(|c| (c.identity, (c.packets, c.bytes))).collect())
    }

    fn take_reports(&self) -> Vec<String> {
        let events = mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        let text = |e: &VerdictEvent| {
            predict::report(e.verdict, &e.cause, e.direction, &e.interface, &e.flow)
        };
        events.iter().map(text).collect()
    }

    fn differences(
        &self,
        expected: &Outcome,
        found: &Outcome,
        sent: &BTreeMap<u32, Probe>,
    ) -> String {
        let mut text = String::new();
        for (number, probe) in sent {
            let (wanted, got) = (expected.delivered.get(number), found.delivered.get(number));
            if wanted != got {
                let trace = self.trace(probe);
                writeln!(text, "{probe:?}: expected at {wanted:?}, arrived at {got:?}\n{trace}")
                    .unwrap();
            }
        }
        for number in found.delivered.keys().filter(|number| !sent.contains_key(number)) {
            writeln!(text, "packet {number} arrived, which nobody sent").unwrap();
        }
        compare(&mut text, "counter", &expected.counters, &found.counters);
        compare(&mut text, "report", &expected.reports, &found.reports);
        text
    }

    fn trace(&self, probe: &Probe) -> String {
        let from = predict::id_behind(&self.desired, probe.from);
        let to = crate::lab::Port::of(probe.packet.destination);
        let to = predict::id_behind(&self.desired, to);
        let mut text = self.desired.explain(from.as_ref(), to.as_ref(), &probe.packet).to_string();
        let out = crate::lab::Port::of(probe.packet.destination);
        let forwarded = probe.from != crate::lab::Port::Host && out != crate::lab::Port::Host;
        for (port, direction) in [(probe.from, Direction::Ingress), (out, Direction::Egress)] {
            if let Some(endpoint) = predict::host_endpoint(&self.desired, port) {
                let at = self.desired.evaluate_host(endpoint, direction, forwarded, &probe.packet);
                write!(text, "\n{direction} at host endpoint {}: {at}", endpoint.name).unwrap();
            }
        }
        text
    }
}

/// What the rules counted that stand in chains of one protocol, by chain and identity.
async fn part_counters() -> Result<BTreeMap<(String, String), u64>, String> {
    let mut socket = Socket::open().map_err(|error| error.to_string())?;
    let counters = socket.rule_counters(Family::Inet, TABLE).await;
    let mut found = BTreeMap::new();
    for counter in counters.map_err(|error| error.to_string())? {
        if parts::is_part(&counter.chain) {
            // One rule may have become several.
            *found.entry((counter.chain, counter.identity)).or_default() += counter.packets;
        }
    }
    Ok(found)
}

/// Whether a map of the kernel leads several interfaces to one chain.
async fn shares_chains() -> Result<bool, String> {
    let mut socket = Socket::open().map_err(|error| error.to_string())?;
    let read = socket.read_table(Family::Inet, TABLE).await.map_err(|error| error.to_string())?;
    let ruleset = read.0.ok_or("our table is gone")?;
    let mut maps = ruleset.sets.values().filter(|set| set.spec.verdict_map);
    Ok(maps.any(|map| {
        let mut seen = HashSet::new();
        map.elements.iter().any(|element| match &element.verdict {
            Some(Verdict::Goto(chain)) => !seen.insert(chain.clone()),
            _ => false,
        })
    }))
}

/// What would be in force if these policies, which are staged only, were.
///
/// # Errors
///
/// Which resource is refused, and why.
pub fn enforced(objects: &[Object], staged: &[AnyResource]) -> Result<Desired, String> {
    let mut graph = Graph::for_node(NODE);
    for object in objects {
        graph.handle(Input::Put(object.clone())).map_err(|error| error.to_string())?;
    }
    for resource in staged {
        match staged::effect(resource).map_err(|error| error.to_string())? {
            staged::Effect::Change(input) => {
                graph.handle(input).map_err(|error| error.to_string())?;
            }
            other => return Err(format!("{}: {other:?}", resource.metadata.name)),
        }
    }
    graph.flush();
    Ok(graph.desired())
}

fn compare<V: PartialEq + std::fmt::Debug>(
    text: &mut String,
    what: &str,
    expected: &BTreeMap<String, V>,
    found: &BTreeMap<String, V>,
) {
    let keys: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        let (wanted, got) = (expected.get(key), found.get(key));
        if wanted != got {
            writeln!(text, "{what} {key}: expected {wanted:?}, found {got:?}").unwrap();
        }
    }
}
