//! Reading and writing of whole manifests.

use super::*;

fn check(text: &str, expected: Result<&[&str], &[&str]>) {
    match (read_manifest(text, Mode::Strict), expected) {
        (Ok(found), Ok(names)) => {
            let found: Vec<&str> = found.iter().map(AnyResource::name).collect();
            assert_eq!(found, names, "{text}");
        }
        (Err(found), Err(errors)) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, errors, "{text}");
        }
        (found, _) => panic!("{text}: {found:?}"),
    }
}

const TIER: &str = "apiVersion: projectcalico.org/v3, kind: Tier";

#[test]
fn every_way_to_write_several_resources() {
    let tier = |name: &str| format!("{{{TIER}, metadata: {{name: {name}}}, spec: {{}}}}");
    let (a, b, c) = (tier("a"), tier("b"), tier("c"));
    check("", Ok(&[]));
    check("# only a comment\n---\n---\n", Ok(&[]));
    check(&a, Ok(&["a"]));
    check(&format!("---\n{a}\n---\n# none\n---\n[{b}, {c}]\n"), Ok(&["a", "b", "c"]));
    let list = "apiVersion: projectcalico.org/v3\nkind: TierList\nmetadata: {}\nitems:\n";
    check(&format!("{list}- metadata: {{name: x}}\n- {a}\n"), Ok(&["x", "a"]));
    check(&format!("apiVersion: v1\nkind: List\nitems: [{a}]\n"), Ok(&["a"]));
    let json = r#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"j"}}"#;
    check(json, Ok(&["j"]));
}

#[test]
fn mistakes_are_all_reported_with_their_lines() {
    check(
        "apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: main
spec:
  cidr: 10.0.0.0/40
  natOutgoin: true
---
- kind: Tier
  apiVersion: projectcalico.org/v3
  metadata: {name: t, labels: {a.b/c: 1.10}}
- kind: Gadget
  apiVersion: projectcalico.org/v3
- 7
",
        Err(&[
            "document 1, line 6 (IPPool main): spec.cidr: the text \"10.0.0.0/40\" is no CIDR, such as 10.0.0.0/16 or fd00::/64",
            "document 1, line 7 (IPPool main): spec.natOutgoin: unknown field; \
             did you mean `natOutgoing`?",
            "document 2, line 11 (Tier t): metadata.labels.a.b/c: \
             a text is expected, and YAML takes 1.10 for 1.1; write \"1.10\"",
            "document 2, line 12 (Gadget): kind: \"Gadget\" is no kind of projectcalico.org/v3",
            "document 2, line 14: document: \
             expected a map with kind and metadata, found the number 7",
        ]),
    );
    check(
        "kind: Tier\nkind: Tier\n",
        Err(&["line 2, column 1: duplicate mapping key: kind; remove one of the two"]),
    );
    check("a: [1\nb: 2\n", Err(&["line 2, column 2: illegal placement of ':' indicator"]));
}

#[test]
fn bare_words_are_texts_where_they_look_like_them() {
    let labelled = |word: &str| {
        let text = format!("{{{TIER}, metadata: {{name: t, labels: {{a.b/c: {word}}}}}}}");
        match read_manifest(&text, Mode::Strict) {
            Ok(read) => Ok(read[0].metadata.labels["a.b/c"].clone()),
            Err(errors) => Err(errors[0].to_string()),
        }
    };
    // As upstream's.
    for word in ["1", "0", "-7", "64512", "1.5", "true", "false", "2026-01-02", "a1", "'y'"] {
        assert_eq!(labelled(word).as_deref(), Ok(word.trim_matches('\'')), "{word}");
    }
    // Upstream's tools turn these into another text.
    for (word, meant) in [
        ("y", "true"),
        ("Yes", "true"),
        ("on", "true"),
        ("n", "false"),
        ("off", "false"),
        ("True", "true"),
        ("1.10", "1.1"),
        ("0x10", "16"),
        ("1_000", "1000"),
    ] {
        let error = labelled(word).unwrap_err();
        let expected = format!("YAML takes {word} for {meant}; write \"{word}\"");
        assert!(error.contains(&expected), "{error}");
    }
    assert!(labelled("~").is_err() && labelled("[1]").is_err());
    // Where a boolean is wanted, they all are one.
    for (word, expected) in [("y", true), ("yes", true), ("On", true), ("off", false), ("N", false)]
    {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: 7}}\n\
             spec: {{cidr: 10.0.0.0/16, natOutgoing: {word}}}\n"
        );
        let pool = &read_manifest(&text, Mode::Strict).unwrap()[0];
        assert_eq!(pool.name(), "7");
        assert_eq!(pool.to_value()["spec"]["natOutgoing"], expected, "{word}");
    }
    // Several mistakes, some of which are none.
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {{{TIER}, metadata: {{name: 1}}}}\n\
         - {{{TIER}, metadata: {{name: on}}}}\n- {{{TIER}, metadata: {{name: a}}, spec: {{orde: 1}}}}\n"
    );
    let errors = read_manifest(&list, Mode::Strict).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("line 5") && errors[0].contains("takes on for true"), "{errors:?}");
    assert!(
        errors[1].contains("line 6") && errors[1].contains("did you mean `order`"),
        "{errors:?}"
    );
}

#[test]
fn bounds() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    check(&deep(MAX_MANIFEST_DEPTH), Ok(&[]));
    for depth in [MAX_MANIFEST_DEPTH + 1, 10_000] {
        let errors = read_manifest(&deep(depth), Mode::Strict).unwrap_err();
        assert!(errors[0].to_string().contains("nested deeper than 64"), "{errors:?}");
    }
    let size = MAX_MANIFEST_SIZE + 1;
    assert_eq!(
        read_manifest(&" ".repeat(size), Mode::Strict),
        Err(vec![ManifestError::TooLarge { size }])
    );
}

#[test]
fn yaml_is_written_in_block_style_without_needless_quotes() {
    let yaml = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  labels:
    number: \"12\"
    word: \"true\"
  name: web
spec:
  ingress:
  - action: Allow
    destination:
      ports:
      - 80
      - 90:100
      - http
    protocol: TCP
    source:
      nets:
      - 10.0.0.0/8
      - fd00::/8
      selector: app == 'web' && has(a-rather-long-label-name-to-make-the-line-exceed-eighty-columns)
  order: 100
  selector: all()
";
    let read = read_manifest(yaml, Mode::Strict).unwrap();
    assert_eq!(to_yaml(&read[0].normalised().unwrap()), yaml);
}
