//! Properties of the codec as a whole, and one case per class of RFC 7606.

use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn decode_stream(bytes: &[u8], context: &UpdateContext) -> Result<Vec<Message>, WireError> {
    let mut framer = Framer::default();
    if context.max_len > MAX_LEN {
        framer.allow_extended();
    }
    framer.push(bytes);
    let mut messages = Vec::new();
    while let Some(frame) = framer.poll_frame()? {
        messages.push(Message::decode(frame, context)?);
    }
    Ok(messages)
}

fn encode(message: &Message, context: &UpdateContext) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(context, &mut out).expect("fits");
    out
}

fn arb_path() -> impl Strategy<Value = AsPath> {
    let kind = prop_oneof![
        4 => Just(SegmentKind::Sequence),
        1 => Just(SegmentKind::Set),
    ];
    vec((kind, vec(1u32..200_000, 1..6)), 0..4).prop_map(|segments| {
        AsPath::from_segments(segments.into_iter().map(|(kind, asns)| AsPathSegment { kind, asns }))
    })
}

fn arb_attributes() -> impl Strategy<Value = PathAttributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let numbers = (any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>());
    let aggregator = proptest::option::of(any::<(u32, [u8; 4])>());
    let communities = (
        vec(any::<u32>(), 0..80),
        vec(any::<[u8; 8]>(), 0..4),
        vec(any::<(u32, u32, u32)>(), 0..4),
    );
    let reflection = (any::<Option<[u8; 4]>>(), vec(any::<[u8; 4]>(), 0..4), any::<Option<u32>>());
    let unknown = (prop_oneof![Just(0x80u8), Just(0xC0), Just(0xE0)], vec(any::<u8>(), 0..300));
    (
        origin,
        arb_path(),
        numbers,
        aggregator,
        communities,
        reflection,
        proptest::option::of(unknown),
    )
        .prop_map(
            |(origin, as_path, numbers, aggregator, communities, reflection, unknown)| {
                PathAttributes {
                    origin,
                    as_path,
                    next_hop: Some(NextHop::V4([192, 0, 2, 1].into())),
                    med: numbers.0,
                    local_pref: numbers.1,
                    atomic_aggregate: numbers.2,
                    aggregator: aggregator
                        .map(|(asn, id)| Aggregator { asn, router_id: id.into() }),
                    communities: communities.0.into_iter().map(Community).collect(),
                    extended_communities: communities
                        .1
                        .into_iter()
                        .map(ExtendedCommunity)
                        .collect(),
                    large_communities: communities
                        .2
                        .into_iter()
                        .map(|(global, local1, local2)| LargeCommunity { global, local1, local2 })
                        .collect(),
                    originator_id: reflection.0.map(Into::into),
                    cluster_list: reflection.1.into_iter().map(Into::into).collect(),
                    only_to_customer: reflection.2,
                    unknown: unknown
                        .into_iter()
                        .map(|(flags, v)| UnknownAttribute { flags, code: 99, value: v.into() })
                        .collect(),
                }
            },
        )
}

fn arb_v4() -> impl Strategy<Value = Vec<IpNet>> {
    vec((any::<[u8; 4]>(), 0u8..=32), 0..40).prop_map(|v| {
        v.into_iter().map(|(a, l)| IpNet::V4(Ipv4Net::new(a.into(), l).unwrap().trunc())).collect()
    })
}

fn arb_v6() -> impl Strategy<Value = Vec<IpNet>> {
    vec((any::<[u8; 16]>(), 0u8..=128), 0..40).prop_map(|v| {
        v.into_iter().map(|(a, l)| IpNet::V6(Ipv6Net::new(a.into(), l).unwrap().trunc())).collect()
    })
}

