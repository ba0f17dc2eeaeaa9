//! The second half of the demo: a policy that denies, seen at work, then one that allows a port.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use calico_core::dataplane::{Verdict, VerdictEvent};

use super::{ANSWER, Cast, expect};
use crate::control::Verdicts;
use crate::error::LabError;
use crate::lab::Lab;
use crate::probe;
use crate::screen::{Look, Screen};
use crate::topology::StoreKind;
use crate::wait::{Pending, until};

/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(500);
/// How long a policy may take from calicoctl to the kernel of another node.
const ENFORCEMENT: Duration = Duration::from_secs(10);

pub(super) async fn play(screen: &mut Screen, lab: &Lab, cast: &Cast) -> Result<(), LabError> {
    let client = lab.pod(&cast.client.id())?;
    let server = lab.pod(&cast.server.id())?;
    let families = [false, true].into_iter().filter_map(|v6| server.address(v6));
    let addresses: Vec<IpAddr> = families.collect();
    let mut verdicts = lab.verdicts(&cast.server.node).await?;

    screen.step("Deny: calicoctl apply");
    apply(screen, lab, &deny(cast)).await?;
    enforced(lab, cast, addresses[0], cast.open, false).await?;
    for &address in &addresses {
        let to = SocketAddr::from((address, cast.open));
        let outcome = probe::tcp(client.namespace(), to, SILENCE).await?;
        expect(screen, client, &format!("tcp {to}"), &outcome, false)?;
        show_reason(screen, &mut verdicts, to).await?;
    }

    screen.step(&format!("Allow port {} alone: calicoctl apply", cast.open));
    apply(screen, lab, &allow(cast)).await?;
    enforced(lab, cast, addresses[0], cast.open, true).await?;
    for &address in &addresses {
        let to = SocketAddr::from((address, cast.open));
        let outcome = probe::tcp(client.namespace(), to, ANSWER).await?;
        expect(screen, client, &format!("tcp {to}"), &outcome, true)?;
        let to = SocketAddr::from((address, cast.shut));
        let outcome = probe::tcp(client.namespace(), to, SILENCE).await?;
        expect(screen, client, &format!("tcp {to}"), &outcome, false)?;
        show_reason(screen, &mut verdicts, to).await?;
    }
    if lab.topology().store == StoreKind::Kubernetes {
        kubernetes(screen, lab, cast, &addresses, &mut verdicts).await?;
    }
    Ok(())
}

/// The other port alone, by a policy of Kubernetes' own instead of Calico's.
async fn kubernetes(
    screen: &mut Screen,
    lab: &Lab,
    cast: &Cast,
    addresses: &[IpAddr],
    verdicts: &mut Verdicts,
) -> Result<(), LabError> {
    let client = lab.pod(&cast.client.id())?;
    screen.step(&format!("Port {} alone, by Kubernetes' NetworkPolicy: kubectl apply", cast.shut));
    let yaml = kubernetes_policy(cast);
    for line in yaml.lines() {
        screen.item(screen.paint(Look::Dim, line));
    }
    lab.kubectl_apply(&yaml)?;
    let namespace = format!("--namespace={}", cast.server.namespace);
    let name = format!("protect-{}", cast.server.name);
    lab.calicoctl(&["delete", "networkpolicy", &name, &namespace]).await?;
    enforced(lab, cast, addresses[0], cast.shut, true).await?;
    enforced(lab, cast, addresses[0], cast.open, false).await?;
    for &address in addresses {
        let to = SocketAddr::from((address, cast.shut));
        let outcome = probe::tcp(client.namespace(), to, ANSWER).await?;
        expect(screen, client, &format!("tcp {to}"), &outcome, true)?;
        let to = SocketAddr::from((address, cast.open));
        let outcome = probe::tcp(client.namespace(), to, SILENCE).await?;
        expect(screen, client, &format!("tcp {to}"), &outcome, false)?;
        show_reason(screen, verdicts, to).await?;
    }
    Ok(())
}

