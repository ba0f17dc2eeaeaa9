//! UPDATE (RFC 4271, section 4.3; RFC 4760), read by the rules of RFC 7606.

use bytes::{BufMut, Bytes, BytesMut};
use ipnet::IpNet;

use super::attributes::{EXTENDED_LENGTH, OPTIONAL, TRANSITIVE, code, put};
use super::frame::encode_frame;
use super::nlri::{prefix_wire_len, put_prefix};
use super::reader::Reader;
use super::{
    Aggregator, AsPath, AttributeError, AttributeFault, Community, EncodeError, ErrorClass,
    ExtendedCommunity, Family, HEADER_LEN, LargeCommunity, MAX_LEN, MessageKind, NextHop, NlriList,
    Origin, PathAttributes, UnknownAttribute, WireError,
};

/// What was negotiated that changes how messages are read and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateContext {
    /// AS numbers take four octets (RFC 6793).
    pub four_octet_as: bool,
    /// The peer is in another AS: LOCAL_PREF and the reflection attributes are not for it.
    pub external: bool,
    /// Families whose prefixes carry path identifiers when received (RFC 7911).
    pub add_path: Vec<Family>,
    /// Longest message in octets.
    pub max_len: usize,
}

impl Default for UpdateContext {
    fn default() -> Self {
        Self { four_octet_as: true, external: false, add_path: Vec::new(), max_len: MAX_LEN }
    }
}

/// MP_REACH_NLRI: routes of any family with their next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpReach {
    /// The next hop; `None` only for a family that we do not read.
    pub next_hop: Option<NextHop>,
    /// The next hop as received, for families that we do not read.
    pub raw_next_hop: Bytes,
    /// The prefixes.
    pub nlri: NlriList,
}

/// An UPDATE message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// IPv4 unicast routes taken back.
    pub withdrawn: NlriList,
    /// Routes of any family taken back (MP_UNREACH_NLRI).
    pub mp_unreach: Option<NlriList>,
    /// The attributes of all announced routes. `next_hop` is that of `announced`.
    pub attributes: Option<PathAttributes>,
    /// Routes of any family (MP_REACH_NLRI).
    pub mp_reach: Option<MpReach>,
    /// IPv4 unicast routes.
    pub announced: NlriList,
    /// What was wrong with it, short of a session reset.
    pub errors: Vec<AttributeError>,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            withdrawn: NlriList::empty(Family::IPV4_UNICAST),
            mp_unreach: None,
            attributes: None,
            mp_reach: None,
            announced: NlriList::empty(Family::IPV4_UNICAST),
            errors: Vec::new(),
        }
    }
}

impl Update {
    /// The End-of-RIB marker of a family (RFC 4724, section 2).
    pub fn end_of_rib(family: Family) -> Self {
        let mp_unreach = (family != Family::IPV4_UNICAST).then(|| NlriList::empty(family));
        Self { mp_unreach, ..Self::default() }
    }

    /// The family whose End-of-RIB marker this is, if it is one.
    pub fn is_end_of_rib(&self) -> Option<Family> {
        let bare = self.withdrawn.is_empty()
            && self.announced.is_empty()
            && self.attributes.is_none()
            && self.mp_reach.is_none()
            && self.errors.is_empty();
        match &self.mp_unreach {
            _ if !bare => None,
            None => Some(Family::IPV4_UNICAST),
            Some(list) => list.is_empty().then(|| list.family()),
        }
    }

    /// Whether the announced routes have to count as withdrawn (RFC 7606, section 2).
    pub fn treat_as_withdraw(&self) -> bool {
        self.errors.iter().any(|e| e.class == ErrorClass::TreatAsWithdraw)
    }

