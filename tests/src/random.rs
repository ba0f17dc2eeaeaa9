//! Random lines of the scenario language.

mod packets;
mod policies;
mod resources;

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;

use crate::lab::PODS;

/// Addresses that are not on the host; the first two are of workloads on another node.
const OUTSIDE: [&str; 8] = [
    "10.65.9.1",
    "fd65:9::1",
    "203.0.113.5",
    "203.0.113.77",
    "192.0.2.9",
    "2001:db8:1::5",
    "2001:db8:1::77",
    "2001:db8:2::9",
];

/// Destination ports. None of them is a source port: so no packet is an answer to another.
const PORTS: [u16; 8] = [22, 53, 80, 81, 443, 4789, 8080, 60_000];

/// Lines of one scenario: resources, then `packets` packets.
pub fn scenario(packets: usize) -> impl Strategy<Value = Vec<String>> {
    // Packets mostly meet an endpoint; what is said of it again later counts.
    let endpoints: Vec<_> =
        (1..=PODS + 1).map(|pod| weighted(0.9, resources::endpoint(pod))).collect();
    (endpoints, vec(resources::resource(), 10..40), vec(packets::send(), packets)).prop_map(
        |(endpoints, resources, packets)| {
            endpoints.into_iter().flatten().chain(resources).chain(packets).collect()
        },
    )
}

fn pods() -> impl Strategy<Value = u8> {
    1..=PODS
}

fn outside() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&OUTSIDE[..])
}

/// Mostly one that endpoints have a name for.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![2 => Just(80), 1 => Just(53), 4 => prop::sample::select(&PORTS[..])]
}

fn labels() -> impl Strategy<Value = String> {
    (of("[12]"), of("[12]"), weighted(0.8, "(web|db)-[12]")).prop_map(|(x, y, z)| {
        let one = |name, value: Option<String>| value.map(|value| format!("{name}: '{value}'"));
        let all = [one("x", x), one("y", y), one("z", z)];
        all.into_iter().flatten().collect::<Vec<_>>().join(", ")
    })
}

fn net() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &[
            "10.65.0.0/16",
            "10.65.0.1/32",
            "10.65.0.2/31",
            "203.0.113.0/24",
            "203.0.113.64/26",
            "192.0.2.9/32",
            "0.0.0.0/0",
            "0.0.0.0/1",
            "fd65::/64",
            "fd65::2/127",
            "fd65:9::1/128",
            "2001:db8::/32",
            "2001:db8:1::/64",
            "::/0",
        ][..],
    )
}

fn nets() -> impl Strategy<Value = String> {
    vec(net(), 1..4).prop_map(|mut nets| {
        nets.sort_unstable();
        nets.dedup();
        format!("['{}']", nets.join("', '"))
    })
}

/// Often the same in another spelling.
fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[xy] ?== ?'[12]'",
        2 => "has\\([xy]\\)",
        1 => "!has\\([xy]\\)",
        1 => "[xy] != '[12]'",
        1 => "[xy] in \\{'1', '3'\\}",
        3 => "[xy] not in \\{'1', '3'\\}",
        3 => "z starts ?with '(web|db)'",
        3 => "z ends ?with '-[12]'",
        3 => "z contains '(b-1|eb)'",
        1 => "x == '[12]' && y == '[12]'",
        1 => "x == '[12]' \\|\\| has\\(y\\)",
        1 => "\\(z starts ?with 'web'\\)",
        2 => "all\\(\\)",
    ]
}