/// Tries until the policy shows in what the client gets.
async fn enforced(
    lab: &Lab,
    cast: &Cast,
    address: IpAddr,
    port: u16,
    answered: bool,
) -> Result<(), LabError> {
    let client = lab.pod(&cast.client.id())?;
    let to = SocketAddr::from((address, port));
    let state = if answered { "allowed" } else { "denied" };
    until(&format!("connections to {to} being {state}"), ENFORCEMENT, async || {
        let outcome = probe::tcp(client.namespace(), to, SILENCE).await?;
        if outcome.is_answered() == answered {
            return Ok(());
        }
        Err(Pending::NotYet(outcome.to_string()))
    })
    .await
}

/// Shows which rule dropped the packets to this address, as the dataplane recorded it.
async fn show_reason(
    screen: &Screen,
    verdicts: &mut Verdicts,
    to: SocketAddr,
) -> Result<(), LabError> {
    let event = denial(verdicts, to).await?;
    screen.item(format_args!(
        "    {} at {} ({}): {}",
        screen.paint(Look::Bad, "denied"),
        event.interface,
        event.direction,
        screen.paint(Look::Title, &event.cause),
    ));
    Ok(())
}

/// The verdict that dropped a packet to this address.
///
/// # Errors
///
/// [`LabError::Timeout`] if none comes, [`LabError::Machine`] if the agent hangs up.
async fn denial(verdicts: &mut Verdicts, to: SocketAddr) -> Result<VerdictEvent, LabError> {
    let wanted = |event: &VerdictEvent| {
        event.verdict == Verdict::Denied
            && event.flow.destination == to.ip()
            && event.flow.destination_port == Some(to.port())
    };
    let found = verdicts.find(ENFORCEMENT, wanted).await.map_err(LabError::Machine)?;
    found.ok_or_else(|| LabError::Timeout {
        what: format!("a verdict about packets to {to}"),
        limit: ENFORCEMENT,
        last: "they were dropped, and the agent reported no reason".to_owned(),
        logs: String::new(),
    })
}

async fn apply(screen: &Screen, lab: &Lab, yaml: &str) -> Result<(), LabError> {
    for line in yaml.lines() {
        screen.item(screen.paint(Look::Dim, line));
    }
    lab.apply_text(yaml).await
}

fn deny(cast: &Cast) -> String {
    policy(cast, "  - action: Deny\n")
}

fn allow(cast: &Cast) -> String {
    let rules = format!(
        "  - action: Allow\n    protocol: TCP\n    source: {{ selector: \"{}\" }}\n    \
           destination: {{ ports: [{}] }}\n  - action: Deny\n",
        selector(&cast.client),
        cast.open,
    );
    policy(cast, &rules)
}

fn policy(cast: &Cast, rules: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n\
         metadata: {{ name: protect-{}, namespace: {} }}\n\
         spec:\n  selector: \"{}\"\n  types: [Ingress]\n  ingress:\n{rules}",
        cast.server.name,
        cast.server.namespace,
        selector(&cast.server),
    )
}

fn kubernetes_policy(cast: &Cast) -> String {
    let labels = |pod: &crate::topology::Pod| {
        let pairs = pod.labels.iter().map(|(key, value)| format!("{key}: {value:?}"));
        pairs.collect::<Vec<_>>().join(", ")
    };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{ name: only-{port}, namespace: {namespace} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ {server} }} }}\n  policyTypes: [Ingress]\n  \
         ingress:\n  - from: [{{ podSelector: {{ matchLabels: {{ {client} }} }} }}]\n    \
         ports: [{{ protocol: TCP, port: {port} }}]\n",
        port = cast.shut,
        namespace = cast.server.namespace,
        server = labels(&cast.server),
        client = labels(&cast.client),
    )
}

/// Selects the pod by all of its labels.
fn selector(pod: &crate::topology::Pod) -> String {
    let terms = pod.labels.iter().map(|(key, value)| format!("{key} == '{value}'"));
    let terms: Vec<String> = terms.collect();
    if terms.is_empty() { "all()".to_owned() } else { terms.join(" && ") }
}
