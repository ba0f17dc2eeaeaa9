//! Reading path attributes by the rules of RFC 7606.

use std::hash::Hash;

use bytes::Bytes;
use hashbrown::HashSet;

use super::attributes::{EXTENDED_LENGTH, OPTIONAL, TRANSITIVE, code};
use super::reader::Reader;
use super::{
    AS_TRANS, Aggregator, AsPath, AttributeError, AttributeFault, Community, ErrorClass,
    ExtendedCommunity, Family, LargeCommunity, MpReach, NextHop, NlriList, Origin,
    UnknownAttribute, Update, UpdateContext, WireError,
};

/// Collects the attributes of one UPDATE and what is wrong with them.
pub(super) struct AttributeDecoder<'a> {
    context: &'a UpdateContext,
    body: &'a Bytes,
    update: &'a mut Update,
    seen: [u64; 4],
    any: bool,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

/// How one attribute went wrong: what, and what it costs.
type Fault = (AttributeFault, ErrorClass);

/// Why one attribute was not read.
enum Trouble {
    Fault(AttributeFault, ErrorClass),
    /// Its prefixes cannot be read.
    Wire(WireError),
}

impl From<Fault> for Trouble {
    fn from((fault, class): Fault) -> Self {
        Self::Fault(fault, class)
    }
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

const WITHDRAW: ErrorClass = ErrorClass::TreatAsWithdraw;
const DISCARD: ErrorClass = ErrorClass::AttributeDiscard;
const RESET: ErrorClass = ErrorClass::SessionReset;
const OVERRUN: Trouble = Trouble::Fault(AttributeFault::Overrun, WITHDRAW);

const fn is_mp(code: u8) -> bool {
    matches!(code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI)
}

impl<'a> AttributeDecoder<'a> {
    /// A decoder that reads attributes in `body` into an empty UPDATE.
    pub(super) fn new(context: &'a UpdateContext, body: &'a Bytes, update: &'a mut Update) -> Self {
        update.attributes.get_or_insert_default();
        Self {
            context,
            body,
            update,
            seen: [0; 4],
            any: false,
            as4_path: None,
            as4_aggregator: None,
        }
    }

    pub(super) fn read_all(&mut self, attributes: &[u8]) -> Result<(), WireError> {
        let mut r = Reader::new(attributes);
        while !r.is_empty() {
            let (Some(flags), Some(code)) = (r.u8(), r.u8()) else {
                return self.fail(0, 0, &[], OVERRUN);
            };
            let length = if flags & EXTENDED_LENGTH != 0 {
                r.u16().map(usize::from)
            } else {
                r.u8().map(usize::from)
            };
            // The NLRI fields lie outside the list, so they can still be found (RFC 7606,
            // section 4): the routes are withdrawn and the session lives.
            let Some(value) = length.and_then(|n| r.take(n)) else {
                return self.fail(flags, code, &[], OVERRUN);
            };
            let read = if self.is_duplicate(code) {
                // All but the first of a kind are dropped, except that two MP attributes of one
                // kind end the session (RFC 7606, section 3 g).
                Err(Trouble::Fault(
                    AttributeFault::Duplicate,
                    if is_mp(code) { RESET } else { DISCARD },
                ))
            } else {
                self.read(flags & !EXTENDED_LENGTH, code, value)
            };
            if let Err(trouble) = read {
                self.fail(flags, code, value, trouble)?;
            }
        }
        Ok(())
    }

    /// Notes an error, or turns it into a session reset.
    #[cold]
    fn fail(
        &mut self,
        flags: u8,
        attribute: u8,
        value: &[u8],
        trouble: Trouble,
    ) -> Result<(), WireError> {
        let (fault, class) = match trouble {
            Trouble::Fault(fault, class) => (fault, class),
            Trouble::Wire(error) => return Err(error),
        };
        let error = AttributeError { attribute, fault, class };
        if class == RESET {
            return Err(WireError::Attribute { error, raw: raw(flags, attribute, value) });
        }
        self.update.errors.push(error);
        Ok(())
    }

    fn is_duplicate(&mut self, code: u8) -> bool {
        let (word, bit) = (usize::from(code / 64), 1u64 << (code % 64));
        let duplicate = self.seen[word] & bit != 0;
        self.seen[word] |= bit;
        duplicate
    }

    fn has(&self, code: u8) -> bool {
        self.seen[usize::from(code / 64)] & 1u64 << (code % 64) != 0
    }

    /// Reads one attribute.
    fn read(&mut self, flags: u8, code: u8, value: &[u8]) -> Result<(), Trouble> {
        self.any |= code != code::MP_UNREACH_NLRI;
        let flags_are_right = check_flags(flags, code);
        match code {
            // Even with wrong flags they tell which routes to withdraw.
            code::MP_REACH_NLRI => self.update.mp_reach = Some(self.read_mp_reach(value)?),
            code::MP_UNREACH_NLRI => self.update.mp_unreach = Some(self.read_mp_unreach(value)?),
            _ => {
                flags_are_right?;
                return Ok(self.read_plain(flags, code, value)?);
            }
        }
        Ok(flags_are_right?)
    }

