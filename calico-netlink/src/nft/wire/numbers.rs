//! Numbers of operands of expressions, and flags.

/// Declares an enum of kernel numbers that keeps numbers it does not know.
macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
            /// A number this crate has no name for.
            Other(u32),
        }

        impl $name {
            pub(super) fn number(self) -> u32 {
                match self {
                    $(Self::$item => $number,)*
                    Self::Other(number) => number,
                }
            }

            pub(super) fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$item,)*
                    other => Self::Other(other),
                }
            }
        }
    };
}

numbers!(
    /// What `meta` reads or sets (`enum nft_meta_keys`).
    MetaKey {
        /// Packet mark, host byte order.
        Mark = 3,
        /// Index of the incoming interface.
        Iif = 4,
        /// Index of the outgoing interface.
        Oif = 5,
        /// Name of the incoming interface, 16 bytes, NUL padded.
        IifName = 6,
        /// Name of the outgoing interface, 16 bytes, NUL padded.
        OifName = 7,
        /// Network protocol (`NFPROTO_IPV4` 2, `NFPROTO_IPV6` 10), one byte.
        NfProto = 15,
        /// Transport protocol, one byte.
        L4Proto = 16,
    }
);

numbers!(
    /// Where `payload` reads (`enum nft_payload_bases`).
    PayloadBase {
        /// Link layer header.
        Link = 0,
        /// Network header.
        Network = 1,
        /// Transport header.
        Transport = 2,
    }
);

numbers!(
    /// Comparison (`enum nft_cmp_ops`).
    CmpOp {
        /// Equal.
        Eq = 0,
        /// Not equal.
        Neq = 1,
        /// Less.
        Lt = 2,
        /// Less or equal.
        Lte = 3,
        /// Greater.
        Gt = 4,
        /// Greater or equal.
        Gte = 5,
    }
);

numbers!(
    /// What `ct` reads (`enum nft_ct_keys`).
    CtKey {
        /// State bit mask, host byte order: invalid 1, established 2, related 4, new 8,
        /// untracked 64.
        State = 0,
        /// Status bit mask (`IPS_*`), host byte order.
        Status = 2,
        /// Connection mark, host byte order.
        Mark = 3,
    }
);

numbers!(
    /// How `reject` answers (`enum nft_reject_types`).
    RejectKind {
        /// ICMP or ICMPv6 unreachable, the code being of that family.
        Icmp = 0,
        /// TCP reset.
        TcpReset = 1,
        /// Unreachable for either family (`enum nft_reject_inet_code`).
        Icmpx = 2,
    }
);

numbers!(
    /// Direction of address translation (`enum nft_nat_types`).
    NatKind {
        /// Source.
        Snat = 0,
        /// Destination.
        Dnat = 1,
    }
);

/// Flags and results of `fib`.
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod fib {
    pub const RESULT_OIF: u32 = 1;
    /// The kind of the address: `RTN_UNICAST` 1, `RTN_LOCAL` 2, host byte order.
    pub const RESULT_TYPE: u32 = 3;
    pub const SADDR: u32 = 1;
    pub const DADDR: u32 = 2;
    pub const MARK: u32 = 4;
    pub const IIF: u32 = 8;
    pub const OIF: u32 = 16;
    /// The result is whether there is one.
    pub const PRESENT: u32 = 32;
}

/// Flags of translations (`NF_NAT_RANGE_*`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod nat {
    pub const MAP_IPS: u32 = 1;
    pub const PROTO_SPECIFIED: u32 = 2;
    pub const RANDOM: u32 = 4;
    pub const PERSISTENT: u32 = 8;
    pub const FULLY_RANDOM: u32 = 16;
}

/// Checksums that [`Expr::PayloadSet`](super::Expr::PayloadSet) mends (`enum nft_payload_csum_types`).
#[expect(missing_docs, reason = "the names are those of the kernel header")]
pub mod checksum {
    pub const NONE: u32 = 0;
    /// The internet checksum (RFC 791).
    pub const INET: u32 = 1;
}