    pub(super) fn decode(body: Bytes, context: &UpdateContext) -> Result<Self, WireError> {
        let mut r = Reader::new(body);
        let length = r.u16().ok_or(WireError::Update("no room for the withdrawn length"))?;
        let withdrawn = r
            .take(length.into())
            .ok_or(WireError::Update("withdrawn routes run over the end of the message"))?;
        let length = r.u16().ok_or(WireError::Update("no room for the attribute length"))?;
        let attributes = r
            .take(length.into())
            .ok_or(WireError::Update("attributes run over the end of the message"))?;
        let v4 = Family::IPV4_UNICAST;
        let add_path = context.add_path.contains(&v4);
        let withdrawn = NlriList::parse(v4, add_path, withdrawn)?;
        let announced = NlriList::parse(v4, add_path, r.rest())?;
        let mut decoder = AttributeDecoder::new(context);
        decoder.read_all(attributes)?;
        Ok(decoder.finish(withdrawn, announced))
    }

    pub(super) fn encode_body(
        &self,
        context: &UpdateContext,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        put_sized(out, "withdrawn routes", |o| o.put_slice(self.withdrawn.as_bytes()))?;
        put_sized(out, "path attributes", |o| {
            // The multiprotocol attributes go first (RFC 7606, section 5.1).
            if let Some(reach) = &self.mp_reach {
                put(o, OPTIONAL, code::MP_REACH_NLRI, |o| {
                    let family = reach.nlri.family();
                    o.put_u16(family.afi);
                    o.put_u8(family.safi);
                    match reach.next_hop {
                        Some(next_hop) => next_hop.encode(o),
                        None => {
                            // One length octet came in with it, so it fits one going out.
                            o.put_u8(reach.raw_next_hop.len() as u8);
                            o.put_slice(&reach.raw_next_hop);
                        }
                    }
                    o.put_u8(0);
                    o.put_slice(reach.nlri.as_bytes());
                });
            }
            if let Some(unreach) = &self.mp_unreach {
                put(o, OPTIONAL, code::MP_UNREACH_NLRI, |o| {
                    o.put_u16(unreach.family().afi);
                    o.put_u8(unreach.family().safi);
                    o.put_slice(unreach.as_bytes());
                });
            }
            if let Some(attributes) = &self.attributes {
                attributes.encode(context.four_octet_as, true, o);
            }
        })?;
        out.put_slice(self.announced.as_bytes());
        Ok(())
    }
}

/// Writes a two-octet length and what `body` writes.
fn put_sized(
    out: &mut BytesMut,
    what: &'static str,
    body: impl FnOnce(&mut BytesMut),
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_u16(0);
    body(out);
    let length = out.len() - start - 2;
    let value = u16::try_from(length).map_err(|_overflow| EncodeError {
        what,
        length,
        max: usize::from(u16::MAX),
    })?;
    out[start..start + 2].copy_from_slice(&value.to_be_bytes());
    Ok(())
}

/// Packs prefixes with equal attributes into as few UPDATEs as possible.
#[derive(Debug)]
pub struct UpdatePacker<'a> {
    context: &'a UpdateContext,
    family: Family,
}

impl<'a> UpdatePacker<'a> {
    /// A packer for one family of a session.
    pub const fn new(context: &'a UpdateContext, family: Family) -> Self {
        Self { context, family }
    }

    /// Appends UPDATEs that announce `prefixes` with `attributes`, which must have a next hop.
    ///
    /// # Errors
    /// [`EncodeError`] if the attributes leave no room for a prefix; nothing is written then.
    pub fn announce(
        &self,
        attributes: &PathAttributes,
        prefixes: &[IpNet],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let classic = self.family == Family::IPV4_UNICAST
            && matches!(attributes.next_hop, Some(NextHop::V4(_)));
        let mut encoded = BytesMut::new();
        attributes.encode(self.context.four_octet_as, classic, &mut encoded);
        let mut next_hop = BytesMut::new();
        if let Some(hop) = attributes.next_hop {
            hop.encode(&mut next_hop);
        }
        // Header, two length fields, attributes; and for MP_REACH its header (extended), family,
        // next hop and reserved octet.
        let mp = if classic { 0 } else { 4 + 3 + next_hop.len() + 1 };
        let fixed = HEADER_LEN + 4 + encoded.len() + mp;
        self.pack(fixed, prefixes, |chunk| {
            encode_frame(MessageKind::Update, self.context.max_len, out, |o| {
                o.put_u16(0);
                put_sized(o, "path attributes", |o| {
                    if !classic {
                        put(o, OPTIONAL, code::MP_REACH_NLRI, |o| {
                            o.put_u16(self.family.afi);
                            o.put_u8(self.family.safi);
                            o.put_slice(&next_hop);
                            o.put_u8(0);
                            chunk.iter().for_each(|p| put_prefix(p, o));
                        });
                    }
                    o.put_slice(&encoded);
                })?;
                if classic {
                    chunk.iter().for_each(|p| put_prefix(p, o));
                }
                Ok(())
            })
        })
    }

