//! The objects of nf_tables: tables, chains and rules here, sets and their elements in `set`.

use super::expr::encode_list;
use super::expr_decode::{by_kind, decode_list, need};
use super::flowtable::Flowtable;
use super::header::Received;
use super::set::{Elements, Set};
use super::{Attrs, Expr, Result, Userdata, Verdict, Writer, msg};

/// Family a table belongs to (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6 in one table.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// Hooks of the IP families (`enum nf_inet_hooks`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod hook {
    pub const PREROUTING: u32 = 0;
    pub const INPUT: u32 = 1;
    pub const FORWARD: u32 = 2;
    pub const OUTPUT: u32 = 3;
    pub const POSTROUTING: u32 = 4;
}

/// Flags of tables (`enum nft_table_flags`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod table_flags {
    pub const DORMANT: u32 = 0x1;
    /// Only the socket that made it changes it. Linux 5.12.
    pub const OWNER: u32 = 0x2;
    /// An owned table stays when its socket is closed. Linux 6.9.
    pub const PERSIST: u32 = 0x4;
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// See [`table_flags`].
    pub flags: u32,
}

/// Where a chain is called from by the kernel itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseChain {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// See [`hook`].
    pub hook: u32,
    /// Lower runs earlier.
    pub priority: i32,
    /// What happens to packets that reach the end: [`Verdict::Accept`] or [`Verdict::Drop`].
    pub policy: Verdict,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Table it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Hook, for a base chain.
    pub base: Option<BaseChain>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Table it is in.
    pub table: String,
    /// Chain it is in.
    pub chain: String,
    /// The kernel's number for it; 0 in a rule to be added.
    pub handle: u64,
    /// What it does.
    pub expressions: Vec<Expr>,
    /// Who it is.
    pub userdata: Userdata,
}

/// Generation of the whole ruleset of a network namespace; every commit by anyone changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub u32);

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is its type")]
pub enum Object {
    Table(Table),
    Chain(Chain),
    Rule(Rule),
    Set(Set),
    Elements(Elements),
    Flowtable(Flowtable),
    Generation(Generation),
    /// An nf_tables object not modelled here (stateful object).
    Other(u16),
}

impl Object {
    /// Reads an nf_tables message.
    ///
    /// # Errors
    /// When an attribute is malformed or one that the object needs is absent.
    pub fn decode(message: &Received<'_>) -> Result<Self> {
        let attrs = message.attrs();
        Ok(match message.header.kind {
            msg::NEW_TABLE | msg::DEL_TABLE => Self::Table(Table::decode(attrs)?),
            msg::NEW_CHAIN | msg::DEL_CHAIN => Self::Chain(Chain::decode(attrs)?),
            msg::NEW_RULE | msg::DEL_RULE => Self::Rule(Rule::decode(attrs)?),
            msg::NEW_SET | msg::DEL_SET => Self::Set(Set::decode(attrs)?),
            msg::NEW_SET_ELEM | msg::DEL_SET_ELEM => Self::Elements(Elements::decode(attrs)?),
            msg::NEW_FLOWTABLE | msg::DEL_FLOWTABLE => Self::Flowtable(Flowtable::decode(attrs)?),
            msg::NEW_GEN => Self::Generation(Generation::decode(attrs)?),
            other => Self::Other(other),
        })
    }
}

impl Table {
    /// Writes the attributes.
    pub fn encode(&self, w: &mut Writer) {
        w.string(1, &self.name);
        w.u32(2, self.flags);
    }

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, name, flags] = by_kind::<3>(attrs)?;
        Ok(Self {
            name: need(name, "table name")?.string(),
            flags: flags.map(|attr| attr.u32()).transpose()?.unwrap_or(0),
        })
    }
}

impl Chain {
    /// Writes the attributes.
    pub fn encode(&self, w: &mut Writer) {
        w.string(1, &self.table);
        w.string(3, &self.name);
        if let Some(base) = &self.base {
            w.nested(4, |w| {
                w.u32(1, base.hook);
                w.u32(2, base.priority.cast_unsigned());
            });
            w.u32(5, base.policy.code().cast_unsigned());
            w.string(7, &base.kind);
        }
    }

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, table, _, name, hook, policy, _, kind] = by_kind::<8>(attrs)?;
        let base = hook
            .map(|hook| {
                let [_, number, priority] = by_kind::<3>(hook.nested())?;
                let policy = policy.map_or(Ok(1), |attr| attr.u32())?.cast_signed();
                Ok(BaseChain {
                    kind: kind.map(|attr| attr.string()).unwrap_or_default(),
                    hook: need(number, "hook number")?.u32()?,
                    priority: need(priority, "hook priority")?.u32()?.cast_signed(),
                    policy: Verdict::from_code(policy, None)?,
                })
            })
            .transpose()?;
        Ok(Self {
            table: need(table, "table of a chain")?.string(),
            name: need(name, "chain name")?.string(),
            base,
        })
    }
}

impl Rule {
    /// Writes the attributes; the handle only when it is not 0.
    pub fn encode(&self, w: &mut Writer) {
        encode_rule(w, &self.table, &self.chain, &self.expressions, &self.userdata);
        if self.handle != 0 {
            w.u64(3, self.handle);
        }
    }

    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, table, chain, handle, expressions, _, _, userdata] = by_kind::<8>(attrs)?;
        Ok(Self {
            table: need(table, "table of a rule")?.string(),
            chain: need(chain, "chain of a rule")?.string(),
            handle: handle.map_or(Ok(0), |attr| attr.u64())?,
            expressions: expressions.map(decode_list).transpose()?.unwrap_or_default(),
            userdata: userdata.map(|attr| Userdata::decode(attr.payload)).unwrap_or_default(),
        })
    }
}

/// Writes the attributes of a rule to be added.
pub(crate) fn encode_rule(
    w: &mut Writer,
    table: &str,
    chain: &str,
    expressions: &[Expr],
    userdata: &Userdata,
) {
    w.string(1, table);
    w.string(2, chain);
    encode_list(w, 4, expressions);
    let userdata = userdata.encode();
    if !userdata.is_empty() {
        w.attr(7, &userdata);
    }
}

impl Generation {
    fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, id] = by_kind::<2>(attrs)?;
        Ok(Self(need(id, "generation")?.u32()?))
    }
}