fn arb_update() -> impl Strategy<Value = Update> {
    let next_hop = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<bool>());
    (arb_attributes(), arb_v4(), arb_v4(), arb_v6(), arb_v6(), next_hop).prop_map(
        |(attributes, withdrawn, announced, gone6, here6, (global, local, two))| Update {
            withdrawn: NlriList::from_prefixes(Family::IPV4_UNICAST, withdrawn),
            announced: NlriList::from_prefixes(Family::IPV4_UNICAST, announced),
            mp_unreach: Some(NlriList::from_prefixes(Family::IPV6_UNICAST, gone6)),
            mp_reach: Some(MpReach {
                next_hop: Some(if two {
                    NextHop::V6LinkLocal(global.into(), local.into())
                } else {
                    NextHop::V6(global.into())
                }),
                raw_next_hop: Bytes::new(),
                nlri: NlriList::from_prefixes(Family::IPV6_UNICAST, here6),
            }),
            attributes: Some(attributes),
            errors: Vec::new(),
        },
    )
}

fn arb_capability() -> impl Strategy<Value = Capability> {
    let family = (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Family { afi, safi });
    let role = prop_oneof![
        Just(Role::Provider),
        Just(Role::RouteServer),
        Just(Role::RouteServerClient),
        Just(Role::Customer),
        Just(Role::Peer),
    ];
    let mode =
        prop_oneof![Just(AddPathMode::Receive), Just(AddPathMode::Send), Just(AddPathMode::Both)];
    prop_oneof![
        family.clone().prop_map(Capability::MultiProtocol),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedMessage),
        Just(Capability::EnhancedRouteRefresh),
        (any::<bool>(), any::<bool>(), 0u16..4096, vec((family.clone(), any::<bool>()), 0..5))
            .prop_map(|(restarting, notification, restart_time, families)| {
                Capability::GracefulRestart(GracefulRestart {
                    restarting,
                    notification,
                    restart_time,
                    families,
                })
            }),
        vec((family.clone(), mode), 0..5).prop_map(Capability::AddPath),
        vec((family.clone(), any::<u16>()), 0..5).prop_map(Capability::ExtendedNextHop),
        role.prop_map(Capability::Role),
        vec((family, any::<bool>(), 0u32..1 << 24), 0..5).prop_map(|families| {
            let family = |(family, forwarding, stale_time)| LongLivedFamily {
                family,
                forwarding,
                stale_time,
            };
            Capability::LongLivedGracefulRestart(families.into_iter().map(family).collect())
        }),
        (100u8..200, vec(any::<u8>(), 0..256))
            .prop_map(|(code, value)| Capability::Unknown { code, value: value.into() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn updates_round_trip(update in arb_update(), four_octet_as: bool) {
        let context = UpdateContext { four_octet_as, max_len: MAX_EXTENDED_LEN, ..Default::default() };
        let first = encode(&Message::Update(update.clone()), &context);
        let messages = decode_stream(&first, &context).unwrap();
        prop_assert_eq!(messages.len(), 1);
        let Message::Update(read) = &messages[0] else { panic!("not an update") };
        if four_octet_as {
            prop_assert_eq!(read, &update);
        } else {
            // An old speaker loses nothing either: AS4_PATH carries the path.
            let (a, b) = (read.attributes.clone().unwrap(), update.attributes.clone().unwrap());
            prop_assert_eq!(a.as_path.hop_count(), b.as_path.hop_count());
            prop_assert_eq!(a.aggregator, b.aggregator);
        }
        prop_assert_eq!(encode(&messages[0], &context), first);
    }

    #[test]
    fn opens_round_trip(
        asn in 1u32..,
        hold in prop_oneof![Just(0u16), 3u16..],
        id in 1u32..,
        capabilities in vec(arb_capability(), 0..12),
    ) {
        let open = Message::Open(Open::new(asn, hold, id.into(), capabilities));
        let context = UpdateContext::default();
        let first = encode(&open, &context);
        let read = decode_stream(&first, &context).unwrap();
        prop_assert_eq!(&read, &[open]);
        prop_assert_eq!(encode(&read[0], &context), first);
    }

    #[test]
    fn random_bytes_never_panic(kind in 1u8..=5, body in vec(any::<u8>(), 0..600), external: bool) {
        let mut bytes = vec![0xFF; 16];
        bytes.extend_from_slice(&((body.len() + HEADER_LEN) as u16).to_be_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&body);
        let context = UpdateContext { external, ..Default::default() };
        if let Ok(messages) = decode_stream(&bytes, &context) {
            for message in messages {
                if let Message::Update(u) = &message {
                    prop_assert!(u.announced.iter().count() <= body.len());
                }
                // What decodes also encodes, and then stays as it is.
                let wide = UpdateContext { max_len: MAX_EXTENDED_LEN, ..context.clone() };
                let mut once = BytesMut::new();
                if message.encode(&wide, &mut once).is_ok() {
                    let again = decode_stream(&once, &wide);
                    prop_assert!(again.is_ok(), "{:?}", again);
                }
            }
        } else if let Err(e) = decode_stream(&bytes, &context) {
            let _ = e.notification();
        }
    }

    #[test]
    fn mutated_updates_never_panic(
        update in arb_update(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        external: bool,
    ) {
        let context = UpdateContext { external, max_len: MAX_EXTENDED_LEN, ..Default::default() };
        let mut bytes = encode(&Message::Update(update), &context);
        for (at, value) in flips {
            let at = HEADER_LEN + at.index(bytes.len() - HEADER_LEN);
            bytes[at] = value;
        }
        if let Ok(messages) = decode_stream(&bytes, &context) {
            for message in messages {
                if let Message::Update(u) = message {
                    let _ = (u.treat_as_withdraw(), u.announced.iter().count());
                }
            }
        }
    }

    #[test]
    fn packed_updates_carry_every_prefix_once(
        attributes in arb_attributes(),
        count in 1usize..3000,
        ipv6: bool,
        several: bool,
    ) {
        let family = if ipv6 { Family::IPV6_UNICAST } else { Family::IPV4_UNICAST };
        let prefixes: Vec<IpNet> = (0..count as u32).map(|i| if ipv6 {
            IpNet::V6(Ipv6Net::new(std::net::Ipv6Addr::from(u128::from(i) << 64), 64).unwrap())
        } else {
            IpNet::V4(Ipv4Net::new(std::net::Ipv4Addr::from(i << 8), 24).unwrap())
        }).collect();
        let mut attributes = attributes;
        if ipv6 {
            attributes.next_hop = Some(NextHop::V6("2001:db8::1".parse().unwrap()));
        }
        // With path identifiers, what one side sends the other receives.
        let with = if several { vec![family] } else { vec![] };
        let context = UpdateContext { add_path: with.clone(), add_path_send: with, ..Default::default() };
        let packer = UpdatePacker::new(&context, family);
        let mut out = BytesMut::new();
        let prefixes: Vec<PathNlri> =
            prefixes.into_iter().zip(7..).map(|(p, id)| (if several { id } else { 0 }, p)).collect();
        if several {
            packer.announce(&attributes, &prefixes, &mut out).unwrap();
            packer.withdraw(&prefixes, &mut out).unwrap();
        } else {
            let plain: Vec<IpNet> = prefixes.iter().map(|(_, p)| *p).collect();
            packer.announce(&attributes, &plain, &mut out).unwrap();
            packer.withdraw(&plain, &mut out).unwrap();
        }
        let (mut announced, mut withdrawn) = (Vec::new(), Vec::new());
        for message in decode_stream(&out, &context).unwrap() {
            let Message::Update(u) = message else { panic!("not an update") };
            prop_assert!(u.errors.is_empty(), "{:?}", u.errors);
            announced.extend(u.announced.iter());
            withdrawn.extend(u.withdrawn.iter());
            announced.extend(u.mp_reach.iter().flat_map(|r| r.nlri.iter()));
            withdrawn.extend(u.mp_unreach.iter().flat_map(|l| l.iter()));
        }
        prop_assert_eq!(&announced, &prefixes);
        prop_assert_eq!(&withdrawn, &prefixes);
    }
}

/// Builds the body of an UPDATE for 10.0.0.0/8 from raw attributes.
fn update_with(attributes: &[&[u8]], context: &UpdateContext) -> Result<Update, WireError> {
    let list = attributes.concat();
    let mut body = vec![0, 0];
    body.extend_from_slice(&(list.len() as u16).to_be_bytes());
    body.extend_from_slice(&list);
    body.extend_from_slice(&[8, 10]);
    Update::decode(body.into(), context)
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xFD, 0xE9];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];

/// Sends a good UPDATE with one attribute more (or another in place of a mandatory one) and
/// expects the worst class among its errors.
#[track_caller]
fn check_class(extra: &[u8], expected: Option<ErrorClass>) {
    let context = UpdateContext::default();
    let base = [ORIGIN, AS_PATH, NEXT_HOP].into_iter().filter(|a| a[1] != extra[1]);
    let mut all: Vec<&[u8]> = base.collect();
    all.push(extra);
    let worst = match update_with(&all, &context) {
        Ok(u) => u.errors.iter().map(|e| e.class).max(),
        Err(WireError::Attribute { error, .. }) => Some(error.class),
        Err(WireError::Prefix(_)) => Some(ErrorClass::SessionReset),
        Err(e) => panic!("{e}"),
    };
    assert_eq!(worst, expected, "attribute {extra:?}");
}

#[test]
fn rfc_7606_classes() {
    let (discard, withdraw, reset) = (
        Some(ErrorClass::AttributeDiscard),
        Some(ErrorClass::TreatAsWithdraw),
        Some(ErrorClass::SessionReset),
    );
    check_class(&[0x80, 4, 4, 0, 0, 0, 1], None);
    check_class(&[0x40, 1, 1, 3], withdraw); // ORIGIN with an unknown value
    check_class(&[0x40, 1, 2, 0, 0], withdraw);
    check_class(&[0xC0, 1, 1, 0], withdraw); // flags
    check_class(&[0x40, 2, 3, 2, 1, 0], withdraw); // AS_PATH cut off
    check_class(&[0x40, 2, 2, 2, 0], withdraw); // empty segment
    check_class(&[0x40, 3, 3, 1, 2, 3], withdraw); // NEXT_HOP
    check_class(&[0x80, 4, 1, 0], withdraw); // MED
    check_class(&[0x40, 5, 1, 0], withdraw); // LOCAL_PREF
    check_class(&[0x40, 6, 1, 0], discard); // ATOMIC_AGGREGATE
    check_class(&[0xC0, 7, 3, 0, 0, 0], discard); // AGGREGATOR
    check_class(&[0xC0, 8, 3, 0, 0, 0], withdraw); // COMMUNITIES
    check_class(&[0xC0, 8, 0], withdraw);
    check_class(&[0x80, 9, 3, 0, 0, 0], withdraw); // ORIGINATOR_ID
    check_class(&[0x80, 10, 5, 0, 0, 0, 0, 0], withdraw); // CLUSTER_LIST
    check_class(&[0x80, 14, 2, 0, 2], reset); // MP_REACH cut off
    check_class(&[0x80, 14, 6, 0, 2, 1, 1, 9, 0], reset); // next hop of one octet
    check_class(&[0x80, 15, 4, 0, 2, 1, 200], reset); // prefix length 200
    check_class(&[0xC0, 16, 7, 0, 0, 0, 0, 0, 0, 0], withdraw); // EXTENDED COMMUNITIES
    check_class(&[0xC0, 32, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], withdraw); // LARGE
    check_class(&[0x40, 77, 0], reset); // unknown well-known
    check_class(&[0x80, 77, 0], None); // unknown optional
    check_class(&[0x80, 4, 9, 0], withdraw); // runs over the end
    check_class(&[0x80, 4, 4, 0, 0, 0, 1, 0x80, 4, 4, 0, 0, 0, 2], discard); // twice
    check_class(
        &[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1], // MP_UNREACH twice
        reset,
    );
}

#[test]
fn missing_mandatory_attributes_withdraw() {
    let context = UpdateContext::default();
    for missing in [ORIGIN, AS_PATH, NEXT_HOP] {
        let rest: Vec<&[u8]> =
            [ORIGIN, AS_PATH, NEXT_HOP].into_iter().filter(|a| *a != missing).collect();
        let update = update_with(&rest, &context).unwrap();
        assert!(update.treat_as_withdraw());
        assert_eq!(update.errors[0].fault, AttributeFault::Missing);
    }
    assert!(!update_with(&[ORIGIN, AS_PATH, NEXT_HOP], &context).unwrap().treat_as_withdraw());
}

#[test]
fn an_external_peer_cannot_set_internal_attributes() {
    let context = UpdateContext { external: true, ..Default::default() };
    let update = update_with(
        &[ORIGIN, AS_PATH, NEXT_HOP, &[0x40, 5, 4, 0, 0, 0, 200], &[0x80, 9, 4, 1, 1, 1, 1]],
        &context,
    )
    .unwrap();
    let attributes = update.attributes.unwrap();
    assert_eq!((attributes.local_pref, attributes.originator_id), (None, None));
    assert!(!update.errors.iter().any(|e| e.class > ErrorClass::AttributeDiscard));
}

#[test]
fn end_of_rib_markers() {
    let context = UpdateContext::default();
    for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
        let bytes = encode(&Message::Update(Update::end_of_rib(family)), &context);
        let messages = decode_stream(&bytes, &context).unwrap();
        let Message::Update(u) = &messages[0] else { panic!("not an update") };
        assert_eq!(u.is_end_of_rib(), Some(family));
    }
    assert_eq!(update_with(&[ORIGIN, AS_PATH, NEXT_HOP], &context).unwrap().is_end_of_rib(), None);
}

#[test]
fn a_captured_open_of_bird_reads() {
    // BIRD 2.0.12, AS 65001, hold time 240, identifier 192.0.2.2; built from its documented
    // capabilities: multiprotocol IPv4 and IPv6, refresh, extended messages off, graceful
    // restart 120 s, four-octet AS, enhanced refresh, long-lived graceful restart.
    let body: &[u8] = &[
        4, 0xFD, 0xE9, 0, 240, 192, 0, 2, 2, 30, 2, 28, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0,
        64, 2, 0, 120, 65, 4, 0, 0, 0xFD, 0xE9, 70, 0, 71, 0,
    ];
    let open = Open::decode(Bytes::copy_from_slice(body)).unwrap();
    assert_eq!(open.asn(), 65001);
    assert_eq!(open.capabilities.len(), 7);
    assert_eq!(open.capabilities[6], Capability::LongLivedGracefulRestart(vec![]));
}

#[test]
fn bad_opens_are_refused_with_the_right_code() {
    let check = |body: &[u8], code: OpenErrorCode| {
        let e = Open::decode(Bytes::copy_from_slice(body)).unwrap_err();
        assert_eq!(e.notification().code, NotificationCode::Open(code), "{e}");
    };
    check(&[3, 0, 1, 0, 90, 1, 1, 1, 1, 0], OpenErrorCode::UnsupportedVersion);
    check(&[4, 0, 1, 0, 2, 1, 1, 1, 1, 0], OpenErrorCode::UnacceptableHoldTime);
    check(&[4, 0, 1, 0, 90, 0, 0, 0, 0, 0], OpenErrorCode::BadBgpIdentifier);
    check(&[4, 0, 1, 0, 90, 1, 1, 1, 1, 2, 9, 0], OpenErrorCode::UnsupportedOptionalParameter);
    check(&[4, 0, 1, 0, 90, 1, 1, 1, 1, 9, 2, 0], OpenErrorCode::Unspecific);
    check(&[4, 0, 1, 0, 90, 1, 1, 1, 1, 3, 2, 1, 65], OpenErrorCode::Unspecific);
}
