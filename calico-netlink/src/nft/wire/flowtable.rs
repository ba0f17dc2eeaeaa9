//! Flow tables: connections in them pass from device to device before any other hook sees their
//! packets.
//!
//! Layout: `enum nft_flowtable_attributes` and `enum nft_flowtable_hook_attributes` of
//! `linux/netfilter/nf_tables.h`.

use super::expr_decode::{by_kind, need};
use super::{Attrs, Result, Writer};

/// `NFTA_DEVICE_NAME`.
const DEVICE_NAME: u16 = 1;
/// `NF_NETDEV_INGRESS`, the only hook that flow tables have.
const INGRESS: u32 = 0;

/// A flow table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flowtable {
    /// Table it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Among the ingress hooks of its devices: lower runs earlier.
    pub priority: i32,
    /// `NFT_FLOWTABLE_HW_OFFLOAD` 1: the devices pass packets on by themselves;
    /// `NFT_FLOWTABLE_COUNTER` 2: connections count them.
    pub flags: u32,
    /// Names of the devices whose packets it takes. In a message that adds to a flow table: those
    /// that it gains.
    pub devices: Vec<String>,
}

impl Flowtable {
    /// Writes the attributes.
    pub fn encode(&self, w: &mut Writer) {
        w.string(1, &self.table);
        w.string(2, &self.name);
        w.nested(3, |w| {
            w.u32(1, INGRESS);
            w.u32(2, self.priority.cast_unsigned());
            if !self.devices.is_empty() {
                w.nested(3, |w| self.devices.iter().for_each(|name| w.string(DEVICE_NAME, name)));
            }
        });
        w.u32(7, self.flags);
    }

    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self> {
        let [_, table, name, hook, _, _, _, flags] = by_kind::<8>(attrs)?;
        let [_, _, priority, devices] = by_kind::<4>(need(hook, "hook of a flow table")?.nested())?;
        let mut names = Vec::new();
        for device in devices.map(|devices| devices.nested()).into_iter().flatten() {
            let device = device?;
            if device.kind == DEVICE_NAME {
                names.push(device.string());
            }
        }
        Ok(Self {
            table: need(table, "table of a flow table")?.string(),
            name: need(name, "flow table name")?.string(),
            priority: need(priority, "priority of a flow table")?.u32()?.cast_signed(),
            flags: flags.map(|attr| attr.u32()).transpose()?.unwrap_or(0),
            devices: names,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Header, Messages, Object, flags, msg};
    use super::*;

    fn message(table: &Flowtable) -> Vec<u8> {
        let header = Header {
            kind: msg::NEW_FLOWTABLE,
            flags: flags::REQUEST,
            seq: 7,
            family: 1,
            res_id: 0,
        };
        let mut w = Writer::new();
        w.message(header, |w| table.encode(w));
        w.bytes().to_vec()
    }

    #[test]
    fn what_is_written_is_read() {
        for devices in [vec![], vec!["cali1".to_owned(), "vxlan.calico".to_owned()]] {
            let (table, name) = ("t".to_owned(), "f".to_owned());
            let written = Flowtable { table, name, priority: -7, flags: 2, devices };
            let bytes = message(&written);
            let received = Messages::new(&bytes).next().unwrap().unwrap();
            assert_eq!(Object::decode(&received), Ok(Object::Flowtable(written)));
        }
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let devices = vec!["cali1".to_owned()];
        let (table, name) = ("t".to_owned(), "f".to_owned());
        let whole = Flowtable { table, name, priority: 0, flags: 2, devices };
        let mut w = Writer::new();
        whole.encode(&mut w);
        let whole_again = Flowtable::decode(Attrs::new(w.bytes()));
        assert_eq!(whole_again.as_ref(), Ok(&whole));
        for len in 0..w.bytes().len() {
            assert_ne!(Flowtable::decode(Attrs::new(&w.bytes()[..len])).as_ref(), Ok(&whole));
        }
    }
}