    /// Appends UPDATEs that withdraw `prefixes`.
    ///
    /// # Errors
    /// [`EncodeError`] if the message bound leaves no room for a prefix; it cannot happen with
    /// the bounds that BGP knows.
    pub fn withdraw(&self, prefixes: &[IpNet], out: &mut BytesMut) -> Result<(), EncodeError> {
        let classic = self.family == Family::IPV4_UNICAST;
        let fixed = HEADER_LEN + 4 + if classic { 0 } else { 4 + 3 };
        self.pack(fixed, prefixes, |chunk| {
            encode_frame(MessageKind::Update, self.context.max_len, out, |o| {
                put_sized(o, "withdrawn routes", |o| {
                    if classic {
                        chunk.iter().for_each(|p| put_prefix(p, o));
                    }
                })?;
                put_sized(o, "path attributes", |o| {
                    if !classic {
                        put(o, OPTIONAL, code::MP_UNREACH_NLRI, |o| {
                            o.put_u16(self.family.afi);
                            o.put_u8(self.family.safi);
                            chunk.iter().for_each(|p| put_prefix(p, o));
                        });
                    }
                })
            })
        })
    }

    fn pack(
        &self,
        fixed: usize,
        prefixes: &[IpNet],
        mut write: impl FnMut(&[IpNet]) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let max = self.context.max_len;
        // The longest prefix must fit, else the loop below could not advance.
        if fixed + 17 > max {
            return Err(EncodeError { what: "path attributes", length: fixed + 17, max });
        }
        let mut rest = prefixes;
        while !rest.is_empty() {
            let mut room = max - fixed;
            let mut count = 0;
            for prefix in rest {
                let Some(left) = room.checked_sub(prefix_wire_len(prefix)) else { break };
                (room, count) = (left, count + 1);
            }
            let (chunk, tail) = rest.split_at(count);
            write(chunk)?;
            rest = tail;
        }
        Ok(())
    }
}

/// Collects the attributes of one UPDATE and what is wrong with them.
struct AttributeDecoder<'a> {
    context: &'a UpdateContext,
    attributes: PathAttributes,
    seen: [u64; 4],
    any: bool,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
    mp_reach: Option<MpReach>,
    mp_unreach: Option<NlriList>,
    errors: Vec<AttributeError>,
}

/// How one attribute went wrong: what, and what it costs.
type Fault = (AttributeFault, ErrorClass);

const WITHDRAW: ErrorClass = ErrorClass::TreatAsWithdraw;
const DISCARD: ErrorClass = ErrorClass::AttributeDiscard;
const RESET: ErrorClass = ErrorClass::SessionReset;

impl<'a> AttributeDecoder<'a> {
    fn new(context: &'a UpdateContext) -> Self {
        Self {
            context,
            attributes: PathAttributes::default(),
            seen: [0; 4],
            any: false,
            as4_path: None,
            as4_aggregator: None,
            mp_reach: None,
            mp_unreach: None,
            errors: Vec::new(),
        }
    }

