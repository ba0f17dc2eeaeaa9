//! Socket options that the safe libraries do not have: TCP signatures and hop counts.
#![expect(unsafe_code, reason = "setsockopt of options without a safe wrapper")]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use nix::libc;

use crate::speaker::{Distance, Password};

/// `include/uapi/linux/tcp.h`.
const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
/// `include/uapi/linux/in.h` and `in6.h`.
const IP_MINTTL: libc::c_int = 21;
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// `struct tcp_md5sig` of `include/uapi/linux/tcp.h`.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: libc::c_int,
    key: [u8; 80],
}

/// Sets the password of segments to and from the hosts of a prefix (RFC 2385), or takes it away.
///
/// With a socket of the other address family, IPv4 hosts are given as mapped IPv6 addresses.
pub(super) fn set_password(
    socket: &impl AsFd,
    of_v6: bool,
    hosts: IpNet,
    password: Option<&Password>,
) -> io::Result<()> {
    // SAFETY: both structures are plain data for which all zeroes are valid.
    let mut option: TcpMd5Sig = unsafe { std::mem::zeroed() };
    let mapped = match hosts.addr() {
        IpAddr::V4(a) if of_v6 => IpAddr::V6(a.to_ipv6_mapped()),
        a => a,
    };
    write_address(&mut option.address, mapped);
    option.flags = TCP_MD5SIG_FLAG_PREFIX;
    // For mapped addresses the kernel counts the bits of the IPv4 address.
    option.prefix_len = hosts.prefix_len();
    if let Some(password) = password {
        let octets = password.as_bytes();
        // At most 80 by the type's own bound.
        option.key[..octets.len()].copy_from_slice(octets);
        option.key_len = octets.len() as u16;
    }
    match set(socket, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &option) {
        // Taking away what is not there.
        Err(e) if password.is_none() && e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Sets the hop counts of a connection: what it sends with, and what must be left of those that
/// arrive (RFC 5082). `v6` says whether the connection itself runs over IPv6.
pub(super) fn set_distance(socket: &impl AsFd, v6: bool, distance: Distance) -> io::Result<()> {
    let (level, ttl, min_ttl) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, IPV6_MINHOPCOUNT)
    } else {
        (libc::IPPROTO_IP, libc::IP_TTL, IP_MINTTL)
    };
    // -1 is the kernel's own; an accepted connection may have inherited another.
    set(socket, level, ttl, &distance.ttl().map_or(-1, libc::c_int::from))?;
    match distance.min_ttl() {
        Some(min) => set(socket, level, min_ttl, &libc::c_int::from(min)),
        None => Ok(()),
    }
}

/// Lets a listening socket answer with the highest TTL: peers that are secured by RFC 5082 drop
/// answers with another, and nobody else minds.
pub(super) fn answer_from_anywhere(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    let ttl: libc::c_int = 255;
    if v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &ttl)?;
    }
    // A socket for both families has an IPv4 side too; one for IPv6 alone just keeps the value.
    set(socket, libc::IPPROTO_IP, libc::IP_TTL, &ttl)
}

fn write_address(out: &mut libc::sockaddr_storage, address: IpAddr) {
    let out: *mut libc::sockaddr_storage = out;
    match address {
        IpAddr::V4(a) => {
            // SAFETY: sockaddr_storage is large enough and aligned for every socket address.
            let out = unsafe { &mut *out.cast::<libc::sockaddr_in>() };
            out.sin_family = libc::AF_INET as libc::sa_family_t;
            out.sin_addr.s_addr = u32::from_ne_bytes(a.octets());
        }
        IpAddr::V6(a) => {
            let octets = Ipv6Addr::octets(&a);
            // SAFETY: as above.
            let out = unsafe { &mut *out.cast::<libc::sockaddr_in6>() };
            out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            out.sin6_addr.s6_addr = octets;
        }
    }
}

fn set<T>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = size_of::<T>() as libc::socklen_t;
    let value: *const T = value;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel only reads `length`
    // octets at `value`, which is a live reference to a value of that size.
    let result = unsafe { libc::setsockopt(fd, level, name, value.cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
