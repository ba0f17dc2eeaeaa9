//! Filters and prefix lists of the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_bgp::filter::{
    Action, AnyCommunity, Condition, Filter, InterfacePattern, Operation, PrefixMatch, Rule,
};
use calico_bgp::rib::{Policy, PrefixList, PrefixRule};
use calico_bgp::wire::Family;
use ipnet::IpNet;

use super::document::{Located, Table};
use super::options::Names;
use super::similar::nearest;
use super::values::{ActionWord, OtherwiseWord, PeerWord, SourceWord};

/// A name that stands for a filter that nothing passes.
const REJECT_ALL: &str = "reject-all";

/// The filters by their names.
#[derive(Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Named>);

/// A filter, with what a person calls each of its rules.
#[derive(Debug)]
struct Named {
    rules: Vec<(Rule, String)>,
}

impl Filters {
    /// Reads `[filter.NAME]` and `[[prefix_list.NAME]]`.
    pub(crate) fn read(root: &mut Table<'_, '_>) -> Self {
        let lists: BTreeMap<String, PrefixList> = root
            .named_lists("prefix_list")
            .into_iter()
            .map(|(name, lines)| (name.value, prefix_list(lines)))
            .collect();
        let mut filters = BTreeMap::new();
        for (name, mut table) in root.named("filter") {
            if name.value == REJECT_ALL {
                name.problem("this name is taken by what it says; use another");
            }
            let mut rules = Vec::new();
            for (at, mut rule) in table.tables("rule").into_iter().enumerate() {
                let label = format!("filter {}, rule {}", name.value, at + 1);
                rules.extend(self::rule(&mut rule, &lists).map(|rule| (rule, label)));
                rule.finish();
            }
            if let Some(OtherwiseWord::Reject) = table.get("otherwise").map(|found| found.value) {
                let rule = Rule { conditions: Vec::new(), action: Action::Reject };
                rules.push((rule, format!("filter {}, otherwise", name.value)));
            }
            table.finish();
            filters.insert(name.value, Named { rules });
        }
        Self(filters)
    }

    /// The policy of a session: filters one after the other, of which the first rule that
    /// matches decides.
    pub(crate) fn policy(&self, names: Option<&Names<'_, '_>>) -> Policy {
        let Some(names) = names.filter(|names| !names.value.is_empty()) else {
            return Policy::AcceptAll;
        };
        let mut filter = Filter::default();
        for name in &names.value {
            if name.value == REJECT_ALL {
                return Policy::RejectAll;
            }
            let Some(found) = self.0.get(&name.value) else {
                name.problem(self.unknown(&name.value));
                continue;
            };
            for (rule, label) in &found.rules {
                filter.rules.push(rule.clone());
                filter.labels.push(label.as_str().into());
            }
        }
        Policy::Filter(Arc::new(filter))
    }

    fn unknown(&self, name: &str) -> String {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        match nearest(name, &names) {
            Some(similar) => format!("there is no filter {name:?}; did you mean {similar:?}?"),
            None => format!("there is no filter {name:?}; write it as [filter.{name}]"),
        }
    }
}

fn prefix_list(lines: Vec<Table<'_, '_>>) -> PrefixList {
    let mut rules = Vec::new();
    for mut line in lines {
        let permit: Option<Located<'_, '_, IpNet>> = line.get("permit");
        let deny: Option<Located<'_, '_, IpNet>> = line.get("deny");
        if line.has("permit") == line.has("deny") {
            line.problem("write either permit or deny, with a prefix");
        }
        let is_permit = permit.is_some();
        if let Some(prefix) = permit.or(deny)
            && let Some((min_len, max_len)) = lengths(&mut line, &prefix)
        {
            rules.push(PrefixRule { prefix: prefix.value, min_len, max_len, permit: is_permit });
        } else {
            // So that they are known.
            let _: (Option<Located<'_, '_, u8>>, Option<Located<'_, '_, u8>>) =
                (line.get("ge"), line.get("le"));
        }
        line.finish();
    }
    PrefixList { rules }
}

