//! `ipam gc`: frees what nodes that are gone have left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_ipam::plan::collect::{Collector, Decision, Settings, Subject, Verdict};
use calico_ipam::{Collected, Deed, Ipam, Options};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::failure::Failure;

/// Looks at the cluster before anything is freed.
const LOOKS: u32 = 3;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// Only say what would be freed, after one look.
    pub(crate) dry_run: bool,
    /// How long something must be unused before it is freed.
    pub(crate) grace: Duration,
}

/// Looks, frees what is proven, and returns what to print. `say` gets what is going on.
pub(crate) async fn run(
    store: Arc<dyn Datastore>,
    request: Request,
    say: &mut dyn FnMut(&str),
) -> Result<String, Failure> {
    if Cluster::read(&*store).await?.is_some_and(|cluster| cluster.is_locked()) {
        return Err(Failure::Usage(
            "the datastore is locked for a migration; run `calicoctl datastore migrate unlock` \
             when it is over"
                .to_owned(),
        ));
    }
    let ipam = Ipam::new(store, Options::default());
    let (grace, looks) = if request.dry_run { (Duration::ZERO, 1) } else { (request.grace, LOOKS) };
    let gap = grace.max(Duration::from_secs(60)) * 2;
    let settings = Settings { grace, looks, gap, ..Settings::default() };
    let mut collector = Collector::new(settings, None);
    let started = Instant::now();
    let mut all: Vec<(Decision, Deed)> = Vec::new();
    for nth in 1_u32.. {
        let now = started.elapsed();
        let decided = match ipam.collect(&mut collector, now, request.dry_run).await? {
            Collected::Decided(decided) => decided,
            Collected::Doubtful(doubt) => {
                return Err(Failure::Usage(format!(
                    "nothing can be concluded: {doubt}; create Node resources, as `calicoctl get \
                     nodes` shows them"
                )));
            }
        };
        let freed = decided.iter().filter(|(_, deed)| *deed == Deed::Freed).count();
        let open = decided.iter().any(|(decision, deed)| {
            matches!(decision.verdict, Verdict::Watch(_) | Verdict::Later) || *deed == Deed::Changed
        });
        all.retain(|(_, deed)| *deed == Deed::Freed);
        all.extend(decided);
        // Somebody may change things again and again; they are found the next time.
        if !open || (nth > LOOKS && freed == 0) {
            break;
        }
        if nth == 1 {
            let many = all.iter().filter(|(d, _)| matches!(d.verdict, Verdict::Watch(_))).count();
            let seconds = grace.as_secs();
            say(&format!("Watching {many} suspect(s) for {seconds} s before anything is freed"));
        }
        if nth < LOOKS {
            tokio::time::sleep(grace / (LOOKS - 1)).await;
        }
    }
    Ok(describe(&all))
}

fn describe(all: &[(Decision, Deed)]) -> String {
    if all.is_empty() {
        return "Nothing is left of nodes that are gone.\n".to_owned();
    }
    let nodes: BTreeSet<&str> = all.iter().map(|(decision, _)| decision.subject.node()).collect();
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let mut out = format!("{} node(s) gone: {}\n", nodes.len(), nodes.join(", "));
    let mut part = |title: &str, wanted: &dyn Fn(&Decision, &Deed) -> bool| {
        let wanted: Vec<_> = all.iter().filter(|(d, deed)| wanted(d, deed)).collect();
        if wanted.is_empty() {
            return;
        }
        let addresses: usize = wanted.iter().map(|(d, _)| d.subject.addresses().count()).sum();
        let claim = |d: &Decision| matches!(d.subject, Subject::Claim { .. });
        let claims = wanted.iter().filter(|(d, _)| claim(d)).count();
        out.push_str(&format!("\n{title} {addresses} address(es) and {claims} claim(s):\n"));
        for (decision, deed) in wanted {
            let error = match deed {
                Deed::Failed(error) => format!(": {error}"),
                _ => String::new(),
            };
            let (subject, evidence) = (&decision.subject, decision.evidence());
            out.push_str(&format!("  {subject}\n    {evidence}{error}\n"));
        }
    };
    part("Freed", &|_, deed| *deed == Deed::Freed);
    part("Would free", &|_, deed| *deed == Deed::Would);
    part("Kept", &|decision, _| matches!(decision.verdict, Verdict::Keep(_)));
    part("Could not free", &|_, deed| matches!(deed, Deed::Failed(_)));
    part("Changed meanwhile, or too many at once; run this again for", &|decision, deed| {
        let later = matches!(decision.verdict, Verdict::Watch(_) | Verdict::Later);
        *deed == Deed::Changed || later
    });
    out
}

#[cfg(test)]
mod tests {
    use calico_core::Kind;
    use calico_core::key::Key;
    use calico_core::memory::MemoryStore;
    use calico_ipam::AssignRequest;

    use super::*;

    async fn run_quietly(store: &Arc<dyn Datastore>, dry_run: bool) -> Result<String, Failure> {
        let request = Request { dry_run, grace: Duration::from_millis(20) };
        run(Arc::clone(store), request, &mut |_| {}).await
    }

    #[tokio::test]
    async fn what_nodes_have_left_is_shown_and_freed() {
        let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
        let put = async |kind, name: &str, spec: &str| {
            let text = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{spec}}}"#);
            store.put(Key::resource(kind, None, name), text.into()).await.unwrap();
        };
        put(Kind::IpPool, "main", r#"{"cidr":"10.65.0.0/24"}"#).await;
        let error = run_quietly(&store, true).await.unwrap_err().to_string();
        assert!(error.contains("no Node resource"), "{error}");
        put(Kind::Node, "here", "{}").await;
        assert_eq!(
            run_quietly(&store, false).await.unwrap(),
            "Nothing is left of nodes that are gone.\n"
        );
        let ipam = Ipam::new(Arc::clone(&store), Options::default());
        for (handle, key) in [("net.c1", "sandbox"), ("mine", "note")] {
            let request = AssignRequest::new("gone").handle(handle).v4(1);
            let request = request.attribute("node", "gone").attribute(key, "c1");
            ipam.auto_assign(request).await.unwrap().complete().unwrap();
        }
        let blocks = ipam.blocks().await.unwrap();
        let ip = |nth: usize| blocks[0].allocations[nth].address;
        let expected = |what: &str, watched: &str| {
            format!(
                "1 node(s) gone: gone\n\n{what} 1 address(es) and 0 claim(s):\n  {} of net.c1\n    \
                 node gone is gone, no endpoint has the address, container or pod; so for 0 s, in \
                 {watched}\n\nKept 1 address(es) and 1 claim(s):\n  {} of mine\n    node gone is \
                 gone, but it is neither a workload's nor a tunnel's\n  claim of host:gone on {}\n    \
                 node gone is gone, but the node has endpoints or addresses that stay\n",
                ip(0),
                ip(1),
                blocks[0].cidr
            )
        };
        assert_eq!(run_quietly(&store, true).await.unwrap(), expected("Would free", "1 look"));
        assert_eq!(ipam.blocks().await.unwrap(), blocks, "a dry run changes nothing");
        assert_eq!(run_quietly(&store, false).await.unwrap(), expected("Freed", "3 looks"));
        ipam.release_by_handle("mine").await.unwrap();
        let said = run_quietly(&store, false).await.unwrap();
        assert!(said.contains("Freed 0 address(es) and 1 claim(s)"), "{said}");
        assert_eq!(ipam.blocks().await.unwrap(), []);
    }
}
