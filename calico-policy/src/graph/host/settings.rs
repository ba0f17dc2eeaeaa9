//! From parameters of the node agent to what a dataplane must know of its host.

use calico_core::dataplane::{
    DenyAction, EndpointToHostAction, Failsafe, HostSettings, LogLimit, OutgoingNat, PortRange,
    ServiceLoop, Tunnels,
};
use calico_core::felix::Settings;
use calico_core::resource::{self, FelixConfigurationSpec, NatOutgoingExclusions, ProtoPort};
use ipnet::IpNet;

/// What these settings mean to the dataplane of a host; `asked` says which tunnels pools ask for:
/// VXLAN over IPv4, over IPv6, and IP in IP. Addresses of nodes and services are not in it.
pub(super) fn of(settings: &Settings, asked: [bool; 3]) -> HostSettings {
    let service_loop = match text(settings, "serviceLoopPrevention").as_deref() {
        Some(text) if text.eq_ignore_ascii_case("Reject") => ServiceLoop::Reject,
        Some(text) if text.eq_ignore_ascii_case("Disabled") => ServiceLoop::Allowed,
        _ => ServiceLoop::Drop,
    };
    let spec = &settings.spec;
    let inbound = spec.failsafe_inbound_host_ports.as_ref();
    let outbound = spec.failsafe_outbound_host_ports.as_ref();
    let usual = HostSettings::default();
    HostSettings {
        interface_prefix: spec.interface_prefixes().next().unwrap_or("cali").into(),
        endpoint_to_host: match spec.default_endpoint_to_host_action() {
            resource::EndpointToHostAction::Drop => EndpointToHostAction::Drop,
            resource::EndpointToHostAction::Return => EndpointToHostAction::Return,
            resource::EndpointToHostAction::Accept => EndpointToHostAction::Accept,
        },
        masquerade_spares_nodes: spec.nat_outgoing_exclusions()
            == NatOutgoingExclusions::IpPoolsAndHostIps,
        vxlan_from_workloads: spec.allow_vxlan_packets_from_workloads.unwrap_or_default(),
        vxlan_port: spec.vxlan_port.unwrap_or(usual.vxlan_port),
        ipip_from_workloads: spec.allow_ipip_packets_from_workloads.unwrap_or_default(),
        failsafe_inbound: inbound
            .map_or_else(|| Failsafe::INBOUND.into(), |ports| failsafes(ports)),
        failsafe_outbound: outbound
            .map_or_else(|| Failsafe::OUTBOUND.into(), |ports| failsafes(ports)),
        service_loop,
        outgoing_nat: outgoing_nat(settings),
        log_limit: log_limit(settings),
        invalid_meets_policy: text(settings, "disableConntrackInvalidCheck").as_deref()
            == Some("true"),
        tunnels: tunnels(spec, asked),
        external_nodes: list(settings, "externalNodesList"),
        mark_mask: bits(settings, "nftablesMarkMask").unwrap_or(usual.mark_mask),
        deny: match text(settings, "nftablesFilterDenyAction").as_deref() {
            Some(text) if text.eq_ignore_ascii_case("Reject") => DenyAction::Reject,
            _ => DenyAction::Drop,
        },
        ..usual
    }
}

/// A parameter that is set to something else than its default, as text.
fn text(settings: &Settings, name: &str) -> Option<String> {
    let (_, value, _) = settings.changed().find(|(field, ..)| *field == name)?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// As pools ask for, unless the settings say otherwise. They say nothing of VXLAN over IPv6 without
/// a pool.
fn tunnels(spec: &FelixConfigurationSpec, [vxlan_v4, vxlan_v6, ipip]: [bool; 3]) -> Tunnels {
    Tunnels {
        vxlan_v4: spec.vxlan_enabled.unwrap_or(vxlan_v4),
        vxlan_v6: vxlan_v6 && spec.vxlan_enabled != Some(false),
        ipip: spec.ipip_enabled.unwrap_or(ipip),
    }
}

/// Addresses and prefixes; those that cannot be read count as not said.
fn list(settings: &Settings, name: &str) -> Vec<IpNet> {
    let value = settings.changed().find(|(field, ..)| *field == name).map(|(_, value, _)| value);
    let texts = value.and_then(|value| value.as_array()).into_iter().flatten();
    let nets = texts.filter_map(|text| text.as_str()?.parse::<resource::Cidr>().ok());
    nets.map(|net| net.0.trunc()).collect()
}

/// Bits of a mark, if they are enough of them.
fn bits(settings: &Settings, name: &str) -> Option<u32> {
    let (_, value, _) = settings.changed().find(|(field, ..)| *field == name)?;
    let bits = u32::try_from(value.as_u64()?).ok()?;
    (bits.count_ones() >= HostSettings::MARK_BITS).then_some(bits)
}

/// What cannot be read counts as not set; it was named at the door.
fn outgoing_nat(settings: &Settings) -> OutgoingNat {
    let range = |text: String| {
        let (first, last) = text.split_once(':').unwrap_or((&text, &text));
        let range = PortRange { first: first.parse().ok()?, last: last.parse().ok()? };
        // 0 is upstream's default: any port.
        (1..=range.last).contains(&range.first).then_some(range)
    };
    let interface = text(settings, "iptablesNATOutgoingInterfaceFilter");
    OutgoingNat {
        address: text(settings, "natOutgoingAddress").and_then(|text| text.parse().ok()),
        ports: text(settings, "natPortRange").and_then(range),
        interface: interface.filter(|name| !name.is_empty()).map(Into::into),
    }
}

/// `100/minute`, as upstream writes it.
fn log_limit(settings: &Settings) -> Option<LogLimit> {
    let rate = text(settings, "logActionRateLimit")?;
    let (packets, unit) = rate.split_once('/')?;
    let seconds = match unit {
        "second" => 1,
        "minute" => 60,
        "hour" => 60 * 60,
        "day" => 24 * 60 * 60,
        _ => return None,
    };
    let burst = text(settings, "logActionRateLimitBurst").and_then(|text| text.parse().ok());
    Some(LogLimit { packets: packets.parse().ok()?, seconds, burst: burst.unwrap_or(5) })
}

/// Those that make sense; others were refused at the door.
fn failsafes(ports: &[ProtoPort]) -> Vec<Failsafe> {
    ports.iter().filter_map(|port| failsafe(port).ok()).collect()
}

/// What one entry of a list of failsafe ports says.
pub(super) fn failsafe(port: &ProtoPort) -> Result<Failsafe, String> {
    let protocol = match port.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => 6,
        "udp" => 17,
        other => return Err(format!("protocol is {other:?}; write TCP or UDP")),
    };
    let net = match port.net.as_str() {
        "" => None,
        text => {
            let net = text.parse::<resource::Cidr>();
            let net = net.map_err(|error| format!("net {text:?} is no prefix: {error}"))?;
            Some(net.0.trunc())
        }
    };
    Ok(Failsafe { protocol, port: port.port, net })
}
