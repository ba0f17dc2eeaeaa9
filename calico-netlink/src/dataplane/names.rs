//! Names in the kernel: chains, sets, and the prefixes by which NFLOG reports tell what decided.
//! They are upstream's, except that one table of family `inet` holds what upstream keeps in
//! several.

use calico_core::Kind;
use calico_core::dataplane::{Direction, Dscp, PolicyId, RuleId, RuleOwner, SetId};
use calico_core::key::Family;
use sha2::{Digest, Sha256};

use super::host::Stage;

/// Longest name we give; `NFT_NAME_MAXLEN` is 256 with its NUL.
const NAME_MAX: usize = 200;
/// Upstream's limit for an NFLOG prefix (`felix/rules/nflog.go`); a longer one is hashed.
const PREFIX_MAX: usize = 63;
/// What a hashed prefix keeps of its beginning and of its end.
const PREFIX_KEEPS: usize = 10;

/// NFLOG group of reports about packets to workloads.
pub const GROUP_INGRESS: u16 = 1;
/// NFLOG group of reports about packets from workloads.
pub const GROUP_EGRESS: u16 = 2;

/// Hook chains.
pub(super) const RAW_PREROUTING: &str = "raw-PREROUTING";
pub(super) const FILTER_INPUT: &str = "filter-INPUT";
pub(super) const FILTER_FORWARD: &str = "filter-FORWARD";
pub(super) const NAT_POSTROUTING: &str = "nat-POSTROUTING";

pub(super) const RAW_OUTPUT: &str = "raw-OUTPUT";
pub(super) const MANGLE_PREROUTING: &str = "mangle-PREROUTING";
pub(super) const MANGLE_POSTROUTING: &str = "mangle-POSTROUTING";
pub(super) const FILTER_OUTPUT: &str = "filter-OUTPUT";

pub(super) const NAT_PREROUTING: &str = "nat-PREROUTING";
pub(super) const NAT_OUTPUT: &str = "nat-OUTPUT";

/// Chains that hooks lead to. The dispatch chains share their names with their verdict maps.
pub(super) const WORKLOAD_TO_HOST: &str = "cali-wl-to-host";
pub(super) const FROM_WORKLOAD: &str = "cali-from-wl-dispatch";
pub(super) const TO_WORKLOAD: &str = "cali-to-wl-dispatch";
pub(super) const TRACKED: &str = "cali-tracked";
/// Where rules lead what they allow.
pub(super) const ALLOWED_TO: &str = "cali-allowed-to";
pub(super) const ALLOWED_FROM: &str = "cali-allowed-from";
pub(super) const NAT_OUTGOING: &str = "cali-nat-outgoing";
pub(super) const FLOATING_IN: &str = "cali-fip-dnat";
pub(super) const FLOATING_OUT: &str = "cali-fip-snat";
pub(super) const CIDR_BLOCK: &str = "cali-cidr-block";

/// Where forwarded packets go that are not known to go on.
pub(super) const FORWARD: &str = "cali-forward";

/// Where services have their addresses.
pub(super) const SERVICES: &str = "service-cidrs";

/// Interfaces of workloads with the addresses that they may use as source.
pub(super) const SOURCES: &str = "workload-sources";

/// Numbers of interfaces with such addresses, of workloads whose established connections go on at
/// once ...
pub(super) const ESTABLISHED_FROM: &str = "established-from";
/// ... and names of the interfaces of workloads to which they do.
pub(super) const ESTABLISHED_TO: &str = "established-to";

/// Interfaces of workloads with a limit of packets to them, and the chain that has it.
pub(super) const LIMITED_TO: &str = "limited-to";

/// Fixed set ids of upstream.
pub(super) const ALL_POOLS: &str = "network-ip-pools";
pub(super) const MASQUERADED_POOLS: &str = "masq-ipam-pools";
pub(super) const ALL_NODES: &str = "all-hosts-net";
pub(super) const DSCP_SOURCES: &str = "dscp-src-net";

/// Where there are nodes without a resource; upstream has them in the set of all nodes.
pub(super) const EXTERNAL_NODES: &str = "external-hosts-net";

/// Prefixes without a rule: ours, upstream reports none of these.
pub(super) const SPOOFED: &str = "DXE|spoofed";
pub(super) const ENCAPSULATED: &str = "DXE|encapsulated";
pub(super) const UNKNOWN_FROM: &str = "DXE|unknown";
pub(super) const UNKNOWN_TO: &str = "DXI|unknown";
pub(super) const FOREIGN_TUNNEL: &str = "DXI|foreign-tunnel";

/// NFLOG group for a direction.
pub(super) fn group(direction: Direction) -> u16 {
    match direction {
        Direction::Ingress => GROUP_INGRESS,
        Direction::Egress => GROUP_EGRESS,
    }
}