    fn read_all(&mut self, attributes: Bytes) -> Result<(), WireError> {
        let mut r = Reader::new(attributes);
        while !r.is_empty() {
            let (Some(flags), Some(code)) = (r.u8(), r.u8()) else {
                return self.fail(0, (AttributeFault::Overrun, WITHDRAW));
            };
            let length = if flags & EXTENDED_LENGTH != 0 {
                r.u16().map(usize::from)
            } else {
                r.u8().map(usize::from)
            };
            // The NLRI fields lie outside the list, so they can still be found (RFC 7606,
            // section 4): the routes are withdrawn and the session lives.
            let Some(value) = length.and_then(|n| r.take(n)) else {
                return self.fail(code, (AttributeFault::Overrun, WITHDRAW));
            };
            if self.is_duplicate(code)? {
                continue;
            }
            if let Err(fault) = self.read(flags & !EXTENDED_LENGTH, code, value)? {
                self.fail(code, fault)?;
            }
        }
        Ok(())
    }

    /// Notes an error, or turns it into a session reset.
    fn fail(&mut self, attribute: u8, (fault, class): Fault) -> Result<(), WireError> {
        let error = AttributeError { attribute, fault, class };
        if class == RESET {
            return Err(WireError::Attribute(error));
        }
        self.errors.push(error);
        Ok(())
    }

    /// All but the first of a kind are dropped, except that two MP attributes of one kind end
    /// the session (RFC 7606, section 3 g).
    fn is_duplicate(&mut self, code: u8) -> Result<bool, WireError> {
        let (word, bit) = (usize::from(code / 64), 1u64 << (code % 64));
        let duplicate = self.seen[word] & bit != 0;
        self.seen[word] |= bit;
        if duplicate {
            let mp = matches!(code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI);
            self.fail(code, (AttributeFault::Duplicate, if mp { RESET } else { DISCARD }))?;
        }
        Ok(duplicate)
    }

    fn has(&self, code: u8) -> bool {
        self.seen[usize::from(code / 64)] & 1u64 << (code % 64) != 0
    }

    /// Reads one attribute. The outer error ends the session, the inner one does what it says.
    fn read(&mut self, flags: u8, code: u8, value: Bytes) -> Result<Result<(), Fault>, WireError> {
        self.any |= code != code::MP_UNREACH_NLRI;
        if let Err(fault) = check_flags(flags, code) {
            return Ok(Err(fault));
        }
        match code {
            code::MP_REACH_NLRI => {
                self.mp_reach = Some(self.read_mp_reach(value)?);
                Ok(Ok(()))
            }
            code::MP_UNREACH_NLRI => {
                self.mp_unreach = Some(self.read_mp_unreach(value)?);
                Ok(Ok(()))
            }
            _ => Ok(self.read_plain(flags, code, value)),
        }
    }

