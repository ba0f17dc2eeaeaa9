use std::collections::BTreeSet;

use calico_core::selector::Selector;
use proptest::prelude::*;

use super::*;

/// Labels, written `a=1 b=2`.
fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The index beside the naive state it must agree with.
#[derive(Default)]
struct Model {
    names: Interner,
    index: LabelIndex,
    items: BTreeMap<ItemId, (BTreeMap<String, String>, Vec<String>)>,
    parents: BTreeMap<String, BTreeMap<String, String>>,
    queries: BTreeMap<QueryId, Selector>,
    /// As reported by changes.
    reported: BTreeSet<(QueryId, ItemId)>,
}

#[derive(Debug, Clone)]
enum Op {
    Item(ItemId, String, Vec<String>),
    NoItem(ItemId),
    Parent(String, String),
    NoParent(String),
    Query(QueryId, String),
    NoQuery(QueryId),
}

impl Model {
    fn run(&mut self, op: Op) {
        let mut changes = Vec::new();
        let Self { names, index, .. } = self;
        match op {
            Op::Item(id, text, parents) => {
                index.put_item(names, id, pairs(&labels(&text)), &parents, &mut changes);
                self.items.insert(id, (labels(&text), parents));
            }
            Op::NoItem(id) => {
                index.remove_item(names, id, &mut changes);
                self.items.remove(&id);
            }
            Op::Parent(name, text) => {
                index.put_parent(names, &name, Some(&labels(&text)), &mut changes);
                self.parents.insert(name, labels(&text));
            }
            Op::NoParent(name) => {
                index.put_parent(names, &name, None, &mut changes);
                self.parents.remove(&name);
            }
            Op::Query(id, selector) => {
                index.remove_query(names, id);
                self.reported.retain(|(query, _)| *query != id);
                let selector: Selector = selector.parse().unwrap();
                index.add_query(names, id, &selector, &mut changes);
                self.queries.insert(id, selector);
            }
            Op::NoQuery(id) => {
                index.remove_query(names, id);
                self.reported.retain(|(query, _)| *query != id);
                self.queries.remove(&id);
            }
        }
        for change in changes {
            let pair = (change.query, change.item);
            let new = if change.matches {
                self.reported.insert(pair)
            } else {
                self.reported.remove(&pair)
            };
            assert!(new, "{change:?} repeats what was known");
        }
        self.compare();
    }

    /// Every selector against every item's labels, without any index.
    fn compare(&self) {
        let mut expected = BTreeSet::new();
        for (id, (own, parents)) in &self.items {
            let mut all = BTreeMap::new();
            for parent in parents.iter().rev() {
                all.extend(self.parents.get(parent).cloned().unwrap_or_default());
            }
            all.extend(own.clone());
            let matching = self.queries.iter().filter(|(_, selector)| selector.matches(&all));
            expected.extend(matching.map(|(query, _)| (*query, *id)));
        }
        assert_eq!(self.reported, expected);
        for query in self.queries.keys() {
            let items = self.index.items_of(*query).map(|item| (*query, item));
            let wanted = expected.iter().copied().filter(|pair| pair.0 == *query);
            assert!(items.eq(wanted), "items of query {query}");
        }
        for item in self.items.keys() {
            let queries = self.index.queries_of(*item).iter().map(|query| (*query, *item));
            let wanted = expected.iter().copied().filter(|pair| pair.1 == *item);
            assert!(queries.eq(wanted), "queries of item {item}");
        }
    }
}

#[test]
fn own_labels_win_over_inherited_ones_and_earlier_parents_over_later() {
    let mut model = Model::default();
    model.run(Op::Query(0, "env == 'prod'".into()));
    model.run(Op::Item(0, "app=web".into(), vec!["p".into(), "q".into()]));
    model.run(Op::Parent("q".into(), "env=prod".into()));
    assert_eq!(model.index.queries_of(0), [0]);
    model.run(Op::Parent("p".into(), "env=test".into()));
    assert!(model.index.queries_of(0).is_empty());
    model.run(Op::Item(0, "env=prod".into(), vec!["p".into()]));
    assert_eq!(model.index.queries_of(0), [0]);
}

#[test]
fn nothing_is_kept_for_what_is_gone() {
    let mut model = Model::default();
    model.run(Op::Parent("p".into(), "env=test".into()));
    model.run(Op::Item(0, "a=1".into(), vec!["p".into(), "q".into()]));
    model.run(Op::Item(0, "a=2 b=1".into(), vec!["q".into()]));
    model.run(Op::Query(0, "a in {'1', '2'} && !(b contains 'x') || has(env)".into()));
    model.run(Op::NoQuery(0));
    model.run(Op::NoItem(0));
    model.run(Op::NoParent("p".into()));
    assert_eq!(model.names.len(), 0);
    let LabelIndex { items, parents, queries, by_value, by_key, unanchored, mentions, .. } =
        model.index;
    assert!(items.is_empty() && parents.is_empty() && queries.is_empty());
    assert!(by_value.is_empty() && by_key.is_empty() && unanchored.is_empty());
    assert!(mentions.is_empty());
}

fn label_text() -> impl Strategy<Value = String> {
    prop::collection::vec(("[abc]", "[xyz]"), 0..4)
        .prop_map(|pairs| pairs.iter().map(|(key, value)| format!("{key}={value} ")).collect())
}

fn selector() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        ("[abcd]", "[wxyz]").prop_map(|(k, v)| format!("{k} == '{v}'")),
        ("[abcd]", "[wxyz]").prop_map(|(k, v)| format!("{k} != '{v}'")),
        ("[abcd]", "[wxyz]", "[wxyz]").prop_map(|(k, v, w)| format!("{k} in {{'{v}', '{w}'}}")),
        ("[abcd]", "[wxyz]", "[wxyz]").prop_map(|(k, v, w)| format!("{k} not in {{'{v}','{w}'}}")),
        "[abcd]".prop_map(|k| format!("has({k})")),
        ("[abcd]", "[xyz]?").prop_map(|(k, v)| format!("{k} starts with '{v}'")),
        ("[abcd]", "[xyz]?").prop_map(|(k, v)| format!("{k} contains '{v}'")),
        ("[abcd]", "[xyz]?").prop_map(|(k, v)| format!("{k} ends with '{v}'")),
        "[abcd]".prop_map(|k| format!("{k} in {{}}")),
        Just("all()".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4)
                .prop_map(|p| format!("({})", p.join(" && "))),
            prop::collection::vec(inner.clone(), 1..4)
                .prop_map(|p| format!("({})", p.join(" || "))),
            inner.prop_map(|p| format!("!({p})")),
        ]
    })
}

fn op() -> impl Strategy<Value = Op> {
    let parents = prop::collection::btree_set("[pqr]", 0..3);
    prop_oneof![
        4 => (0u32..6, label_text(), parents)
            .prop_map(|(id, labels, parents)| Op::Item(id, labels, parents.into_iter().collect())),
        1 => (0u32..6).prop_map(Op::NoItem),
        2 => ("[pqr]", label_text()).prop_map(|(name, labels)| Op::Parent(name, labels)),
        1 => "[pqr]".prop_map(Op::NoParent),
        4 => (0u32..24, selector()).prop_map(|(id, selector)| Op::Query(id, selector)),
        1 => (0u32..24).prop_map(Op::NoQuery),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_brute_force_after_every_change(
        // Enough queries to be beyond and below the few that are compared one by one.
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let mut model = Model::default();
        for op in ops {
            model.run(op);
        }
    }
}