/// `ge` and `le` as routers have them: without both the prefix itself; with one, from its length
/// or up to the longest.
fn lengths(table: &mut Table<'_, '_>, prefix: &Located<'_, '_, IpNet>) -> Option<(u8, u8)> {
    let ge: Option<Located<'_, '_, u8>> = table.get("ge");
    let le: Option<Located<'_, '_, u8>> = table.get("le");
    let (len, longest) = (prefix.value.prefix_len(), prefix.value.max_prefix_len());
    let min = ge.as_ref().map_or(len, |ge| ge.value);
    let most = if ge.is_some() { longest } else { len };
    let max = le.as_ref().map_or(most, |le| le.value);
    if min < len {
        ge?.problem(format!("is shorter than {}; use {len} or more", prefix.value));
        return None;
    }
    if max > longest || max < min {
        le.or(ge)?
            .problem(format!("no prefix in {} is so long; use {min} to {longest}", prefix.value));
        return None;
    }
    Some((min, max))
}

fn rule(table: &mut Table<'_, '_>, lists: &BTreeMap<String, PrefixList>) -> Option<Rule> {
    let mut conditions = Vec::new();
    if let Some(prefix) = table.get::<IpNet>("prefix") {
        let (min, max) = lengths(table, &prefix).unwrap_or_default();
        let found = PrefixMatch::within(prefix.value).lengths(min..=max);
        let not = table.get::<bool>("not").is_some_and(|not| not.value);
        conditions.push(Condition::Prefix(if not { found.negated() } else { found }));
    } else if ["ge", "le", "not"].iter().any(|key| table.has(key)) {
        table.problem("ge, le and not say more about a prefix; add `prefix = \"10.0.0.0/8\"`");
        let _: (Option<Located<'_, '_, u8>>, Option<Located<'_, '_, u8>>) =
            (table.get("ge"), table.get("le"));
        let _: Option<Located<'_, '_, bool>> = table.get("not");
    }
    if let Some(name) = table.get::<String>("prefix_list") {
        match lists.get(&name.value) {
            Some(list) => conditions.push(Condition::Prefixes(list.clone())),
            None => {
                let name_of = &name.value;
                name.problem(format!(
                    "there is no prefix list {name_of:?}; write it as [[prefix_list.{name_of}]]"
                ));
            }
        }
    }
    conditions.extend(table.get::<Family>("family").map(|f| Condition::Family(f.value)));
    conditions.extend(table.get::<SourceWord>("source").map(|source| match source.value {
        SourceWord::Learned => Condition::Learned,
        SourceWord::Local => Condition::Local,
    }));
    conditions
        .extend(table.get::<InterfacePattern>("interface").map(|i| Condition::Interface(i.value)));
    conditions.extend(table.get::<PeerWord>("peer").map(|peer| match peer.value {
        PeerWord::External => Condition::ExternalPeer,
        PeerWord::Internal => Condition::InternalPeer,
    }));
    conditions.extend(each(table, "communities").into_iter().map(Condition::Community));
    if let Some(path) = table.list::<u32>("as_path_prefix") {
        let path = path.value.iter().map(|asn| asn.value).collect();
        conditions.push(Condition::AsPathPrefix(path));
    }
    conditions.extend(table.get("as_path_contains").map(|a| Condition::AsPathContains(a.value)));
    conditions.extend(table.get("local_pref").map(|l| Condition::LocalPref(l.value)));
    conditions.extend(table.get("local_pref_above").map(|l| Condition::LocalPrefAbove(l.value)));

    let mut operations = Vec::new();
    operations.extend(each(table, "add_communities").into_iter().map(Operation::AddCommunity));
    operations
        .extend(each(table, "remove_communities").into_iter().map(Operation::RemoveCommunity));
    if let Some(path) = table.list::<u32>("prepend") {
        operations.push(Operation::PrependAsPath(path.value.iter().map(|asn| asn.value).collect()));
    }
    operations.extend(table.get("set_local_pref").map(|l| Operation::SetLocalPref(l.value)));
    operations.extend(table.get("set_med").map(|m| Operation::SetMed(m.value)));

    let action: Located<'_, '_, ActionWord> = table.need("action", "\"accept\"")?;
    let action = match action.value {
        ActionWord::Accept => Action::Accept(operations),
        ActionWord::Change => Action::Change(operations),
        ActionWord::Reject if operations.is_empty() => Action::Reject,
        ActionWord::Reject => {
            action.problem("a route that is rejected cannot be changed; leave out the changes");
            return None;
        }
    };
    Some(Rule { conditions, action })
}

fn each(table: &mut Table<'_, '_>, key: &'static str) -> Vec<AnyCommunity> {
    let found = table.list::<AnyCommunity>(key);
    found.into_iter().flat_map(|list| list.value).map(|item| item.value).collect()
}
