//! A transaction: messages that the kernel brings into force together or not at all.

use nix::errno::Errno;

use super::error::{Error, Refusal, Subject};
use super::wire::{
    BaseChain, Chain, Element, Expr, Family, Flowtable, Generation, Header, Set, Table, Userdata,
    Writer, flags, msg,
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
    subjects: Vec<Brief>,
    /// What the subjects are called, one after the other.
    names: String,
    /// The number, from 1, of the first message that no length field can describe.
    too_large: Option<u32>,
    next_set_id: u32,
}

/// A [`Subject`] that is not written down yet: nobody asks for it unless it is refused.
#[derive(Debug, Clone, Copy)]
struct Brief {
    verb: &'static str,
    kind: &'static str,
    /// Where its name ends.
    end: usize,
}

/// A batch as the kernel takes it: these pieces as one datagram.
#[derive(Debug)]
pub(super) struct Datagram<'a> {
    begin: Writer,
    body: &'a [u8],
    /// The last message, which asks for an acknowledgement: one answer tells that all went well, and
    /// every refused message is answered anyway.
    last: Vec<u8>,
    end: Writer,
}

impl Datagram<'_> {
    pub(super) fn pieces(&self) -> [&[u8]; 4] {
        [self.begin.bytes(), self.body, &self.last, self.end.bytes()]
    }

    pub(super) fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }
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
            names: String::new(),
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
    pub fn subject(&self, seq: u32) -> Option<Subject> {
        let at = (seq as usize).checked_sub(1)?;
        let Brief { verb, kind, end } = *self.subjects.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.subjects[before].end);
        Some(Subject { verb, kind, name: self.names[start..end].to_owned() })
    }

    /// Creates the table unless it exists.
    pub fn add_table(&mut self) {
        self.add_table_with(0);
    }

    /// Creates the table with these flags (`wire::table_flags`), or gives them to it.
    pub fn add_table_with(&mut self, flags: u32) {
        let name = self.table.clone();
        let subject = ("add", "table", [name.as_str(), "", "", ""]);
        self.push(msg::NEW_TABLE, flags::CREATE, subject, |w, table| {
            Table { name: table.to_owned(), flags }.encode(w);
        });
    }

    /// Deletes the table and all in it.
    pub fn delete_table(&mut self) {
        let name = self.table.clone();
        let subject = ("delete", "table", [name.as_str(), "", "", ""]);
        self.push(msg::DEL_TABLE, 0, subject, |w, table| w.string(1, table));
    }

    /// Creates a chain unless it exists.
    pub fn add_chain(&mut self, name: &str, base: Option<&BaseChain>) {
        self.push(
            msg::NEW_CHAIN,
            flags::CREATE,
            ("add", "chain", [name, "", "", ""]),
            |w, table| {
                let base = base.cloned();
                Chain { table: table.to_owned(), name: name.to_owned(), base }.encode(w);
            },
        );
    }

    /// Deletes a chain; nothing may lead to it any more.
    pub fn delete_chain(&mut self, name: &str) {
        self.push(msg::DEL_CHAIN, 0, ("delete", "chain", [name, "", "", ""]), |w, table| {
            w.string(1, table);
            w.string(3, name);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.push(msg::DEL_RULE, 0, ("flush", "chain", [name, "", "", ""]), |w, table| {
            w.string(1, table);
            w.string(2, name);
        });
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expr], identity: &str) {
        let subject = ("add", "rule", [chain, " (", identity, ")"]);
        self.push(msg::NEW_RULE, flags::CREATE | flags::APPEND, subject, |w, table| {
            super::wire::encode_rule(w, table, chain, expressions, &Userdata::new(identity));
        });
    }

    /// Creates a set unless it exists. The table named in `set` gives way to the batch's.
    pub fn add_set(&mut self, set: &Set) {
        let id = self.next_set_id;
        self.next_set_id += 1;
        let subject = ("add", "set", [set.name.as_str(), "", "", ""]);
        self.push(msg::NEW_SET, flags::CREATE, subject, |w, table| {
            Set { table: table.to_owned(), ..set.clone() }.encode(w, id);
        });
    }

    /// Deletes a set; no rule may use it any more.
    pub fn delete_set(&mut self, name: &str) {
        self.push(msg::DEL_SET, 0, ("delete", "set", [name, "", "", ""]), |w, table| {
            w.string(1, table);
            w.string(2, name);
        });
    }

    /// Creates a flow table, or has one that exists take the packets of further devices. The table
    /// named in `flowtable` gives way to the batch's. Before Linux 6.16 a device must exist.
    pub fn add_flowtable(&mut self, flowtable: &Flowtable) {
        let subject = ("add", "flow table", [flowtable.name.as_str(), "", "", ""]);
        self.push(msg::NEW_FLOWTABLE, flags::CREATE, subject, |w, table| {
            Flowtable { table: table.to_owned(), ..flowtable.clone() }.encode(w);
        });
    }

    /// Deletes a flow table; no rule may use it any more. Its connections go on without it.
    pub fn delete_flowtable(&mut self, name: &str) {
        let subject = ("delete", "flow table", [name, "", "", ""]);
        self.push(msg::DEL_FLOWTABLE, 0, subject, |w, table| {
            w.string(1, table);
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
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let subject = (verb, "elements of set", [set, "", "", ""]);
            self.push(kind, flags, subject, |w, table| {
                w.string(1, table);
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

    /// `body` writes the message for this table.
    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        (verb, object, name): (&'static str, &'static str, [&str; 4]),
        body: impl FnOnce(&mut Writer, &str),
    ) {
        name.iter().for_each(|part| self.names.push_str(part));
        self.subjects.push(Brief { verb, kind: object, end: self.names.len() });
        self.last = self.body.len();
        let seq = self.acknowledged();
        let family = self.family as u8;
        let header = Header { kind, flags: flags::REQUEST | flags, seq, family, res_id: 0 };
        self.body.message(header, |w| body(w, &self.table));
        if self.body.overflowed() {
            self.too_large.get_or_insert(seq);
        }
    }

    /// The datagram: begin, messages, end.
    pub(super) fn datagram(&self, generation: Option<Generation>) -> Result<Datagram<'_>, Error> {
        if let Some(seq) = self.too_large {
            return Err(Error::Refused(vec![Refusal {
                subject: self.subject(seq),
                errno: Errno::EMSGSIZE,
                message: Some("a message holds 64 KiB".to_owned()),
            }]));
        }
        let frame = |kind, seq| Header {
            kind,
            flags: flags::REQUEST,
            seq,
            family: 0,
            res_id: msg::SUBSYS_NFTABLES,
        };
        let mut begin = Writer::new();
        begin.message(frame(msg::BATCH_BEGIN, 0), |w| {
            if let Some(Generation(id)) = generation {
                w.u32(BATCH_GENID, id);
            }
        });
        let (body, last) = self.body.bytes().split_at(self.last);
        let mut last = last.to_vec();
        super::wire::add_flags(&mut last, flags::ACK);
        let mut end = Writer::new();
        end.message(frame(msg::BATCH_END, self.acknowledged().saturating_add(1)), |_| {});
        Ok(Datagram { begin, body, last, end })
    }

    /// Sequence number of the message that is acknowledged.
    pub(super) fn acknowledged(&self) -> u32 {
        u32::try_from(self.subjects.len()).unwrap_or(u32::MAX)
    }
}
