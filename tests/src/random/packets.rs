//! Random packets.

use proptest::prelude::*;

use super::{outside, pods, port};
use crate::lab::{addresses, host_addresses};

/// A packet on its way.
pub(super) fn send() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (pods(), pods(), any::<bool>()).prop_flat_map(|(from, to, v6)| {
            let at = move |pod: u8| addresses(pod)[usize::from(v6)].to_string();
            transport(v6, from < to).prop_map(move |rest| {
                format!("send {from} {} {} {rest}", at(from), at(to))
            })
        }),
        3 => (pods(), outside()).prop_flat_map(|(pod, other)| {
            let v6 = other.contains(':');
            let own = addresses(pod)[usize::from(v6)];
            transport(v6, true).prop_map(move |rest| format!("send {pod} {own} {other} {rest}"))
        }),
        3 => (pods(), outside()).prop_flat_map(|(pod, other)| {
            let v6 = other.contains(':');
            let own = addresses(pod)[usize::from(v6)];
            transport(v6, false).prop_map(move |rest| format!("send out {other} {own} {rest}"))
        }),
        2 => (outside(), outside(), 0..2u8).prop_filter_map("one family", |(from, to, port)| {
            (from.contains(':') == to.contains(':') && from != to).then_some((from, to, port))
        }).prop_flat_map(|(from, to, port)| {
            let way = if port == 0 { "out" } else { "out1" };
            transport(from.contains(':'), from < to)
                .prop_map(move |rest| format!("send {way} {from} {to} {rest}"))
        }),
        // Neighbour discovery, which is not asked of connection tracking.
        1 => (prop::sample::select(&["2001:db8:1::5", "2001:db8:2::9"][..]), 0..2u8, 133..=136_u8)
            .prop_map(|(other, n, kind)| {
                let way = if n == 0 { "out" } else { "out1" };
                format!("send {way} {other} {} 58 {kind} 0", host_addresses(n)[1])
            }),
        4 => (outside(), 0..2u8).prop_flat_map(|(other, n)| {
            let (v6, way) = (other.contains(':'), if n == 0 { "out" } else { "out1" });
            let host = host_addresses(n)[usize::from(v6)];
            transport(v6, true).prop_map(move |rest| format!("send {way} {other} {host} {rest}"))
        }),
        3 => (outside(), 0..2u8).prop_flat_map(|(other, n)| {
            let v6 = other.contains(':');
            let host = host_addresses(n)[usize::from(v6)];
            transport(v6, false).prop_map(move |rest| format!("send host {host} {other} {rest}"))
        }),
        2 => (pods(), 0..2u8, any::<bool>()).prop_flat_map(|(pod, n, v6)| {
            let (own, host) = (addresses(pod)[usize::from(v6)], host_addresses(n)[usize::from(v6)]);
            transport(v6, true).prop_map(move |rest| format!("send {pod} {own} {host} {rest}"))
        }),
        1 => (pods(), 0..2u8, any::<bool>()).prop_flat_map(|(pod, n, v6)| {
            let (own, host) = (addresses(pod)[usize::from(v6)], host_addresses(n)[usize::from(v6)]);
            transport(v6, false).prop_map(move |rest| format!("send host {host} {own} {rest}"))
        }),
        // Forged, or allowed to be.
        1 => (pods(), pods(), outside()).prop_flat_map(|(from, to, other)| {
            let v6 = other.contains(':');
            let to = addresses(to)[usize::from(v6)];
            transport(v6, false).prop_map(move |rest| format!("send {from} {other} {to} {rest}"))
        }),
    ]
}

/// Protocol and what follows it. A protocol without ports or requests has one connection for
/// both ways, so `others` is said for one of them only.
fn transport(v6: bool, others: bool) -> BoxedStrategy<String> {
    let source = prop_oneof![4 => 30_000..50_000_u16, 1 => 1_000..1_010_u16, 2 => Just(1_005)];
    let with_ports = ("6|6|6|17|17|132|136", source, port())
        .prop_map(|(protocol, source, port)| format!("{protocol} {source} {port}"));
    // Requests: what is an answer without one is not let through, whatever the policies.
    let icmp = match v6 {
        false => "1 (8|13|17) [01]",
        true => "58 (128|139) [01]",
    };
    if others {
        prop_oneof![8 => with_ports, 2 => icmp, 1 => "47|103|4"].boxed()
    } else {
        prop_oneof![4 => with_ports, 1 => icmp].boxed()
    }
}