    fn read_plain(&mut self, flags: u8, code: u8, value: &[u8]) -> Result<(), Fault> {
        let a = self.update.attributes.get_or_insert_default();
        let external = self.context.external;
        match code {
            code::ORIGIN => {
                let [octet] = fixed::<1>(value, WITHDRAW)?;
                a.origin = Origin::from_value(octet).ok_or((AttributeFault::Value, WITHDRAW))?;
            }
            code::AS_PATH => {
                a.as_path = AsPath::decode(value, self.context.four_octet_as)
                    .ok_or((AttributeFault::Value, WITHDRAW))?;
                // RFC 5065, section 5: confederations end at the border, and we are in none.
                if external && a.as_path.has_confederation() {
                    return Err((AttributeFault::NotFromExternal, WITHDRAW));
                }
            }
            code::NEXT_HOP => {
                let octets: [u8; 4] = fixed(value, WITHDRAW)?;
                a.next_hop = Some(NextHop::V4(octets.into()));
            }
            code::MULTI_EXIT_DISC => {
                a.med = Some(u32::from_be_bytes(fixed(value, WITHDRAW)?));
            }
            // From an external peer these three are dropped whatever they say (RFC 7606, 7.5,
            // 7.9, 7.10); BGP as deployed sends LOCAL_PREF there, so that is not even noted.
            code::LOCAL_PREF if external => {}
            code::ORIGINATOR_ID | code::CLUSTER_LIST if external => {
                return Err((AttributeFault::NotFromExternal, DISCARD));
            }
            code::LOCAL_PREF => {
                a.local_pref = Some(u32::from_be_bytes(fixed(value, WITHDRAW)?));
            }
            code::ATOMIC_AGGREGATE => {
                fixed::<0>(value, DISCARD)?;
                a.atomic_aggregate = true;
            }
            code::AGGREGATOR => {
                a.aggregator = Some(read_aggregator(value, self.context.four_octet_as)?);
            }
            code::COMMUNITIES => {
                let community = |c: [u8; 4]| Community(u32::from_be_bytes(c));
                read_list(&mut a.communities, value, community)?;
            }
            code::EXTENDED_COMMUNITIES => {
                read_list(&mut a.extended_communities, value, ExtendedCommunity)?;
            }
            code::LARGE_COMMUNITIES => {
                read_list(&mut a.large_communities, value, large_community)?;
                remove_repeats(&mut a.large_communities);
            }
            code::ORIGINATOR_ID => a.originator_id = Some(fixed::<4>(value, WITHDRAW)?.into()),
            code::CLUSTER_LIST => read_list(&mut a.cluster_list, value, |c: [u8; 4]| c.into())?,
            code::ONLY_TO_CUSTOMER => {
                a.only_to_customer = Some(u32::from_be_bytes(fixed(value, WITHDRAW)?));
            }
            // A peer that speaks four octets must not send the AS4 attributes (RFC 6793, 4.1).
            code::AS4_PATH | code::AS4_AGGREGATOR if self.context.four_octet_as => {}
            code::AS4_PATH => {
                let path = AsPath::decode(value, true).ok_or((AttributeFault::Value, DISCARD))?;
                self.as4_path = Some(path.without_confederation());
            }
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(read_aggregator(value, true)?),
            _ if flags & OPTIONAL == 0 => {
                return Err((AttributeFault::UnrecognizedWellKnown, RESET));
            }
            _ => {
                // A copy: a route may live for months and must not keep a receive buffer alive.
                let value = Bytes::copy_from_slice(value);
                a.unknown.push(UnknownAttribute { flags, code, value });
            }
        }
        Ok(())
    }

    fn read_mp_reach(&self, value: &[u8]) -> Result<MpReach, Trouble> {
        let short = || Trouble::Fault(AttributeFault::Length(value.len()), RESET);
        let mut r = Reader::new(value);
        let (Some(afi), Some(safi), Some(length)) = (r.u16(), r.u8(), r.u8()) else {
            return Err(short());
        };
        let raw_next_hop = r.take(length.into()).ok_or_else(short)?;
        r.u8().ok_or_else(short)?;
        let family = Family { afi, safi };
        let known = family.max_prefix_len().is_some();
        let next_hop = NextHop::decode(raw_next_hop);
        // IPv6 over an IPv4 next hop has no meaning; the other way round needs RFC 8950.
        let v4 = family == Family::IPV4_UNICAST;
        let fits = match next_hop {
            Some(NextHop::V4(_)) => v4,
            Some(_) => !v4 || self.context.extended_next_hop,
            None => false,
        };
        if known && !fits {
            return Err(Trouble::Fault(AttributeFault::Value, RESET));
        }
        let add_path = self.context.add_path.contains(&family);
        let nlri = NlriList::part_of(self.body, family, add_path, r.rest())?;
        if known {
            return Ok(MpReach { next_hop, raw_next_hop: Bytes::new(), nlri });
        }
        let raw_next_hop = Bytes::copy_from_slice(raw_next_hop);
        Ok(MpReach { next_hop: None, raw_next_hop, nlri })
    }

