//! Capabilities of an OPEN (RFC 5492).

use bytes::{BufMut, Bytes, BytesMut};

use super::reader::Reader;
use super::{Family, Role};

/// Which way several paths per prefix may go (RFC 7911).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddPathMode {
    /// The sender of the capability can receive them.
    Receive,
    /// It wants to send them.
    Send,
    /// Both.
    Both,
}

/// The graceful restart capability (RFC 4724, section 3; RFC 8538).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GracefulRestart {
    /// The R bit: the sender has just restarted.
    pub restarting: bool,
    /// The N bit (RFC 8538): NOTIFICATIONs do not end graceful restart.
    pub notification: bool,
    /// Seconds until the session is back at the latest; 12 bits.
    pub restart_time: u16,
    /// Families whose forwarding state is kept, each with its F bit: "was kept over the last
    /// restart".
    pub families: Vec<(Family, bool)>,
}

/// A family of the long-lived graceful restart capability (RFC 9494, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LongLivedFamily {
    /// The family.
    pub family: Family,
    /// The F bit: forwarding state was kept over the last restart.
    pub forwarding: bool,
    /// Seconds for which routes are kept after the restart time; 24 bits.
    pub stale_time: u32,
}

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// A family beyond IPv4 unicast, or that one said aloud (RFC 4760).
    MultiProtocol(Family),
    /// ROUTE-REFRESH is understood (RFC 2918).
    RouteRefresh,
    /// Messages up to 65,535 octets (RFC 8654).
    ExtendedMessage,
    /// The sender's AS number in four octets (RFC 6793).
    FourOctetAs(u32),
    /// Graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// Several paths per prefix (RFC 7911).
    AddPath(Vec<(Family, AddPathMode)>),
    /// ROUTE-REFRESH with begin and end (RFC 7313).
    EnhancedRouteRefresh,
    /// Families whose routes may have a next hop of another address family, given by its AFI
    /// (RFC 8950).
    ExtendedNextHop(Vec<(Family, u16)>),
    /// What the sender is to the receiver (RFC 9234).
    Role(Role),
    /// Long-lived graceful restart (RFC 9494).
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// Any other, or one whose value does not read as its code promises; kept as it came.
    Unknown {
        /// Capability code (IANA).
        code: u8,
        /// Its value, at most 255 octets.
        value: Bytes,
    },
}

impl Capability {
    /// Capabilities in wire form, one after the other: the data of a NOTIFICATION that asks for
    /// them (RFC 5492, section 5).
    pub fn list(capabilities: &[Self]) -> Bytes {
        let mut out = BytesMut::new();
        capabilities.iter().for_each(|c| c.encode(&mut out));
        out.freeze()
    }

