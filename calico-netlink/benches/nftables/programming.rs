//! What programming the kernel costs beside `nft -f`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::dataplane::{Dataplane as _, Update};
use calico_netlink::dataplane::{LinuxDataplane, NoRoutes};
use calico_netlink::nft::wire::Family;
use calico_netlink::nft::{Socket, Tracker};
use calico_netlink::testing::TestNet;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use super::{apply, best, endpoint, id, median, nft, open, profile, ratio, rules, runtime, set};

pub(crate) fn run() {
    let Some(host) = TestNet::new("bench") else { return };
    host.run(|| runtime().block_on(programming()));
    let Some(host) = TestNet::new("bench") else { return };
    host.run(|| runtime().block_on(one_endpoint()));
}

const ROUNDS: usize = 9;

/// 10,000 rules and 100,000 members of sets, from nothing.
async fn programming() {
    let mut updates: Vec<Update> = (0..100).map(|n| set(n, 1000)).collect();
    updates.push(profile());
    updates.extend((0..1000).map(|n| rules(n, 100)));
    updates.extend((0..100).map(|n| endpoint(n, n * 10..n * 10 + 10)));
    updates.push(Update::InSync);
    let path = std::env::temp_dir().join(format!("calico-bench-{}.nft", std::process::id()));
    let (mut ours, mut theirs, mut encoding, mut kernel) = (vec![], vec![], vec![], vec![]);
    let (mut guarded, mut long) = (vec![], vec![]);
    let (mut our_cpu, mut their_cpu) = (vec![], vec![]);
    let mut memory = None;
    for _ in 0..ROUNDS {
        let dataplane = LinuxDataplane::open(Arc::new(NoRoutes)).await.unwrap();
        guarded.push(apply(&dataplane, updates.clone()).await);
        done(dataplane).await;

        let dataplane = open().await;
        let mine = updates.clone();
        let before = resident("VmRSS");
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let used = cpu(UsageWho::RUSAGE_SELF);
        ours.push(apply(&dataplane, mine).await);
        our_cpu.push(cpu(UsageWho::RUSAGE_SELF) - used);
        memory.get_or_insert_with(|| (before, resident("VmHWM"), resident("VmRSS")));
        let mut socket = Socket::open().unwrap();
        let (table, ..) = socket.read_table(Family::Inet, "calico").await.unwrap();
        std::fs::write(&path, nft(&["list", "table", "inet", "calico"])).unwrap();
        done(dataplane).await;

        let mut tracker = Tracker::new(Family::Inet, "calico");
        let table = table.unwrap();
        for (name, set) in &table.sets {
            tracker.put_set(name, set.clone());
        }
        for (name, chain) in &table.chains {
            tracker.put_chain(name, chain.clone());
        }
        let started = Instant::now();
        let batch = tracker.batch();
        encoding.push(started.elapsed());
        let started = Instant::now();
        socket.commit(&batch, None).await.unwrap();
        kernel.push(started.elapsed());
        nft(&["flush", "ruleset"]);
        tokio::time::sleep(Duration::from_millis(200)).await;

        for (ruleset, times) in [(None, &mut theirs), (Some(as_upstream()), &mut long)] {
            let same = ruleset.is_none();
            if let Some(ruleset) = ruleset {
                std::fs::write(&path, ruleset).unwrap();
            }
            let used = cpu(UsageWho::RUSAGE_CHILDREN);
            let started = Instant::now();
            nft(&["-f", path.to_str().unwrap()]);
            times.push(started.elapsed());
            if same {
                their_cpu.push(cpu(UsageWho::RUSAGE_CHILDREN) - used);
            }
            nft(&["flush", "ruleset"]);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    std::fs::remove_file(&path).unwrap();
    let [ours, guarded, encoding, kernel, theirs, long, our_cpu, their_cpu] =
        [ours, guarded, encoding, kernel, theirs, long, our_cpu, their_cpu].map(best);
    println!("10,000 rules and 100,000 members of sets, from nothing (best of {ROUNDS}):");
    println!("  ours, from updates to the acknowledgement  {ours:?}");
    println!("  one batch of all of it, as bytes           {encoding:?}");
    println!("  the kernel with that (send to answer)      {kernel:?}");
    println!("  ours while the guard listens               {guarded:?}");
    println!(
        "  nft -f with the same ruleset               {theirs:?}, {:.1} x",
        ratio(theirs, ours)
    );
    println!("  nothing of our own (nft by the kernel)     {:.1} x", ratio(theirs, kernel));
    println!(
        "  processor: ours {our_cpu:?}, nft's {their_cpu:?}, {:.1} x",
        ratio(their_cpu, our_cpu)
    );
    println!("  nft -f with the policies' rules unshared   {long:?}, {:.1} x", ratio(long, ours));
    let (before, peak, after) = memory.unwrap();
    println!("  resident: {before} KiB with the updates, {peak} at most, {after} afterwards");
    let theirs = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    println!("  resident: nft at most {theirs} KiB");
}

/// Processor time that was used, in and out of the kernel.
fn cpu(who: UsageWho) -> Duration {
    let usage = getrusage(who).unwrap();
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap())
    };
    micros(usage.user_time()) + micros(usage.system_time())
}