/// Chain of a policy's or profile's rules in one direction.
pub(super) fn rules_chain(owner: &RuleOwner, direction: Direction) -> String {
    let prefix = match (owner, direction) {
        (RuleOwner::Policy(_), Direction::Ingress) => "cali-pi-",
        (RuleOwner::Policy(_), Direction::Egress) => "cali-po-",
        (RuleOwner::Profile(_), Direction::Ingress) => "cali-pri-",
        (RuleOwner::Profile(_), Direction::Egress) => "cali-pro-",
    };
    limited(prefix, &owner_id(owner))
}

/// Chain of endpoints, to the workload or from it, by its content: endpoints of equal policy share
/// it.
pub(super) fn endpoint_chain(direction: Direction, content: &[u8]) -> String {
    let prefix = match direction {
        Direction::Ingress => TO_WORKLOAD_CHAIN,
        Direction::Egress => FROM_WORKLOAD_CHAIN,
    };
    format!("{prefix}{}", hash(content, 22))
}

/// How the names of chains of endpoints begin.
pub(super) const TO_WORKLOAD_CHAIN: &str = "cali-tw-";
pub(super) const FROM_WORKLOAD_CHAIN: &str = "cali-fw-";

/// Chain and verdict map that lead from a hook to the chain of a host endpoint.
pub(super) fn host_dispatch(stage: Stage, direction: Direction) -> &'static str {
    match (stage, direction) {
        (Stage::Untracked, Direction::Ingress) => "raw-cali-from-host-endpoint",
        (Stage::Untracked, Direction::Egress) => "raw-cali-to-host-endpoint",
        (Stage::PreDnat, Direction::Ingress) => "mangle-cali-from-host-endpoint",
        (Stage::PreDnat, Direction::Egress) => "mangle-cali-to-host-endpoint",
        (Stage::Local, Direction::Ingress) => "cali-from-host-endpoint",
        (Stage::Local, Direction::Egress) => "cali-to-host-endpoint",
        (Stage::Forward, Direction::Ingress) => "cali-from-hep-forward",
        (Stage::Forward, Direction::Egress) => "cali-to-hep-forward",
    }
}

/// Chain of a host endpoint at one stage, by its interface; `None`: all interfaces.
pub(super) fn host_chain(stage: Stage, direction: Direction, interface: Option<&str>) -> String {
    let (table, forward) = match stage {
        Stage::Untracked => ("raw-", ""),
        Stage::PreDnat => ("mangle-", ""),
        Stage::Local => ("", ""),
        Stage::Forward => ("", "fw"),
    };
    let way = match direction {
        Direction::Ingress => "cali-fh",
        Direction::Egress => "cali-th",
    };
    format!("{table}{way}{forward}-{}", interface.unwrap_or("any-interface-at-all"))
}

/// Chain that writes a code point into packets.
pub(super) fn dscp_chain(dscp: Dscp) -> String {
    format!("cali-egress-dscp-{dscp}")
}

/// Chain of the ports that stay open.
pub(super) fn failsafe(untracked: bool, direction: Direction) -> &'static str {
    match (untracked, direction) {
        (true, Direction::Ingress) => "raw-cali-failsafe-in",
        (true, Direction::Egress) => "raw-cali-failsafe-out",
        (false, Direction::Ingress) => "cali-failsafe-in",
        (false, Direction::Egress) => "cali-failsafe-out",
    }
}

/// Chain to which rules lead what they allow.
pub(super) fn allowed(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => ALLOWED_TO,
        Direction::Egress => ALLOWED_FROM,
    }
}

/// One family's half of an IP set. `nft` cannot parse a colon in a name.
pub(super) fn set(id: &str, family: Family) -> String {
    let prefix = match family {
        Family::V4 => "cali40",
        Family::V6 => "cali60",
    };
    limited(prefix, &id.replace(':', "-"))
}

/// Both halves of an IP set.
pub(super) fn sets(id: &SetId) -> [(Family, String); 2] {
    Family::BOTH.map(|family| (family, set(&id.0, family)))
}

/// A set that is named by its content and never changes.
pub(super) fn constant(content: &[u8]) -> String {
    format!("calik-{}", hash(content, 22))
}

/// Prefix of a rule's reports.
pub(super) fn rule_prefix(action: char, id: &RuleId) -> String {
    let kind = match id.owner {
        RuleOwner::Policy(_) => 'P',
        RuleOwner::Profile(_) => 'R',
    };
    let direction = letter(id.direction);
    hashed_prefix(format!("{action}{kind}{direction}{}|{}", id.index, owner_id(&id.owner)))
}

/// Prefix of the drop at the end of a tier.
pub(super) fn end_of_tier_prefix(direction: Direction, tier: &str) -> String {
    hashed_prefix(format!("DP{}|{tier}", letter(direction)))
}

