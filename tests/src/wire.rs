//! Packets as bytes, from the Ethernet header on.

use std::net::IpAddr;

use calico_policy::eval::Packet;

/// Bytes before the IP header.
pub const ETHERNET: usize = 14;

/// Ends every packet of ours, before its number.
const MAGIC: [u8; 4] = *b"\xca\x11\xc0\x05";

/// The smallest length, in bytes from the IP header on, that every packet has room in.
const MIN: u16 = 96;

/// A frame with `packet` in it that says its own number. `length` is that of the IP packet, in
/// bytes; too small a one is made larger. All checksums are right.
#[must_use]
pub fn frame(packet: &Packet, number: u32, length: u16, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let ip_header = if packet.source.is_ipv4() { 20 } else { 40 };
    let length = self::length(length);
    let transport = transport(packet, number, usize::from(length) - ip_header);
    let ethertype: u16 = if packet.source.is_ipv4() { 0x0800 } else { 0x86dd };
    let ethernet = [&to[..], &from, &ethertype.to_be_bytes()].concat();
    [ethernet, ip_header_of(packet, number, length), transport].concat()
}

/// The length of the IP packet that [`frame`] makes when asked for `length`.
#[must_use]
pub fn length(length: u16) -> u16 {
    length.max(MIN)
}

/// The number of a received frame, if it is one of ours.
#[must_use]
pub fn number(frame: &[u8]) -> Option<u32> {
    let ip = frame.get(ETHERNET..)?;
    let length = match ip.first()? >> 4 {
        4 => usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])),
        6 => 40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?])),
        _ => return None,
    };
    // A message of the host about a packet (redirect, unreachable) ends like that packet.
    let is_about_another = match ip.first()? >> 4 {
        4 => *ip.get(9)? == 1 && matches!(ip.get(20)?, 3 | 5 | 11 | 12),
        _ => *ip.get(6)? == 58 && matches!(ip.get(40)?, 1..=4 | 137),
    };
    if is_about_another {
        return None;
    }
    number_at_end(ip.get(..length)?)
}

/// The number of a packet, or of the end of one, if it is one of ours.
#[must_use]
pub fn number_at_end(packet: &[u8]) -> Option<u32> {
    let (magic, number) = packet.last_chunk::<8>()?.split_at(4);
    (magic == MAGIC).then(|| u32::from_be_bytes([number[0], number[1], number[2], number[3]]))
}

/// RFC 791, RFC 8200.
fn ip_header_of(packet: &Packet, number: u32, length: u16) -> Vec<u8> {
    let mut header = Vec::new();
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend([0x45, 0]);
            header.extend(length.to_be_bytes());
            header.extend(&number.to_be_bytes()[2..]);
            header.extend([0, 0, 64, packet.protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.extend([0x60, 0, 0, 0]);
            header.extend((length - 40).to_be_bytes());
            header.extend([packet.protocol, 64]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        _ => panic!("{packet:?} is of two families"),
    }
    header
}

/// The transport header and what follows, ending in our number.
fn transport(packet: &Packet, number: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let at = length - 8;
    bytes[at..at + 4].copy_from_slice(&MAGIC);
    bytes[at + 4..].copy_from_slice(&number.to_be_bytes());
    if let Some((source, destination)) = packet.ports {
        bytes[..2].copy_from_slice(&source.to_be_bytes());
        bytes[2..4].copy_from_slice(&destination.to_be_bytes());
    }
    let len16 = u16::try_from(length).expect("the length of an IP packet has 16 bits");
    match packet.protocol {
        // TCP (RFC 9293): a SYN; sequence number, header of five words, window.
        6 => {
            bytes[4..8].copy_from_slice(&number.to_be_bytes());
            bytes[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
            put_sum(&mut bytes, 16, packet);
        }
        // UDP (RFC 768) and UDP-Lite (RFC 3828, all of it covered).
        17 | 136 => {
            bytes[4..6].copy_from_slice(&len16.to_be_bytes());
            put_sum(&mut bytes, 6, packet);
        }
        // SCTP (RFC 9260): an INIT chunk over the rest, with a tag that is not zero.
        132 => {
            bytes[12] = 1;
            bytes[14..16].copy_from_slice(&(len16 - 12).to_be_bytes());
            bytes[16..20].copy_from_slice(&(number | 1 << 31).to_be_bytes());
            bytes[20..24].copy_from_slice(&65_536_u32.to_be_bytes());
            bytes[24..28].copy_from_slice(&[0, 1, 0, 1]);
            let sum = crc32c(&bytes);
            bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        }
        // ICMP (RFC 792, RFC 4443): type, code, then identifier and sequence number.
        1 | 58 => {
            let (kind, code) = packet.icmp.expect("ICMP has a type");
            bytes[..2].copy_from_slice(&[kind, code]);
            bytes[4..8].copy_from_slice(&number.to_be_bytes());
            if packet.protocol == 1 {
                let sum = checksum(&bytes);
                bytes[2..4].copy_from_slice(&sum.to_be_bytes());
            } else {
                put_sum(&mut bytes, 2, packet);
            }
        }
        _ => {}
    }
    bytes
}

/// The sum over pseudo header and payload, which is even in length.
fn put_sum(bytes: &mut [u8], at: usize, packet: &Packet) {
    let mut covered = match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            [source.octets(), destination.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            [source.octets(), destination.octets()].concat()
        }
        _ => panic!("{packet:?} is of two families"),
    };
    covered.extend([0, packet.protocol]);
    covered.extend(u16::try_from(bytes.len()).expect("16 bits").to_be_bytes());
    covered.extend_from_slice(bytes);
    let sum = match checksum(&covered) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => u32::from(word[0]) << 8,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// RFC 9260 appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_standards() {
        // RFC 1071 section 3, and the usual check value of CRC-32C.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_frame_says_its_number() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            for protocol in [6, 17, 132, 136, 47] {
                let packet = Packet::to_port(from, to, protocol, 80);
                let bytes = frame(&packet, 77, 120, [1; 6], [2; 6]);
                assert_eq!((bytes.len(), number(&bytes)), (ETHERNET + 120, Some(77)));
            }
            assert_eq!(number(&frame(&Packet::ping(from, to), 9, 0, [1; 6], [2; 6])), Some(9));
        }
        assert_eq!(number(&[0; 80]), None);
        assert_eq!(number(&[]), None);
    }
}