/// A figure of `/proc/self/status`, KiB.
fn resident(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Its tasks end, and the kernel frees what was removed.
async fn done(dataplane: LinuxDataplane) {
    dataplane.remove_all().await.unwrap();
    drop(dataplane);
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// The same policies with two rules for each of theirs, as Felix writes them: one that sets a mark,
/// and one that returns if it is set.
fn as_upstream() -> String {
    let mut text = "table ip calico {\n".to_owned();
    for n in 0..100_u32 {
        let address = |m: u32| Ipv4Addr::from(0x0a80_0000 + n * 1000 + m).to_string();
        let members: Vec<_> = (0..1000).map(address).collect();
        let members = members.join(",");
        writeln!(text, "set cali40s-{n} {{ type ipv4_addr; elements = {{ {members} }}; }}")
            .unwrap();
    }
    let returns = "meta mark & 0x10000 == 0x10000 counter return";
    for n in 0..1000 {
        writeln!(text, "chain cali-pi-np/default/policy-{n} {{").unwrap();
        for index in 0..10 {
            let match_ = match index {
                9 => "udp dport 9".to_owned(),
                _ => {
                    let (set, port) = ((n * 10 + index) % 100, 10_000 + index);
                    format!("ip saddr @cali40s-{set} tcp dport {port}")
                }
            };
            writeln!(
                text,
                "{match_} counter meta mark set meta mark or 0x10000 \
                 comment \"NetworkPolicy default/policy-{n} ingress rule {index}\"\n{returns}"
            )
            .unwrap();
        }
        text.push_str("}\n");
    }
    for n in 0..100 {
        writeln!(text, "chain cali-tw-cali{n} {{\nct state established,related counter accept")
            .unwrap();
        writeln!(text, "meta mark set meta mark & 0xfffcffff").unwrap();
        for policy in n * 10..n * 10 + 10 {
            writeln!(text, "jump cali-pi-np/default/policy-{policy}\n{returns}").unwrap();
        }
        text.push_str("counter drop\n}\n");
    }
    let elements: Vec<_> = (0..100).map(|n| format!("cali{n} : goto cali-tw-cali{n}")).collect();
    let elements = elements.join(", ");
    writeln!(text, "map to {{ type ifname : verdict; elements = {{ {elements} }}; }}").unwrap();
    text.push_str("chain forward { type filter hook forward priority 0; oifname vmap @to; }\n}\n");
    text
}

/// One endpoint more among 2,000.
async fn one_endpoint() {
    let dataplane = open().await;
    let mut updates = vec![profile(), set(0, 10), rules(0, 1), Update::InSync];
    updates.extend((0..2000).map(|n| endpoint(n, [0])));
    apply(&dataplane, updates).await;
    let listed = nft(&["list", "map", "inet", "calico", "cali-to-wl-dispatch"]);
    let to = chain_of(&listed);
    let verb = if listed.contains(" goto ") { "goto" } else { "jump" };
    let listed = nft(&["list", "map", "inet", "calico", "cali-from-wl-dispatch"]);
    let from = chain_of(&listed);
    let listed = nft(&["list", "map", "inet", "calico", "cali40workload-sources"]);
    let by_source = chain_of(&listed);
    let path = std::env::temp_dir().join(format!("calico-bench-{}.nft", std::process::id()));
    let (mut ours, mut theirs) = (vec![], vec![]);
    for n in 2000..2021 {
        ours.push(apply(&dataplane, vec![endpoint(n, [0])]).await);
        apply(&dataplane, vec![Update::EndpointRemoved(id(n))]).await;
        let script = format!(
            "add element inet calico cali-to-wl-dispatch {{ \"cali{n}\" : {verb} {to} }}\n\
             add element inet calico cali-from-wl-dispatch {{ \"cali{n}\" : goto {from} }}\n\
             add element inet calico cali40workload-sources {{ \"cali{n}\" . 10.65.7.208 : goto {by_source} }}\n"
        );
        std::fs::write(&path, &script).unwrap();
        let started = Instant::now();
        nft(&["-f", path.to_str().unwrap()]);
        theirs.push(started.elapsed());
        dataplane.resync().await.unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    let (ours, theirs) = (median(ours), median(theirs));
    println!("one endpoint more among 2,000 (median of 21):");
    println!("  ours                                       {ours:?}");
    println!("  nft -f with the same change                {theirs:?}");
    println!("  ratio                                      {:.1}", ratio(theirs, ours));
}

/// The chain that the first interface of a listed map leads to.
fn chain_of(listed: &str) -> String {
    let after = listed.split("goto ").nth(1).or_else(|| listed.split("jump ").nth(1)).unwrap();
    after.split([',', ' ', '}', '\n']).next().unwrap().to_owned()
}