/// Prefix of the drop when no profile matched.
pub(super) fn no_profile_prefix(direction: Direction) -> String {
    format!("DR{}", letter(direction))
}

fn letter(direction: Direction) -> char {
    match direction {
        Direction::Ingress => 'I',
        Direction::Egress => 'E',
    }
}

/// Upstream's identity of a policy, such as `np/prod/web`; a profile's is its name.
fn owner_id(owner: &RuleOwner) -> String {
    match owner {
        RuleOwner::Policy(PolicyId { kind, namespace: Some(namespace), name }) => {
            format!("{}/{namespace}/{name}", short_kind(*kind))
        }
        RuleOwner::Policy(PolicyId { kind, namespace: None, name }) => {
            format!("{}/{name}", short_kind(*kind))
        }
        RuleOwner::Profile(name) => name.to_string(),
    }
}

/// Upstream's short form (`felix/types/policy.go`).
fn short_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::NetworkPolicy => "np",
        Kind::GlobalNetworkPolicy => "gnp",
        Kind::StagedNetworkPolicy => "snp",
        Kind::StagedGlobalNetworkPolicy => "sgnp",
        Kind::StagedKubernetesNetworkPolicy => "sknp",
        other => other.as_str(),
    }
}

/// Prefix and suffix, or a hash of the suffix if that is too long; the hash starts with `_`, so
/// a suffix that does so too is hashed as well when it has just the length of one.
fn limited(prefix: &str, suffix: &str) -> String {
    let len = prefix.len() + suffix.len();
    if len > NAME_MAX || (len == NAME_MAX && suffix.starts_with('_')) {
        format!("{prefix}_{}", hash(suffix.as_bytes(), 43))
    } else {
        format!("{prefix}{suffix}")
    }
}

/// Hashes from the limit on, not only beyond it: nobody can then name a policy like a hash.
fn hashed_prefix(prefix: String) -> String {
    if prefix.len() < PREFIX_MAX {
        return prefix;
    }
    let head = floor(&prefix, PREFIX_KEEPS);
    let tail = floor(&prefix, prefix.len() - PREFIX_KEEPS);
    // One for the underscore that opens the hash, one for the underscore that closes it.
    let room = PREFIX_MAX - 1 - head - (prefix.len() - tail) - 2;
    format!("{}_{}_{}", &prefix[..head], hash(prefix.as_bytes(), room), &prefix[tail..])
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The first `len` characters (at most 43) of the SHA-256 in URL-safe base64 without padding.
fn hash(content: &[u8], len: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digest = Sha256::digest(content);
    let mut text = String::with_capacity(44);
    for chunk in digest.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text.truncate(len);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(namespace: Option<&str>, name: &str) -> RuleOwner {
        RuleOwner::Policy(PolicyId {
            kind: if namespace.is_some() { Kind::NetworkPolicy } else { Kind::GlobalNetworkPolicy },
            namespace: namespace.map(Into::into),
            name: name.into(),
        })
    }

    #[test]
    fn names_are_upstreams() {
        let web = policy(Some("prod"), "web");
        assert_eq!(rules_chain(&web, Direction::Ingress), "cali-pi-np/prod/web");
        assert_eq!(rules_chain(&policy(None, "all"), Direction::Egress), "cali-po-gnp/all");
        let profile = RuleOwner::Profile("kns.default".into());
        assert_eq!(rules_chain(&profile, Direction::Egress), "cali-pro-kns.default");
        assert_eq!(set("s:abc", Family::V6), "cali60s-abc");
        let id = RuleId { owner: web, direction: Direction::Ingress, index: 3 };
        assert_eq!(rule_prefix('D', &id), "DPI3|np/prod/web");
        assert_eq!(end_of_tier_prefix(Direction::Egress, "default"), "DPE|default");
    }

    #[test]
    fn long_names_and_prefixes_stay_distinct_and_short() {
        let long = |end: &str| policy(Some("prod"), &format!("{}{end}", "x".repeat(240)));
        let chains = ["a", "b"].map(|end| rules_chain(&long(end), Direction::Ingress));
        assert_ne!(chains[0], chains[1]);
        assert!(chains[0].len() <= NAME_MAX && chains[0].starts_with("cali-pi-_"));
        let prefix = |end: &str| {
            let id = RuleId { owner: long(end), direction: Direction::Ingress, index: 0 };
            rule_prefix('D', &id)
        };
        assert_ne!(prefix("a"), prefix("b"));
        assert_eq!(prefix("a").len(), 62);
        assert!(prefix("a").starts_with("DPI0|np/pr_") && prefix("a").ends_with("_xxxxxxxxxa"));
    }

    #[test]
    fn hash_is_base64url_of_sha256() {
        // SHA-256 of the empty string, RFC 4648 section 5.
        assert_eq!(hash(b"", 43), "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
    }
}