    fn read_plain(&mut self, flags: u8, code: u8, value: Bytes) -> Result<(), Fault> {
        let a = &mut self.attributes;
        let external = self.context.external;
        match code {
            code::ORIGIN => {
                let [octet] = fixed::<1>(&value, WITHDRAW)?;
                a.origin = Origin::from_value(octet).ok_or((AttributeFault::Value, WITHDRAW))?;
            }
            code::AS_PATH => {
                a.as_path = AsPath::decode(value, self.context.four_octet_as)
                    .ok_or((AttributeFault::Value, WITHDRAW))?;
            }
            code::NEXT_HOP => {
                a.next_hop = Some(NextHop::V4(fixed::<4>(&value, WITHDRAW)?.into()));
            }
            code::MULTI_EXIT_DISC => {
                a.med = Some(u32::from_be_bytes(fixed(&value, WITHDRAW)?));
            }
            // From an external peer these three are dropped whatever they say (RFC 7606, 7.5,
            // 7.9, 7.10); BGP as deployed sends LOCAL_PREF there, so that is not even noted.
            code::LOCAL_PREF if external => {}
            code::ORIGINATOR_ID | code::CLUSTER_LIST if external => {
                return Err((AttributeFault::NotFromExternal, DISCARD));
            }
            code::LOCAL_PREF => {
                a.local_pref = Some(u32::from_be_bytes(fixed(&value, WITHDRAW)?));
            }
            code::ATOMIC_AGGREGATE => {
                fixed::<0>(&value, DISCARD)?;
                a.atomic_aggregate = true;
            }
            code::AGGREGATOR => {
                a.aggregator = Some(read_aggregator(&value, self.context.four_octet_as)?);
            }
            code::COMMUNITIES => {
                a.communities = list(&value, |c: [u8; 4]| Community(u32::from_be_bytes(c)))?;
            }
            code::EXTENDED_COMMUNITIES => {
                a.extended_communities = list(&value, ExtendedCommunity)?;
            }
            code::LARGE_COMMUNITIES => a.large_communities = list(&value, large_community)?,
            code::ORIGINATOR_ID => a.originator_id = Some(fixed::<4>(&value, WITHDRAW)?.into()),
            code::CLUSTER_LIST => a.cluster_list = list(&value, |c: [u8; 4]| c.into())?,
            // A peer that speaks four octets must not send the AS4 attributes (RFC 6793, 4.1).
            code::AS4_PATH | code::AS4_AGGREGATOR if self.context.four_octet_as => {}
            code::AS4_PATH => {
                let path = AsPath::decode(value, true).ok_or((AttributeFault::Value, DISCARD))?;
                self.as4_path = Some(path.without_confederation());
            }
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(read_aggregator(&value, true)?),
            _ if flags & OPTIONAL == 0 => {
                return Err((AttributeFault::UnrecognizedWellKnown, RESET));
            }
            _ => {
                // A copy: a route may live for months and must not keep a receive buffer alive.
                let value = Bytes::copy_from_slice(&value);
                a.unknown.push(UnknownAttribute { flags, code, value });
            }
        }
        Ok(())
    }

    fn read_mp_reach(&self, value: Bytes) -> Result<MpReach, WireError> {
        let bad = |fault| {
            WireError::Attribute(AttributeError {
                attribute: code::MP_REACH_NLRI,
                fault,
                class: RESET,
            })
        };
        let short = bad(AttributeFault::Length(value.len()));
        let mut r = Reader::new(value);
        let (Some(afi), Some(safi), Some(length)) = (r.u16(), r.u8(), r.u8()) else {
            return Err(short);
        };
        let raw_next_hop = r.take(length.into()).ok_or_else(|| short.clone())?;
        r.u8().ok_or(short)?;
        let family = Family { afi, safi };
        let known = family.max_prefix_len().is_some();
        let next_hop = NextHop::decode(&raw_next_hop);
        // IPv6 over an IPv4 next hop has no meaning; the other way round is RFC 8950.
        let fits = match next_hop {
            Some(NextHop::V4(_)) => family == Family::IPV4_UNICAST,
            Some(_) => true,
            None => false,
        };
        if known && !fits {
            return Err(bad(AttributeFault::Value));
        }
        let add_path = self.context.add_path.contains(&family);
        let nlri = NlriList::parse(family, add_path, r.rest())?;
        if known {
            return Ok(MpReach { next_hop, raw_next_hop: Bytes::new(), nlri });
        }
        Ok(MpReach { next_hop: None, raw_next_hop, nlri })
    }

    fn read_mp_unreach(&self, value: Bytes) -> Result<NlriList, WireError> {
        let short = WireError::Attribute(AttributeError {
            attribute: code::MP_UNREACH_NLRI,
            fault: AttributeFault::Length(value.len()),
            class: RESET,
        });
        let mut r = Reader::new(value);
        let (Some(afi), Some(safi)) = (r.u16(), r.u8()) else { return Err(short) };
        let family = Family { afi, safi };
        NlriList::parse(family, self.context.add_path.contains(&family), r.rest())
    }

