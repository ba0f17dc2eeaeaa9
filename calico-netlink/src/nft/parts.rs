//! Chains in parts: rules for the same protocol stand in a chain of their own, to which one rule
//! leads. A packet of another protocol passes them all by with one comparison, and none of them has
//! to ask for the protocol: the kernel takes fewer expressions, which is most of what a rule costs
//! it.
//!
//! Whoever returns from a part returns from the whole chain, so nothing may follow that the packets
//! of a part could meet: only the rules at the end of a chain that all ask for a protocol are put
//! into parts.

use super::ruleset::{ChainDef, RuleDef};
use super::wire::{CmpOp, Expr, MetaKey, Reg, Verdict};

/// Between the name of a chain and that of its part. No name of a policy has this.
const SEPARATOR: &str = "//";

/// Protocols whose rules may become a part: what follows in them can be read without it. `nft` would
/// print a type of ICMP as nameless bytes.
const PROTOCOLS: [(u8, &str); 3] = [(6, "tcp"), (17, "udp"), (132, "sctp")];

/// Fewer rules are not worth a chain.
const FEWEST: usize = 4;

/// The chain with these rules, and its parts.
pub fn split(name: &str, mut rules: Vec<RuleDef>) -> Vec<(String, ChainDef)> {
    let asks = rules.iter().rev().take_while(|rule| protocol_of(rule).is_some()).count();
    let mut groups: Vec<(Protocol, Vec<RuleDef>)> = Vec::new();
    for rule in rules.split_off(rules.len() - asks) {
        // No packet meets rules of two protocols, so that these may change places.
        let Some(protocol) = protocol_of(&rule) else { continue };
        match groups.iter_mut().find(|(of, _)| *of == protocol) {
            Some((_, rules)) => rules.push(rule),
            None => groups.push((protocol, vec![rule])),
        }
    }
    let mut parts = Vec::new();
    for ((number, protocol), mut of_protocol) in groups {
        if of_protocol.len() < FEWEST {
            rules.extend(of_protocol);
            continue;
        }
        for rule in &mut of_protocol {
            rule.expressions.drain(..2);
        }
        let part = format!("{name}{SEPARATOR}{protocol}");
        let mut expressions = matches(number).to_vec();
        expressions.push(Expr::Verdict(Verdict::Goto(part.clone())));
        rules.push(RuleDef { identity: String::new(), expressions });
        parts.push((part, ChainDef { base: None, rules: of_protocol }));
    }
    parts.push((name.to_owned(), ChainDef { base: None, rules }));
    parts
}

/// The chain that this is a part of, or itself.
pub fn whole_of(chain: &str) -> &str {
    chain.split(SEPARATOR).next().unwrap_or(chain)
}

/// Whether it is a part of a chain.
pub fn is_part(chain: &str) -> bool {
    chain.contains(SEPARATOR)
}

/// How the names of a chain's parts begin.
pub fn prefix(chain: &str) -> String {
    format!("{chain}{SEPARATOR}")
}

/// What a rule of this chain does if it stands in the whole chain.
pub(super) fn outside(chain: &str, rule: &RuleDef) -> RuleDef {
    let part = chain.split(SEPARATOR).nth(1);
    let protocol = PROTOCOLS.iter().find(|(_, name)| Some(*name) == part);
    let guard = protocol.into_iter().flat_map(|(number, _)| matches(*number));
    let expressions = guard.chain(rule.expressions.iter().cloned()).collect();
    RuleDef { identity: rule.identity.clone(), expressions }
}

type Protocol = (u8, &'static str);

/// The protocol that the rule asks for first.
fn protocol_of(rule: &RuleDef) -> Option<Protocol> {
    let [Expr::Meta { key: MetaKey::L4Proto, dreg: Reg::R0 }, Expr::Cmp { sreg, op, value }, ..] =
        &rule.expressions[..]
    else {
        return None;
    };
    let known = |(number, _): &&Protocol| value.as_slice() == [*number];
    let asks = (*sreg, *op) == (Reg::R0, CmpOp::Eq);
    PROTOCOLS.iter().find(known).filter(|_| asks).copied()
}

fn matches(protocol: u8) -> [Expr; 2] {
    [
        Expr::Meta { key: MetaKey::L4Proto, dreg: Reg::R0 },
        Expr::Cmp { sreg: Reg::R0, op: CmpOp::Eq, value: vec![protocol] },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(identity: usize, protocol: Option<u8>) -> RuleDef {
        let mut expressions: Vec<Expr> = protocol.into_iter().flat_map(matches).collect();
        expressions.push(Expr::COUNTER);
        RuleDef { identity: identity.to_string(), expressions }
    }

    /// Identities of the rules that a packet of this protocol meets, in order.
    fn met(chains: &[(String, ChainDef)], chain: &str, protocol: u8) -> Vec<String> {
        let rules = &chains.iter().find(|(name, _)| name == chain).unwrap().1.rules;
        let mut all = Vec::new();
        for rule in rules {
            let asked = protocol_of(rule);
            match rule.expressions.last() {
                _ if asked.is_some_and(|(asked, _)| asked != protocol) => {}
                Some(Expr::Verdict(Verdict::Goto(to))) => {
                    all.extend(met(chains, to, protocol));
                    // It does not come back.
                    return all;
                }
                _ => all.push(rule.identity.clone()),
            }
        }
        all
    }

    #[test]
    fn every_packet_meets_the_same_rules_in_the_same_order() {
        let protocols = [6, 6, 6, 6, 0, 17, 17, 6, 6, 132, 17, 6, 17, 6];
        let asked = |protocol: &u8| Some(*protocol).filter(|protocol| *protocol != 0);
        let numbered = protocols.iter().enumerate();
        let rules: Vec<_> = numbered.map(|(n, protocol)| rule(n, asked(protocol))).collect();
        let chains = split("c", rules.clone());
        let names: Vec<_> = chains.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["c//udp", "c//tcp", "c"]);
        let unsplit = [("c".to_owned(), ChainDef { base: None, rules: rules.clone() })];
        for protocol in [1, 6, 17, 132] {
            assert_eq!(met(&chains, "c", protocol), met(&unsplit, "c", protocol), "{protocol}");
        }
        let (part, chain) = &chains[1];
        assert_eq!(outside(part, &chain.rules[0]), rules[7]);
        assert_eq!((whole_of(part), is_part(part), is_part("c")), ("c", true, false));
    }

    #[test]
    fn few_rules_stay_together() {
        let rules: Vec<_> = (0..3).map(|n| rule(n, Some(6))).collect();
        assert_eq!(split("c", rules.clone()), [("c".to_owned(), ChainDef { base: None, rules })]);
    }
}