    /// The capability code (IANA).
    pub const fn code(&self) -> u8 {
        match self {
            Self::MultiProtocol(_) => 1,
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop(_) => 5,
            Self::ExtendedMessage => 6,
            Self::Role(_) => 9,
            Self::GracefulRestart(_) => 64,
            Self::FourOctetAs(_) => 65,
            Self::AddPath(_) => 69,
            Self::EnhancedRouteRefresh => 70,
            Self::LongLivedGracefulRestart(_) => 71,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Reads one capability. Never fails: what cannot be read stays `Unknown`, because RFC 5492
    /// wants a speaker to ignore it.
    pub(super) fn decode(code: u8, value: Bytes) -> Self {
        Self::decode_known(code, &value).unwrap_or(Self::Unknown { code, value })
    }

    fn decode_known(code: u8, value: &[u8]) -> Option<Self> {
        let mut r = Reader::new(value);
        let capability = match code {
            1 => {
                let (afi, reserved, safi) = (r.u16()?, r.u8()?, r.u8()?);
                // A reserved octet that is set would not survive a round trip.
                (reserved == 0).then_some(Self::MultiProtocol(Family { afi, safi }))?
            }
            2 => Self::RouteRefresh,
            5 => Self::ExtendedNextHop(decode_extended_next_hop(&mut r)?),
            6 => Self::ExtendedMessage,
            9 => Self::Role(Role::from_value(r.u8()?)?),
            64 => Self::GracefulRestart(decode_graceful_restart(&mut r)?),
            65 => Self::FourOctetAs(r.u32()?),
            69 => Self::AddPath(decode_add_path(&mut r)?),
            70 => Self::EnhancedRouteRefresh,
            71 => Self::LongLivedGracefulRestart(decode_long_lived(&mut r)?),
            _ => return None,
        };
        r.is_empty().then_some(capability)
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.code());
        let length_at = out.len();
        out.put_u8(0);
        match self {
            Self::MultiProtocol(family) => {
                out.put_u16(family.afi);
                out.put_u8(0);
                out.put_u8(family.safi);
            }
            Self::RouteRefresh | Self::ExtendedMessage | Self::EnhancedRouteRefresh => {}
            Self::FourOctetAs(asn) => out.put_u32(*asn),
            Self::GracefulRestart(gr) => {
                let flags = u16::from(gr.restarting) << 15 | u16::from(gr.notification) << 14;
                out.put_u16(flags | gr.restart_time & 0x0FFF);
                for (family, forwarding) in gr.families.iter().take(63) {
                    out.put_u16(family.afi);
                    out.put_u8(family.safi);
                    out.put_u8(if *forwarding { 0x80 } else { 0 });
                }
            }
            Self::AddPath(families) => {
                for (family, mode) in families.iter().take(63) {
                    out.put_u16(family.afi);
                    out.put_u8(family.safi);
                    out.put_u8(match mode {
                        AddPathMode::Receive => 1,
                        AddPathMode::Send => 2,
                        AddPathMode::Both => 3,
                    });
                }
            }
            Self::ExtendedNextHop(families) => {
                for (family, next_hop) in families.iter().take(42) {
                    out.put_u16(family.afi);
                    out.put_u16(family.safi.into());
                    out.put_u16(*next_hop);
                }
            }
            Self::Role(role) => out.put_u8(role.value()),
            Self::LongLivedGracefulRestart(families) => {
                for f in families.iter().take(36) {
                    out.put_u16(f.family.afi);
                    out.put_u8(f.family.safi);
                    out.put_u8(if f.forwarding { 0x80 } else { 0 });
                    // The low 24 bits.
                    out.put_slice(&f.stale_time.to_be_bytes()[1..]);
                }
            }
            Self::Unknown { value, .. } => out.put_slice(&value[..value.len().min(255)]),
        }
        // Every arm above writes at most 255 octets.
        out[length_at] = (out.len() - length_at - 1) as u8;
    }
}

fn decode_graceful_restart(r: &mut Reader<'_>) -> Option<GracefulRestart> {
    let head = r.u16()?;
    let mut families = Vec::new();
    while !r.is_empty() {
        let (afi, safi, flags) = (r.u16()?, r.u8()?, r.u8()?);
        families.push((Family { afi, safi }, flags & 0x80 != 0));
    }
    Some(GracefulRestart {
        restarting: head & 0x8000 != 0,
        notification: head & 0x4000 != 0,
        restart_time: head & 0x0FFF,
        families,
    })
}

fn decode_extended_next_hop(r: &mut Reader<'_>) -> Option<Vec<(Family, u16)>> {
    let mut families = Vec::new();
    while !r.is_empty() {
        let (afi, safi, next_hop) = (r.u16()?, r.u16()?, r.u16()?);
        families.push((Family { afi, safi: u8::try_from(safi).ok()? }, next_hop));
    }
    Some(families)
}

fn decode_long_lived(r: &mut Reader<'_>) -> Option<Vec<LongLivedFamily>> {
    let mut families = Vec::new();
    while !r.is_empty() {
        let (afi, safi, flags) = (r.u16()?, r.u8()?, r.u8()?);
        let stale_time = u32::from(r.u8()?) << 16 | u32::from(r.u16()?);
        let family = Family { afi, safi };
        families.push(LongLivedFamily { family, forwarding: flags & 0x80 != 0, stale_time });
    }
    Some(families)
}

fn decode_add_path(r: &mut Reader<'_>) -> Option<Vec<(Family, AddPathMode)>> {
    let mut families = Vec::new();
    while !r.is_empty() {
        let (afi, safi) = (r.u16()?, r.u8()?);
        let mode = match r.u8()? {
            1 => AddPathMode::Receive,
            2 => AddPathMode::Send,
            3 => AddPathMode::Both,
            _ => return None,
        };
        families.push((Family { afi, safi }, mode));
    }
    Some(families)
}
