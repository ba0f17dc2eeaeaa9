//! Queueing disciplines, filters and `ifb` devices of the kernel.

use netlink_packet_core::{DefaultNla, NLM_F_ECHO, Nla as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::bucket::{Bucket, Seen};
use crate::rtnl::{CREATE, Connection, REPLACE, Request, RtnlError};

const TBF: &str = "tbf";
const INGRESS_KIND: &str = "ingress";
/// Our token buckets, so that they are told from those of others: "cali", as far as hexadecimal
/// goes.
const OURS: TcHandle = TcHandle { major: 0xca11, minor: 0 };
/// What the kernel calls every ingress discipline.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// Priority 1, and `ETH_P_ALL` in network order.
const EVERY_PACKET: u32 = (1 << 16) | 0x0003_u16.to_be() as u32;
/// `TCA_OPTIONS`, `NLA_F_NESTED`
const OPTIONS: u16 = 2 | 0x8000;

/// The token bucket of ours that an interface sends through.
pub(super) fn bucket(connection: &mut Connection, index: u32) -> Result<Option<Seen>, RtnlError> {
    let request = message(index, TcHandle::UNSPEC, TcHandle::ROOT);
    // Without echo the kernel tells everybody who listens, but not the one who asks.
    let request = Request::new(RouteNetlinkMessage::GetQueueDiscipline(request), NLM_F_ECHO);
    let answer = connection.query(request);
    let found = match answer {
        Ok(Some(RouteNetlinkMessage::NewQueueDiscipline(found))) => found,
        Ok(_) => return Ok(None),
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_ours = found.header.handle == OURS && kind(&found) == Some(TBF);
    let options = found.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Other(bytes) => Some(value(bytes)),
            _ => None,
        }),
        _ => None,
    });
    Ok(options.filter(|_| is_ours).and_then(|bytes| Seen::decode(&bytes)))
}

/// Lets the interface send through this token bucket.
pub(super) fn put_bucket(
    connection: &mut Connection,
    index: u32,
    bucket: &Bucket,
) -> Result<(), RtnlError> {
    let mut request = message(index, OURS, TcHandle::ROOT);
    request.attributes.push(TcAttribute::Kind(TBF.to_owned()));
    request.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS, bucket.encode())));
    connection.execute(Request::new(RouteNetlinkMessage::NewQueueDiscipline(request), REPLACE))
}

/// Lets the interface send without a token bucket of ours.
pub(super) fn remove_bucket(connection: &mut Connection, index: u32) -> Result<(), RtnlError> {
    let request = message(index, OURS, TcHandle::ROOT);
    gone(connection.execute(Request::new(RouteNetlinkMessage::DelQueueDiscipline(request), 0)))
}

/// Where the packets that come in at the interface are sent instead, if anywhere: the index of
/// another interface.
pub(super) fn redirections(connection: &mut Connection, index: u32) -> Result<Vec<u32>, RtnlError> {
    let request = message(index, TcHandle::UNSPEC, INGRESS);
    let filters = match connection.dump(&RouteNetlinkMessage::GetTrafficFilter(request)) {
        Ok(filters) => filters,
        // There is no ingress discipline.
        Err(RtnlError::Refused(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut targets = Vec::new();
    for filter in filters {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = filter {
            targets.extend(redirected_to(&filter));
        }
    }
    Ok(targets)
}

/// Sends all packets that come in at the interface to another one instead; filters that others put
/// there go.
pub(super) fn redirect(
    connection: &mut Connection,
    index: u32,
    target: u32,
) -> Result<(), RtnlError> {
    stop_redirecting(connection, index)?;
    let mut discipline = message(index, INGRESS, TcHandle::INGRESS);
    discipline.attributes.push(TcAttribute::Kind(INGRESS_KIND.to_owned()));
    connection
        .execute(Request::new(RouteNetlinkMessage::NewQueueDiscipline(discipline), CREATE))?;

    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = target;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    let mut filter = message(index, TcHandle::UNSPEC, INGRESS);
    filter.header.info = EVERY_PACKET;
    filter.attributes.push(TcAttribute::Kind(TcFilterU32::KIND.to_owned()));
    filter.attributes.push(TcAttribute::Options(vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Action(vec![action])),
    ]));
    connection.execute(Request::new(RouteNetlinkMessage::NewTrafficFilter(filter), CREATE))
}

/// Takes the ingress discipline away, with its filters.
pub(super) fn stop_redirecting(connection: &mut Connection, index: u32) -> Result<(), RtnlError> {
    let mut request = message(index, INGRESS, TcHandle::INGRESS);
    request.attributes.push(TcAttribute::Kind(INGRESS_KIND.to_owned()));
    match connection.execute(Request::new(RouteNetlinkMessage::DelQueueDiscipline(request), 0)) {
        // What the kernel says where there is none.
        Err(error) if error.errno() == Some(nix::errno::Errno::EINVAL) => Ok(()),
        done => gone(done),
    }
}

/// Makes a device that packets pass through only to be queued, up.
pub(super) fn make_ifb(connection: &mut Connection, name: &str, mtu: u32) -> Result<(), RtnlError> {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    connection.execute(Request::new(RouteNetlinkMessage::NewLink(message), CREATE))
}

fn message(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn redirected_to(filter: &TcMessage) -> Vec<u32> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let actions = options.flatten().filter_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    });
    let attributes = actions.flatten().flat_map(|action| &action.attributes);
    let options = attributes.filter_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    options
        .flatten()
        .filter_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
            _ => None,
        })
        .collect()
}

fn gone(done: Result<(), RtnlError>) -> Result<(), RtnlError> {
    match done {
        Err(error) if error.is_absent() => Ok(()),
        done => done,
    }
}
