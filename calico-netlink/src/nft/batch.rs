//! A transaction: messages that the kernel brings into force together or not at all.

use nix::errno::Errno;

use super::error::{Error, Refusal, Subject};
use super::wire::{
    BaseChain, Chain, Element, Expr, Family, Generation, Header, Set, Table, Userdata, Writer,
    flags, msg,
};

/// `NFNL_BATCH_GENID`.
const BATCH_GENID: u16 = 1;
/// An attribute holds 64 KiB; elements beyond this go into a further message. The largest
/// element (concatenated range) takes about 100 bytes.
const ELEMENTS_BYTES: usize = 48 * 1024;

/// Messages for one table, in the order the kernel will run them.
#[derive(Debug, Clone)]
pub struct Batch {
    family: Family,
    table: String,
    body: Writer,
    last: usize,
    subjects: Vec<Subject>,
    /// The first message that no length field can describe.
    too_large: Option<Subject>,
    next_set_id: u32,
}

impl Batch {
    /// An empty batch for the table of this family and name.
    pub fn new(family: Family, table: impl Into<String>) -> Self {
        Self {
            family,
            table: table.into(),
            body: Writer::new(),
            last: 0,
            subjects: Vec::new(),
            too_large: None,
            next_set_id: 1,
        }
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// True without messages: nothing needs to be sent.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// What message number `seq` (from 1) was to do.
    pub fn subject(&self, seq: u32) -> Option<&Subject> {
        self.subjects.get((seq as usize).checked_sub(1)?)
    }

    /// Creates the table unless it exists.
    pub fn add_table(&mut self) {
        self.add_table_with(0);
    }

    /// Creates the table with these flags (`wire::table_flags`), or gives them to it.
    pub fn add_table_with(&mut self, flags: u32) {
        let table = Table { name: self.table.clone(), flags };
        self.push(msg::NEW_TABLE, flags::CREATE, ("add", "table", table.name.clone()), |w| {
            table.encode(w);
        });
    }

    /// Deletes the table and all in it.
    pub fn delete_table(&mut self) {
        let name = self.table.clone();
        self.push(msg::DEL_TABLE, 0, ("delete", "table", name.clone()), |w| w.string(1, &name));
    }

    /// Creates a chain unless it exists.
    pub fn add_chain(&mut self, name: &str, base: Option<&BaseChain>) {
        let chain = Chain { table: self.table.clone(), name: name.to_owned(), base: base.cloned() };
        self.push(msg::NEW_CHAIN, flags::CREATE, ("add", "chain", name.to_owned()), |w| {
            chain.encode(w);
        });
    }

    /// Deletes a chain; nothing may lead to it any more.
    pub fn delete_chain(&mut self, name: &str) {
        let table = self.table.clone();
        self.push(msg::DEL_CHAIN, 0, ("delete", "chain", name.to_owned()), |w| {
            w.string(1, &table);
            w.string(3, name);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        let table = self.table.clone();
        self.push(msg::DEL_RULE, 0, ("flush", "chain", name.to_owned()), |w| {
            w.string(1, &table);
            w.string(2, name);
        });
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expr], identity: &str) {
        let table = self.table.clone();
        let subject = ("add", "rule", format!("{chain} ({identity})"));
        self.push(msg::NEW_RULE, flags::CREATE | flags::APPEND, subject, |w| {
            super::wire::encode_rule(w, &table, chain, expressions, &Userdata::new(identity));
        });
    }

    /// Creates a set unless it exists. The table named in `set` gives way to the batch's.
    pub fn add_set(&mut self, set: &Set) {
        let id = self.next_set_id;
        self.next_set_id += 1;
        let set = Set { table: self.table.clone(), ..set.clone() };
        self.push(msg::NEW_SET, flags::CREATE, ("add", "set", set.name.clone()), |w| {
            set.encode(w, id);
        });
    }

    /// Deletes a set; no rule may use it any more.
    pub fn delete_set(&mut self, name: &str) {
        let table = self.table.clone();
        self.push(msg::DEL_SET, 0, ("delete", "set", name.to_owned()), |w| {
            w.string(1, &table);
            w.string(2, name);
        });
    }

    /// Adds elements to a set.
    pub fn add_elements<'a>(&mut self, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
        self.elements(msg::NEW_SET_ELEM, flags::CREATE, "add", set, elements);
    }

    /// Deletes elements of a set; they must be there.
    pub fn delete_elements<'a>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.elements(msg::DEL_SET_ELEM, 0, "delete", set, elements);
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        verb: &'static str,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let table = self.table.clone();
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let subject = (verb, "elements of set", set.to_owned());
            self.push(kind, flags, subject, |w| {
                w.string(1, &table);
                w.string(2, set);
                w.nested(3, |w| {
                    let start = w.len();
                    while w.len() - start < ELEMENTS_BYTES
                        && let Some(element) = elements.next()
                    {
                        element.encode(w);
                    }
                });
            });
        }
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        (verb, object, name): (&'static str, &'static str, String),
        body: impl FnOnce(&mut Writer),
    ) {
        self.subjects.push(Subject { verb, kind: object, name });
        self.last = self.body.len();
        let seq = u32::try_from(self.subjects.len()).unwrap_or(u32::MAX);
        let family = self.family as u8;
        let header = Header { kind, flags: flags::REQUEST | flags, seq, family, res_id: 0 };
        let fitted = !self.body.overflowed();
        self.body.message(header, body);
        if fitted && self.body.overflowed() {
            self.too_large = self.subjects.last().cloned();
        }
    }

    /// The datagram: begin, messages, end. The last message asks for an acknowledgement: one
    /// answer tells that all went well, and every refused message is answered anyway.
    pub(super) fn datagram(&self, generation: Option<Generation>) -> Result<Vec<u8>, Error> {
        let frame = |kind, seq| Header {
            kind,
            flags: flags::REQUEST,
            seq,
            family: 0,
            res_id: msg::SUBSYS_NFTABLES,
        };
        let mut datagram = Writer::new();
        datagram.message(frame(msg::BATCH_BEGIN, 0), |w| {
            if let Some(Generation(id)) = generation {
                w.u32(BATCH_GENID, id);
            }
        });
        if self.body.overflowed() {
            return Err(Error::Refused(vec![Refusal {
                subject: self.too_large.clone(),
                errno: Errno::EMSGSIZE,
                message: Some("a message holds 64 KiB".to_owned()),
            }]));
        }
        let begin = datagram.len();
        datagram.reserve(self.body.len() + 64);
        datagram.append(&self.body);
        datagram.add_flags(begin + self.last, flags::ACK);
        let seq = u32::try_from(self.subjects.len() + 1).unwrap_or(u32::MAX);
        datagram.message(frame(msg::BATCH_END, seq), |_| {});
        Ok(datagram.into_bytes())
    }

    /// Sequence number of the message that is acknowledged.
    pub(super) fn acknowledged(&self) -> u32 {
        u32::try_from(self.subjects.len()).unwrap_or(u32::MAX)
    }
}