    fn read_mp_unreach(&self, value: &[u8]) -> Result<NlriList, Trouble> {
        let mut r = Reader::new(value);
        let (Some(afi), Some(safi)) = (r.u16(), r.u8()) else {
            return Err(Trouble::Fault(AttributeFault::Length(value.len()), RESET));
        };
        let family = Family { afi, safi };
        let add_path = self.context.add_path.contains(&family);
        Ok(NlriList::part_of(self.body, family, add_path, r.rest())?)
    }

    /// Ends the reading of an UPDATE that announces routes outside of its attributes, or not.
    pub(super) fn finish(mut self, announces: bool) {
        let reach = self.update.mp_reach.as_ref();
        let any = announces || reach.is_some_and(|reach| !reach.nlri.is_empty());
        let mandatory: &[u8] = match (any, announces) {
            (_, true) => &[code::ORIGIN, code::AS_PATH, code::NEXT_HOP],
            (true, false) => &[code::ORIGIN, code::AS_PATH],
            (false, false) => &[],
        };
        for attribute in mandatory.iter().copied() {
            if !self.has(attribute) {
                let fault = AttributeFault::Missing;
                self.update.errors.push(AttributeError { attribute, fault, class: WITHDRAW });
            }
        }
        self.merge_as4();
        if !self.any {
            self.update.attributes = None;
        }
    }

    /// RFC 6793, section 4.2.3.
    fn merge_as4(&mut self) {
        let Some(attributes) = &mut self.update.attributes else { return };
        if let (Some(four), Some(two)) = (self.as4_aggregator, attributes.aggregator) {
            if two.asn != u32::from(AS_TRANS) {
                // The aggregator changed on the way: both AS4 attributes are out of date.
                return;
            }
            attributes.aggregator = Some(four);
        }
        if let Some(four) = self.as4_path.take() {
            attributes.as_path = std::mem::take(&mut attributes.as_path).merge_as4(four);
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
        | code::LARGE_COMMUNITIES
        | code::ONLY_TO_CUSTOMER => OPTIONAL | TRANSITIVE,
        _ => return Ok(()),
    };
    if flags & (OPTIONAL | TRANSITIVE) == expected {
        return Ok(());
    }
    // What old speakers carry along unread costs nothing but itself (RFC 6793, section 6).
    let as4 = matches!(code, code::AS4_PATH | code::AS4_AGGREGATOR);
    Err((AttributeFault::Flags(flags), if as4 { DISCARD } else { WITHDRAW }))
}

/// Longest attribute that a NOTIFICATION of 4,096 octets carries.
const RAW_MAX: usize = 4096 - 19 - 2;

/// An attribute as it came.
fn raw(flags: u8, code: u8, value: &[u8]) -> Bytes {
    let mut raw = vec![flags, code];
    match u8::try_from(value.len()) {
        Ok(length) if flags & EXTENDED_LENGTH == 0 => raw.push(length),
        // It came with a length of two octets.
        _ => raw.extend_from_slice(&(value.len() as u16).to_be_bytes()),
    }
    raw.extend_from_slice(value);
    raw.truncate(RAW_MAX);
    raw.into()
}

/// RFC 8092, section 5: redundant values are removed.
fn remove_repeats<T: Eq + Hash + Copy>(list: &mut Vec<T>) {
    if list.len() > 1 {
        let mut seen = HashSet::with_capacity(list.len());
        list.retain(|item| seen.insert(*item));
    }
}

fn fixed<const N: usize>(value: &[u8], class: ErrorClass) -> Result<[u8; N], Fault> {
    value.try_into().map_err(|_length| (AttributeFault::Length(value.len()), class))
}

/// Reads a list of fixed-size items, at least one (RFC 7606, sections 7.8, 7.10, 7.14).
fn read_list<const N: usize, T>(
    into: &mut Vec<T>,
    value: &[u8],
    item: impl Fn([u8; N]) -> T,
) -> Result<(), Fault> {
    let (items, rest) = value.as_chunks::<N>();
    if items.is_empty() || !rest.is_empty() {
        return Err((AttributeFault::Length(value.len()), WITHDRAW));
    }
    into.extend(items.iter().map(|i| item(*i)));
    Ok(())
}

fn large_community(octets: [u8; 12]) -> LargeCommunity {
    let part = |at: usize| {
        u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    };
    LargeCommunity { global: part(0), local1: part(4), local2: part(8) }
}

fn read_aggregator(value: &[u8], four_octet: bool) -> Result<Aggregator, Fault> {
    let (asn, id) = if four_octet {
        let v: [u8; 8] = fixed(value, DISCARD)?;
        (u32::from_be_bytes([v[0], v[1], v[2], v[3]]), [v[4], v[5], v[6], v[7]])
    } else {
        let v: [u8; 6] = fixed(value, DISCARD)?;
        (u16::from_be_bytes([v[0], v[1]]).into(), [v[2], v[3], v[4], v[5]])
    };
    if asn == 0 {
        // RFC 7607, section 2.
        return Err((AttributeFault::Value, DISCARD));
    }
    Ok(Aggregator { asn, router_id: id.into() })
}
