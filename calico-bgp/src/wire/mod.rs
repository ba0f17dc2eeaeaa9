//! Bytes to values and back: the messages of BGP-4 (RFC 4271) and its extensions.
//!
//! Decoding takes slices of received buffers, never trusts a length before it has compared it
//! with what is there, and never panics. Errors carry the class of RFC 7606, so that the
//! session layer only has to obey it.

mod as_path;
mod attributes;
mod capability;
mod community;
mod error;
mod family;
mod frame;
mod message;
mod nlri;
mod notification;
mod open;
mod packer;
mod reader;
mod role;
mod update;
mod update_decoder;

#[cfg(test)]
mod tests;

pub use as_path::{AS_TRANS, AsPath, AsPathSegment, SegmentKind};
pub use attributes::{Aggregator, NextHop, Origin, PathAttributes, UnknownAttribute, code};
pub use capability::{AddPathMode, Capability, GracefulRestart, LongLivedFamily};
pub use community::{Community, ExtendedCommunity, LargeCommunity};
pub use error::{AttributeError, AttributeFault, EncodeError, ErrorClass, WireError};
pub use family::Family;
pub use frame::{Frame, Framer, HEADER_LEN, MAX_EXTENDED_LEN, MAX_LEN, MessageKind};
pub use message::{Message, RouteRefresh};
pub use nlri::{Nlri, NlriIter, NlriList, PathNlri};
pub use notification::{
    CeaseCode, FsmErrorCode, HeaderErrorCode, Notification, NotificationCode, OpenErrorCode,
    RouteRefreshErrorCode, UpdateErrorCode,
};
pub use open::Open;
pub use packer::UpdatePacker;
pub use role::Role;
pub use update::{MpReach, Update, UpdateContext};