    fn finish(mut self, withdrawn: NlriList, announced: NlriList) -> Update {
        let announces = !announced.is_empty()
            || self.mp_reach.as_ref().is_some_and(|reach| !reach.nlri.is_empty());
        let mut mandatory = vec![];
        if announces {
            mandatory.extend([code::ORIGIN, code::AS_PATH]);
        }
        if !announced.is_empty() {
            mandatory.push(code::NEXT_HOP);
        }
        for attribute in mandatory {
            if !self.has(attribute) {
                let fault = AttributeFault::Missing;
                self.errors.push(AttributeError { attribute, fault, class: WITHDRAW });
            }
        }
        self.merge_as4();
        Update {
            withdrawn,
            mp_unreach: self.mp_unreach,
            attributes: self.any.then_some(self.attributes),
            mp_reach: self.mp_reach,
            announced,
            errors: self.errors,
        }
    }

    /// RFC 6793, section 4.2.3.
    fn merge_as4(&mut self) {
        if let (Some(four), Some(two)) = (self.as4_aggregator, self.attributes.aggregator) {
            if two.asn != u32::from(super::AS_TRANS) {
                // The aggregator changed on the way: both AS4 attributes are out of date.
                return;
            }
            self.attributes.aggregator = Some(four);
        }
        if let Some(four) = self.as4_path.take() {
            self.attributes.as_path = std::mem::take(&mut self.attributes.as_path).merge_as4(four);
        }
    }
}

/// Compares the optional and transitive bits with the attribute's definition (RFC 7606,
/// section 3 c).
fn check_flags(flags: u8, code: u8) -> Result<(), Fault> {
    let expected = match code {
        code::ORIGIN
        | code::AS_PATH
        | code::NEXT_HOP
        | code::LOCAL_PREF
        | code::ATOMIC_AGGREGATE => TRANSITIVE,
        code::MULTI_EXIT_DISC
        | code::ORIGINATOR_ID
        | code::CLUSTER_LIST
        | code::MP_REACH_NLRI
        | code::MP_UNREACH_NLRI => OPTIONAL,
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::LARGE_COMMUNITIES => OPTIONAL | TRANSITIVE,
        _ => return Ok(()),
    };
    if flags & (OPTIONAL | TRANSITIVE) == expected {
        return Ok(());
    }
    // Without the multiprotocol attributes nobody knows which routes to withdraw.
    let mp = matches!(code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI);
    Err((AttributeFault::Flags(flags), if mp { RESET } else { WITHDRAW }))
}

fn fixed<const N: usize>(value: &[u8], class: ErrorClass) -> Result<[u8; N], Fault> {
    value.try_into().map_err(|_length| (AttributeFault::Length(value.len()), class))
}

/// A list of fixed-size items, at least one (RFC 7606, sections 7.8, 7.10, 7.14).
fn list<const N: usize, T>(value: &[u8], item: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Fault> {
    let (items, rest) = value.as_chunks::<N>();
    if items.is_empty() || !rest.is_empty() {
        return Err((AttributeFault::Length(value.len()), WITHDRAW));
    }
    Ok(items.iter().map(|i| item(*i)).collect())
}

fn large_community(octets: [u8; 12]) -> LargeCommunity {
    let part = |at: usize| {
        u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    };
    LargeCommunity { global: part(0), local1: part(4), local2: part(8) }
}

fn read_aggregator(value: &[u8], four_octet: bool) -> Result<Aggregator, Fault> {
    if four_octet {
        let v: [u8; 8] = fixed(value, DISCARD)?;
        let asn = u32::from_be_bytes([v[0], v[1], v[2], v[3]]);
        Ok(Aggregator { asn, router_id: [v[4], v[5], v[6], v[7]].into() })
    } else {
        let v: [u8; 6] = fixed(value, DISCARD)?;
        let asn = u32::from(u16::from_be_bytes([v[0], v[1]]));
        Ok(Aggregator { asn, router_id: [v[2], v[3], v[4], v[5]].into() })
    }
}
