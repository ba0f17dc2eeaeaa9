//! Parsing, evaluation, canonical text, restrictions and rewriting.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::resource::{
    EntityRule, GlobalNetworkPolicySpec, NetworkPolicySpec, ServiceAccountMatch,
};

fn parse(text: &str) -> Selector {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// `labels` is written `k=v,k=v`.
fn check_match(text: &str, labels: &str, expected: bool) {
    let labels: Vec<(&str, &str)> =
        labels.split(',').filter_map(|pair| pair.split_once('=')).collect();
    let selector = parse(text);
    assert_eq!(selector.matches(labels.as_slice()), expected, "{text} on {labels:?}");
    assert_eq!(parse(&selector.to_string()), selector, "{text} printed and parsed");
}

#[test]
fn evaluation() {
    for (text, yes, no) in [
        ("app == 'web'", &["app=web", "app=web,x=y"][..], &["", "app=db", "x=web"][..]),
        ("app != 'web'", &["", "app=db"], &["app=web"]),
        ("app in {'web', \"db\"}", &["app=web", "app=db"], &["", "app=x"]),
        ("app in {}", &[], &["", "app=x"]),
        ("app not in {'web','db'}", &["", "app=x"], &["app=web", "app=db"]),
        ("app notin{'web',}", &["", "app=x"], &["app=web"]),
        ("app contains 'e'", &["app=web", "app=e"], &["", "app=x"]),
        ("app starts with 'we'", &["app=web", "app=we"], &["", "app=ewe"]),
        ("app startswith'we'", &["app=web"], &["app=x"]),
        ("app ends \t with 'eb'", &["app=web"], &["", "app=ebb"]),
        ("has(app)", &["app=", "app=x"], &["", "x=app"]),
        ("has( app\t)", &["app=x"], &[""]),
        ("all()", &["", "a=b"], &[]),
        ("global()", &["", "a=b"], &[]),
        ("", &["", "a=b"], &[]),
        (" \t", &["", "a=b"], &[]),
        ("!has(a)", &["b=a"], &["a=b"]),
        ("!!has(a)", &["a=b"], &["b=a"]),
        ("! ! !has(a)", &["b=a"], &["a=b"]),
        ("!a == 'x' && b == 'y'", &["a=1,b=y", "b=y"], &["a=x,b=y", "a=1"]),
        ("a == 'x' || b == 'y' && c == 'z'", &["a=x", "b=y,c=z"], &["b=y", "c=z"]),
        ("(a == 'x' || b == 'y') && c == 'z'", &["a=x,c=z"], &["a=x", "c=z"]),
        ("!(has(a) || !has(b))", &["b=1"], &["a=1,b=1", ""]),
        // Words are operators after a label only, and functions with their parenthesis only.
        ("in == 'x'", &["in=x"], &["in=y"]),
        ("has == 'x' && all != 'y'", &["has=x"], &["has=x,all=y"]),
        ("a.b/c-d_e == 'x'", &["a.b/c-d_e=x"], &["a=x"]),
    ] {
        yes.iter().for_each(|labels| check_match(text, labels, true));
        no.iter().for_each(|labels| check_match(text, labels, false));
    }
}

fn check_error(text: &str, column: usize, expected_part: &str) {
    match text.parse::<Selector>() {
        Err(SelectorError::Syntax { column: found, expected, .. }) => {
            assert_eq!(found, column, "{text}");
            assert!(expected.contains(expected_part), "{text}: {expected}");
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn errors_say_where_and_what_was_expected() {
    check_error("app = 'web'", 5, "==");
    check_error("app == web", 8, "text in quotes");
    check_error("app", 4, "==");
    check_error("app web", 5, "operator");
    check_error("app starts 'x'", 5, "operator");
    check_error("a == 'b' &", 10, "&&");
    check_error("a == 'b' && ", 13, "label");
    check_error("a == 'b' %", 10, "label");
    check_error("a == 'b' c == 'd'", 10, "&&");
    check_error("'b' == a", 1, "label");
    check_error("(a == 'b'", 10, ")");
    check_error("()", 2, "label");
    check_error(")", 1, "label");
    check_error("!", 2, "label");
    check_error("a in 'b'", 6, "set");
    check_error("a in {'b' 'c'}", 11, "}");
    check_error("a == 'ü' && b == 'x", 18, "closing quote");
    check_error("has()", 5, "name");
    check_error("has(a", 6, ")");
    check_error("has (a)", 5, "");
    check_error("all( x)", 6, ")");
}

#[test]
fn bounds() {
    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert!(nested(MAX_DEPTH).parse::<Selector>().is_ok());
    assert_eq!(
        nested(MAX_DEPTH + 1).parse::<Selector>(),
        Err(SelectorError::TooDeep { column: MAX_DEPTH + 1 })
    );
    let long = " ".repeat(MAX_LENGTH + 1);
    assert_eq!(long.parse::<Selector>(), Err(SelectorError::TooLong { length: MAX_LENGTH + 1 }));
    let many = format!("{}has(a)", "!".repeat(MAX_LENGTH - 6));
    assert!(many.parse::<Selector>().is_ok(), "negations do not nest");
    let name = "a".repeat(512);
    assert!(format!("has({name})").parse::<Selector>().is_ok());
    assert!(format!("has({name}a)").parse::<Selector>().is_err());
}

fn check_canonical(text: &str, canonical: &str) {
    assert_eq!(parse(text).to_string(), canonical);
}

#[test]
fn canonical_text() {
    check_canonical("", "all()");
    check_canonical(" ( all( ) )", "all()");
    check_canonical("! (has( b)||! has(a ))", "!(has(b) || !has(a))");
    check_canonical("a=='\"'", "a == '\"'");
    check_canonical("a startswith \"'\"", "a starts with \"'\"");
    check_canonical("a in {'z', 'b', 'z', 'a'}", r#"a in {"a", "b", "z"}"#);
    check_canonical("a notin {}", "a not in {}");
    check_canonical("a=='1'&&(b=='2'&&c=='3')", r#"(a == "1" && (b == "2" && c == "3"))"#);
    check_canonical("!(!has(a))", "has(a)");
}

#[cfg(feature = "digests")]
#[test]
fn unique_ids_are_those_of_upstream() {
    // Published in upstream's parser tests.
    for (text, id) in [
        ("", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),
        ("! (has( b)||! has(a ))", "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q"),
        ("! (a == \"b\"&&! c != \"d\")", "s:lh3haoY1ikTRkd4UZu0nWSaIBknYLPJLX16d-w"),
    ] {
        assert_eq!(parse(text).unique_id(), id, "{text}");
    }
}

/// `expected`: label, then `+` present or `-` absent, then `=a|b` if values are limited.
fn check_restrictions(text: &str, expected: &[&str]) {
    let selector = parse(text);
    let found: Vec<String> = selector
        .label_restrictions()
        .iter()
        .map(|(name, restriction)| {
            let mut out = (*name).to_owned();
            out.extend(restriction.present.then_some('+'));
            out.extend(restriction.absent.then_some('-'));
            if let Some(values) = &restriction.one_of {
                out.push('=');
                out.push_str(&values.iter().copied().collect::<Vec<_>>().join("|"));
            }
            out
        })
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn restrictions() {
    check_restrictions("all()", &[]);
    check_restrictions("a == 'x'", &["a+=x"]);
    check_restrictions("a in {'y', 'x'}", &["a+=x|y"]);
    check_restrictions("a contains 'x' && has(b)", &["a+", "b+"]);
    check_restrictions("a != 'x' && b not in {'y'}", &[]);
    check_restrictions("a == 'x' && a == 'y'", &["a+="]);
    check_restrictions("a in {'x','y'} && a in {'y','z'}", &["a+=y"]);
    check_restrictions("has(a) && !has(a)", &["a+-"]);
    check_restrictions("a == 'x' || a == 'y'", &["a+=x|y"]);
    check_restrictions("a == 'x' || has(a)", &["a+"]);
    check_restrictions("a == 'x' || has(b)", &[]);
    check_restrictions("a == 'x' || (has(b) && has(a))", &["a+"]);
    check_restrictions("a == 'x' || all()", &[]);
    check_restrictions("all() || a == 'x'", &[]);
    check_restrictions("!has(a) || !has(a)", &["a-"]);
    check_restrictions("!(a == 'x')", &[]);
    check_restrictions("!(!has(a))", &["a+"]);
}

fn check_entity(entity: EntityRule, namespace: &str, expected: Option<&str>) {
    let found = entity_selector(&entity, namespace).unwrap().map(|s| s.to_string());
    assert_eq!(found.as_deref(), expected, "{entity:?}");
}

#[test]
fn rules_are_limited_to_their_namespace_once_labels_matter() {
    let rule = |selector: &str, namespaces: &str| EntityRule {
        selector: selector.to_owned(),
        namespace_selector: namespaces.to_owned(),
        ..EntityRule::default()
    };
    let home = r#"projectcalico.org/namespace == "blue""#;
    check_entity(rule("", ""), "blue", None);
    check_entity(rule("has(a)", ""), "", Some("has(a)"));
    check_entity(rule("has(a)", ""), "blue", Some(&format!("({home} && has(a))")));
    check_entity(rule("", "has(n)"), "blue", Some("has(pcns.n)"));
    check_entity(
        rule("a == 'x'", "n == 'y' || all()"),
        "blue",
        Some(r#"((pcns.n == "y" || has(projectcalico.org/namespace)) && a == "x")"#),
    );
    check_entity(rule("", "global()"), "", Some("!has(projectcalico.org/namespace)"));
    check_entity(rule("", "!global()"), "", Some("has(projectcalico.org/namespace)"));
    let not = EntityRule { not_selector: "has(a)".to_owned(), ..EntityRule::default() };
    check_entity(not.clone(), "blue", Some(home));
    check_entity(not.clone(), "", None);
    // What is excluded is taken out of what is selected, if anything is.
    let both = EntityRule { not_selector: "has(b)".to_owned(), ..rule("has(a)", "") };
    for (entity, namespace, expected) in [
        (&both, "", [Some("(has(a) && !has(b))".to_owned()), None]),
        (&both, "blue", [Some(format!("(({home} && has(a)) && !has(b))")), None]),
        (&not, "", [None, Some("has(a)".to_owned())]),
        (&not, "blue", [Some(format!("({home} && !has(a))")), None]),
    ] {
        let (selected, excluded) = entity_selectors(entity, namespace).unwrap();
        assert_eq!([selected, excluded].map(|it| it.map(|it| it.to_string())), expected);
    }
    let accounts = |names: &[&str], selector: &str| EntityRule {
        service_accounts: Some(ServiceAccountMatch {
            names: names.iter().map(ToString::to_string).collect(),
            selector: selector.to_owned(),
            ..ServiceAccountMatch::default()
        }),
        ..EntityRule::default()
    };
    check_entity(
        accounts(&["b", "a"], "k == 'v'"),
        "blue",
        Some(&format!(
            r#"({home} && (pcsa.k == "v" && projectcalico.org/serviceaccount in {{"a", "b"}}))"#
        )),
    );
    check_entity(accounts(&[], ""), "blue", None);
    assert_eq!(
        entity_selector(&rule("a = 'x'", ""), "").unwrap_err().to_string(),
        "selector: column 3: expected `==`, found `=`"
    );
}

#[test]
fn policies_select_by_namespace_and_service_account() {
    let spec = NetworkPolicySpec {
        selector: "a == 'x' || has(b)".to_owned(),
        service_account_selector: "role == 'db'".to_owned(),
        ..NetworkPolicySpec::default()
    };
    assert_eq!(
        policy_selector(&spec, "blue").unwrap().to_string(),
        r#"(((a == "x" || has(b)) && projectcalico.org/namespace == "blue") && pcsa.role == "db")"#
    );
    let check = |selector: &str, namespaces: &str, accounts: &str, expected: &str| {
        let spec = GlobalNetworkPolicySpec {
            selector: selector.to_owned(),
            namespace_selector: namespaces.to_owned(),
            service_account_selector: accounts.to_owned(),
            ..GlobalNetworkPolicySpec::default()
        };
        assert_eq!(global_policy_selector(&spec).unwrap().to_string(), expected);
    };
    check("", "", "", "all()");
    check("has(a)", "", "", "has(a)");
    check("", "all()", "", "has(projectcalico.org/namespace)");
    check("all()", "has(n)", "", "(has(projectcalico.org/namespace) && has(pcns.n))");
    check("has(a)", "", "all()", "(has(a) && has(projectcalico.org/serviceaccount))");
}

/// Any expression the parser can make.
fn exprs() -> impl Strategy<Value = Expr> {
    let name = || "[a-zA-Z0-9_./-]{1,5}".prop_map(String::into_boxed_str);
    let value = || prop_oneof!["[^\"]{0,4}", "[^']{0,4}"].prop_map(String::into_boxed_str);
    let values = || prop::collection::vec(value(), 0..4).prop_map(expr::set);
    let leaf = prop_oneof![
        Just(Expr::All),
        Just(Expr::Global),
        name().prop_map(Expr::Has),
        (name(), value()).prop_map(|(n, v)| Expr::Equal(n, v)),
        (name(), value()).prop_map(|(n, v)| Expr::NotEqual(n, v)),
        (name(), value()).prop_map(|(n, v)| Expr::Contains(n, v)),
        (name(), value()).prop_map(|(n, v)| Expr::StartsWith(n, v)),
        (name(), value()).prop_map(|(n, v)| Expr::EndsWith(n, v)),
        (name(), values()).prop_map(|(n, v)| Expr::In(n, v)),
        (name(), values()).prop_map(|(n, v)| Expr::NotIn(n, v)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Expr::negate),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

proptest! {
    #[test]
    fn canonical_text_parses_to_the_same(expr in exprs()) {
        let text = expr.to_string();
        prop_assert_eq!(text.parse::<Selector>(), Ok(Selector::from(expr)), "{}", text);
    }

    #[test]
    fn no_text_panics(text in "[ab=!&|(){}'\",. \tintwhcosegl()]{0,40}|\\PC{0,40}") {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
        }
    }

    #[test]
    fn what_matches_satisfies_the_restrictions(
        expr in exprs(),
        labels in prop::collection::btree_map("[a-c]", "[a-c]{0,2}", 0..3),
    ) {
        let small = |text: &str| text.bytes().next().map_or('a', |b| char::from(b'a' + b % 3));
        let selector: Selector = expr.map_leaves(&|leaf| match leaf {
            Expr::Has(name) => Expr::has(small(name).to_string()),
            Expr::Equal(name, value) => Expr::equal(small(name).to_string(), small(value).to_string()),
            Expr::In(name, values) => {
                Expr::one_of(small(name).to_string(), values.iter().map(|v| small(v).to_string()))
            }
            _ => Expr::has("a"),
        }).into();
        let labels: BTreeMap<String, String> = labels;
        if selector.matches(&labels) {
            for (name, restriction) in selector.label_restrictions() {
                let value = labels.get(name);
                prop_assert!(!restriction.present || value.is_some());
                prop_assert!(!restriction.absent || value.is_none());
                if let (Some(values), Some(value)) = (restriction.one_of, value) {
                    prop_assert!(values.contains(value.as_str()));
                }
            }
        }
    }
}
