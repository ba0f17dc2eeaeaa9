//! The nf_tables netlink protocol: bytes to values and back, without IO.
//!
//! Numbers and layouts come from the kernel's uapi headers `linux/netlink.h`,
//! `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`. Attribute payloads of
//! nf_tables are big endian; netlink's own headers are in host order.
//!
//! Decoding never panics and never allocates more than the input holds. What this codec does
//! not know it keeps ([`Expr::Unknown`]) or skips (attributes that newer kernels add).

mod attr;
mod data;
mod expr;
mod expr_decode;
mod flowtable;
mod header;
mod numbers;
mod object;
mod set;
mod userdata;

#[cfg(test)]
mod tests;

pub(crate) use attr::add_flags;
pub use attr::{Attr, Attrs, Writer};
pub use data::{Reg, Verdict};
pub use expr::Expr;
pub use flowtable::Flowtable;
pub use header::{Header, KernelError, Messages, Received, flags, msg};
pub use numbers::{CmpOp, CtKey, MetaKey, NatKind, PayloadBase, RejectKind, checksum, fib, nat};
pub(crate) use object::encode_rule;
pub use object::{BaseChain, Chain, Family, Generation, Object, Rule, Table, hook, table_flags};
pub use set::{Element, Elements, KeyType, Set, set_flags};
pub use userdata::Userdata;

/// A message from the kernel that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the field does.
    #[error("netlink message ends inside {what}")]
    Truncated {
        /// The field being read.
        what: &'static str,
    },
    /// A field has a value or size that the protocol does not allow.
    #[error("netlink message has an invalid {what}")]
    Invalid {
        /// The field being read.
        what: &'static str,
    },
    /// An attribute without which the object makes no sense is absent.
    #[error("netlink message lacks {what}")]
    Missing {
        /// The absent attribute.
        what: &'static str,
    },
}

/// Shorthand of this module.
pub type Result<T> = std::result::Result<T, DecodeError>;
