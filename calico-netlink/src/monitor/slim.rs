//! Notifications of interfaces without what nobody reads in them: counters, settings of both
//! families and the like are most of their bytes, and there are several for each pod.

use std::borrow::Cow;

/// Headers of a netlink message and of what it says of an interface (`struct ifinfomsg`).
const NETLINK: usize = 16;
const HEADERS: usize = NETLINK + 16;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;

/// `IFLA_ADDRESS`, `IFLA_IFNAME`, `IFLA_MTU`, `IFLA_LINK`, `IFLA_MASTER`, `IFLA_LINKINFO`,
/// `IFLA_LINK_NETNSID` (linux/if_link.h): what a [`Link`](crate::link::Link) is read from, but for
/// its settings.
const READ: [u16; 7] = [1, 3, 4, 5, 10, 18, 37];

/// The message with what is read only. One that cannot be understood stays as it is, for those who
/// say why.
pub(super) fn slim(message: &[u8]) -> Cow<'_, [u8]> {
    let kind = u16_at(message, 4);
    if !matches!(kind, Some(RTM_NEWLINK | RTM_DELLINK)) || message.len() < HEADERS {
        return Cow::Borrowed(message);
    }
    let mut slim = message[..HEADERS].to_vec();
    let mut rest = &message[HEADERS..];
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(attribute) = rest.get(..length).filter(|_| length >= 4) else {
            return Cow::Borrowed(message);
        };
        // The upper two bits say how the value is to be read.
        if READ.contains(&(kind & 0x3fff)) {
            slim.extend_from_slice(attribute);
            slim.resize(slim.len().next_multiple_of(4), 0);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    let length = u32::try_from(slim.len()).unwrap_or(u32::MAX);
    slim[..4].copy_from_slice(&length.to_ne_bytes());
    Cow::Owned(slim)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{LinkAttribute, LinkInfo, LinkMessage, Stats64};
    use proptest::prelude::*;

    use super::*;
    use crate::link::Link;

    fn notification(attributes: Vec<LinkAttribute>) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.index = 7;
        link.attributes = attributes;
        let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn link_of(bytes: &[u8]) -> Option<Link> {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).unwrap();
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) = message.payload
        else {
            return None;
        };
        Link::from_message(&message)
    }

    #[test]
    fn what_a_link_is_read_from_stays() {
        let full = notification(vec![
            LinkAttribute::IfName("cali1".into()),
            LinkAttribute::Stats64(Stats64::default()),
            LinkAttribute::Mtu(1400),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Controller(3),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
                netlink_packet_route::link::InfoKind::Veth,
            )]),
            LinkAttribute::Link(9),
            LinkAttribute::LinkNetNsId(4),
        ]);
        let slim = slim(&full);
        assert!(slim.len() + 100 < full.len(), "{} of {}", slim.len(), full.len());
        let link = link_of(&slim).unwrap();
        assert_eq!(Some(&link), link_of(&full).as_ref());
        assert_eq!((link.name.as_str(), link.mtu, link.master), ("cali1", 1400, Some(3)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 6..200)) {
            bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
            prop_assert!(slim(&bytes).len() <= bytes.len() + 3);
        }
    }
}
