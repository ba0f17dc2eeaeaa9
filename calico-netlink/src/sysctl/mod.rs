//! Kernel settings under `/proc/sys/net`, by typed names.
//!
//! They belong to the network namespace of the thread that reads or writes them.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};

/// Which interfaces a setting is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Of<'a> {
    /// All of them at once; combined with each one's own, in a way that differs by setting.
    All,
    /// Those that come later.
    Default,
    /// The interface of this name.
    Interface(&'a str),
}

/// A setting. See the kernel's Documentation/networking/ip-sysctl.rst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Setting<'a> {
    /// `net.ipv4.ip_forward`: packets pass from one interface to another.
    Ipv4Forward,
    /// `net.netfilter.nf_conntrack_acct`: connections count their packets.
    ConntrackAccounting,
    /// `net.ipv4.conf.*.forwarding`.
    Ipv4Forwarding(Of<'a>),
    /// `net.ipv4.conf.*.proxy_arp`: answer ARP for whatever is routed elsewhere.
    ProxyArp(Of<'a>),
    /// `net.ipv4.conf.*.route_localnet`: 127/8 is not martian here.
    RouteLocalnet(Of<'a>),
    /// `net.ipv4.conf.*.rp_filter`: reverse path check (RFC 3704): 0 none, 1 strict, 2 loose.
    ReversePathFilter(Of<'a>),
    /// `net.ipv4.neigh.*.proxy_delay`: wait before a proxied answer, in 1/100 s.
    ProxyDelay(Of<'a>),
    /// `net.ipv6.conf.*.forwarding`.
    Ipv6Forwarding(Of<'a>),
    /// `net.ipv6.conf.*.disable_ipv6`.
    DisableIpv6(Of<'a>),
    /// `net.ipv6.conf.*.accept_dad`: 0 uses addresses without probing their uniqueness.
    AcceptDad(Of<'a>),
    /// `net.ipv6.conf.*.accept_ra`: take routes and addresses from router advertisements.
    AcceptRa(Of<'a>),
    /// `net.ipv6.conf.*.proxy_ndp`: answer for neighbours that are listed as proxied.
    ProxyNdp(Of<'a>),
    /// `net.ipv6.conf.*.addr_gen_mode`: 0 EUI-64, 1 no link-local address of its own.
    AddrGenMode(Of<'a>),
}

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// The kernel does not know it: the interface is gone, or IPv6 or a module is absent.
    #[error("there is no {path}: the interface is gone, or the kernel lacks the feature")]
    Absent {
        /// Its file.
        path: String,
    },
    /// The system refused, for instance because `/proc/sys` is read-only in a container.
    #[error("cannot {doing} {path}")]
    System {
        /// Read, or write which value.
        doing: String,
        /// Its file.
        path: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Its content is no number.
    #[error("{path} holds {content:?}, which is not a number")]
    NotANumber {
        /// Its file.
        path: String,
        /// What it holds.
        content: String,
    },
}

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Default => "default",
            Self::Interface(name) => name,
        })
    }
}

impl Setting<'_> {
    /// Its file. An interface's name may hold dots, hence no dotted form.
    #[must_use]
    pub fn path(&self) -> String {
        let (family, of, name) = match self {
            Self::Ipv4Forward => return "/proc/sys/net/ipv4/ip_forward".into(),
            Self::ConntrackAccounting => return "/proc/sys/net/netfilter/nf_conntrack_acct".into(),
            Self::Ipv4Forwarding(of) => ("ipv4/conf", of, "forwarding"),
            Self::ProxyArp(of) => ("ipv4/conf", of, "proxy_arp"),
            Self::RouteLocalnet(of) => ("ipv4/conf", of, "route_localnet"),
            Self::ReversePathFilter(of) => ("ipv4/conf", of, "rp_filter"),
            Self::ProxyDelay(of) => ("ipv4/neigh", of, "proxy_delay"),
            Self::Ipv6Forwarding(of) => ("ipv6/conf", of, "forwarding"),
            Self::DisableIpv6(of) => ("ipv6/conf", of, "disable_ipv6"),
            Self::AcceptDad(of) => ("ipv6/conf", of, "accept_dad"),
            Self::AcceptRa(of) => ("ipv6/conf", of, "accept_ra"),
            Self::ProxyNdp(of) => ("ipv6/conf", of, "proxy_ndp"),
            Self::AddrGenMode(of) => ("ipv6/conf", of, "addr_gen_mode"),
        };
        format!("/proc/sys/net/{family}/{of}/{name}")
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// See [`SysctlError`].
    pub fn read(&self) -> Result<i64, SysctlError> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Ok(content) => content.trim().parse().map_err(|_not_a_number| {
                SysctlError::NotANumber { path, content: content.trim().to_owned() }
            }),
            Err(source) => Err(failure("read".into(), path, source)),
        }
    }

    /// Writes it unless its present value is known to be the same.
    pub(crate) fn write_unless(&self, present: Option<i32>, value: i64) -> Result<(), SysctlError> {
        if present.map(i64::from) == Some(value) { Ok(()) } else { self.write(value) }
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// See [`SysctlError`].
    pub fn write(&self, value: i64) -> Result<(), SysctlError> {
        let path = self.path();
        // Not fs::write: that truncates, which costs a second look-up in procfs.
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(value.to_string().as_bytes()))
            .map_err(|source| failure(format!("write {value} to"), path, source))
    }
}

/// Settings of the whole host that an agent needs: packets are forwarded, and connections are
/// counted.
///
/// IPv6 and connection counting may be absent from the kernel; that they are is returned as text
/// for the log, not as an error.
///
/// # Errors
///
/// [`SysctlError`] if IPv4 forwarding cannot be switched on.
pub fn prepare_host() -> Result<Vec<String>, SysctlError> {
    let mut notes = forward_packets(true)?;
    notes.extend(count_connections()?);
    Ok(notes)
}

/// Packets are forwarded between interfaces: of IPv4, and of IPv6 if that is `v6`, too. Returns what
/// the kernel lacks, as text.
///
/// # Errors
///
/// [`SysctlError`] if IPv4 forwarding cannot be switched on.
pub fn forward_packets(v6: bool) -> Result<Vec<String>, SysctlError> {
    Setting::Ipv4Forward.write(1)?;
    if v6 { if_there(Setting::Ipv6Forwarding(Of::All)) } else { Ok(Vec::new()) }
}

/// Connections count their packets and bytes. Returns what the kernel lacks, as text.
///
/// # Errors
///
/// [`SysctlError`] if the setting is there and cannot be written.
pub fn count_connections() -> Result<Vec<String>, SysctlError> {
    if_there(Setting::ConntrackAccounting)
}

fn if_there(setting: Setting<'_>) -> Result<Vec<String>, SysctlError> {
    match setting.write(1) {
        Ok(()) => Ok(Vec::new()),
        Err(error @ SysctlError::Absent { .. }) => Ok(vec![error.to_string()]),
        Err(error) => Err(error),
    }
}

fn failure(doing: String, path: String, source: io::Error) -> SysctlError {
    if source.kind() == io::ErrorKind::NotFound {
        SysctlError::Absent { path }
    } else {
        SysctlError::System { doing, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestNet;

    #[test]
    fn settings_belong_to_the_namespace_of_the_thread() {
        let Some(net) = TestNet::new("sysctl") else { return };
        let outside = Setting::ProxyArp(Of::Default).read().unwrap();
        net.run(|| Setting::ProxyArp(Of::Default).write(1 - outside)).unwrap();
        assert_eq!(net.run(|| Setting::ProxyArp(Of::Default).read()).unwrap(), 1 - outside);
        assert_eq!(Setting::ProxyArp(Of::Default).read().unwrap(), outside);
    }

    #[test]
    fn hosts_forward_after_preparation() {
        let Some(net) = TestNet::new("forward") else { return };
        net.run(prepare_host).unwrap();
        net.run(|| {
            assert_eq!(Setting::Ipv4Forward.read().unwrap(), 1);
            assert_eq!(Setting::Ipv6Forwarding(Of::All).read().unwrap(), 1);
        });
    }

    #[test]
    fn absent_interfaces_are_told() {
        let error = Setting::ProxyArp(Of::Interface("cr-absent")).write(1).unwrap_err();
        assert!(matches!(&error, SysctlError::Absent { path } if path.contains("cr-absent")));
    }
}
