//! Chains in parts: rules for the same protocol stand in a chain of their own, which is jumped to
//! once. A packet of another protocol passes them all by with one comparison, and none of them has
//! to ask for the protocol: the kernel takes fewer expressions, which is most of what a rule costs
//! it.

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
pub fn split(name: &str, rules: Vec<RuleDef>) -> Vec<(String, ChainDef)> {
    let mut whole = Vec::new();
    let mut parts = Vec::new();
    let mut run: Vec<(Protocol, RuleDef)> = Vec::new();
    for rule in rules {
        match protocol_of(&rule) {
            Some(protocol) => run.push((protocol, rule)),
            None => {
                end_of_run(name, std::mem::take(&mut run), &mut whole, &mut parts);
                whole.push(rule);
            }
        }
    }
    end_of_run(name, run, &mut whole, &mut parts);
    parts.push((name.to_owned(), ChainDef { base: None, rules: whole }));
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
    let part = chain.split(SEPARATOR).nth(1).and_then(|part| part.split('.').next());
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

/// No packet meets rules of two protocols, so that within a run these change places.
fn end_of_run(
    name: &str,
    run: Vec<(Protocol, RuleDef)>,
    whole: &mut Vec<RuleDef>,
    parts: &mut Vec<(String, ChainDef)>,
) {
    let mut groups: Vec<(Protocol, Vec<RuleDef>)> = Vec::new();
    for (protocol, rule) in run {
        match groups.iter_mut().find(|(of, _)| *of == protocol) {
            Some((_, rules)) => rules.push(rule),
            None => groups.push((protocol, vec![rule])),
        }
    }
    for ((number, protocol), mut rules) in groups {
        if rules.len() < FEWEST {
            whole.extend(rules);
            continue;
        }
        let mut part = format!("{name}{SEPARATOR}{protocol}");
        if let earlier @ 1.. = parts.iter().filter(|(other, _)| other.starts_with(&part)).count() {
            part.push_str(&format!(".{earlier}"));
        }
        for rule in &mut rules {
            rule.expressions.drain(..2);
        }
        let mut expressions = matches(number).to_vec();
        expressions.push(Expr::Verdict(Verdict::Jump(part.clone())));
        whole.push(RuleDef { identity: String::new(), expressions });
        parts.push((part, ChainDef { base: None, rules }));
    }
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
                Some(Expr::Verdict(Verdict::Jump(to))) => all.extend(met(chains, to, protocol)),
                _ => all.push(rule.identity.clone()),
            }
        }
        all
    }

    #[test]
    fn every_packet_meets_the_same_rules_in_the_same_order() {
        let protocols = [6, 6, 17, 6, 6, 0, 6, 6, 6, 6, 17, 17, 0, 17, 6, 17, 17, 6, 17];
        let rules: Vec<_> = protocols
            .iter()
            .enumerate()
            .map(|(n, protocol)| rule(n, Some(*protocol).filter(|protocol| *protocol != 0)))
            .collect();
        let chains = split("c", rules.clone());
        let names: Vec<_> = chains.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["c//tcp", "c//tcp.1", "c//udp", "c"]);
        for protocol in [6, 17, 132] {
            let expected = met(
                &[("c".to_owned(), ChainDef { base: None, rules: rules.clone() })],
                "c",
                protocol,
            );
            assert_eq!(met(&chains, "c", protocol), expected, "protocol {protocol}");
        }
        let (part, chain) = &chains[1];
        assert_eq!(outside(part, &chain.rules[0]), rules[6]);
        assert_eq!((whole_of(part), is_part(part), is_part("c")), ("c", true, false));
    }

    #[test]
    fn few_rules_stay_together() {
        let rules: Vec<_> = (0..3).map(|n| rule(n, Some(6))).collect();
        assert_eq!(split("c", rules.clone()), [("c".to_owned(), ChainDef { base: None, rules })]);
    }
}
