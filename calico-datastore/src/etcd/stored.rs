//! The form in which values are stored.
//!
//! Upstream blanks `metadata.resourceVersion` and `metadata.selfLink` of a resource before it is
//! written: the version is the key's `mod_revision`, which no value can know in advance. Every
//! other byte is kept as it was given.

use std::borrow::Cow;
use std::ops::Range;

use calico_core::key::Key;
use serde::de::IgnoredAny;

/// Members of `metadata` that are never stored.
const BLANKED: [&str; 2] = ["resourceVersion", "selfLink"];

/// The value of `key` as it is written.
pub(super) fn to_stored<'a>(key: &Key, value: &'a str) -> Cow<'a, str> {
    let concerned = key.kind().is_some() && BLANKED.iter().any(|name| value.contains(name));
    // What is no JSON is stored as it is: the store keeps what it is given.
    if !concerned || serde_json::from_str::<IgnoredAny>(value).is_err() {
        return Cow::Borrowed(value);
    }
    without_blanked(value).map_or(Cow::Borrowed(value), Cow::Owned)
}

/// The value of `key` as it is read. Upstream takes an empty affinity for `{}`.
pub(super) const fn from_stored<'a>(key: &Key, value: &'a str) -> &'a str {
    match key {
        Key::Affinity { .. } if value.is_empty() => "{}",
        _ => value,
    }
}

/// A member of a JSON object: where it is in the text, and where its value is.
struct Member<'a> {
    key: &'a str,
    whole: Range<usize>,
    value: Range<usize>,
}

/// `text`, which is valid JSON, without the members that are never stored; `None` if it has none.
fn without_blanked(text: &str) -> Option<String> {
    let (object, _) = members(text, skip_space(text, 0))?;
    let metadata = object.into_iter().find(|member| member.key == "metadata")?.value;
    let (fields, _) = members(text, metadata.start)?;
    let kept: Vec<&str> = fields
        .iter()
        .filter(|member| !BLANKED.contains(&member.key))
        .map(|member| &text[member.whole.clone()])
        .collect();
    if kept.len() == fields.len() {
        return None;
    }
    let (before, after) = (&text[..metadata.start], &text[metadata.end..]);
    Some(format!("{before}{{{}}}{after}", kept.join(",")))
}

/// The members of the object that starts at `at`, and where it ends; `None` if none starts there.
fn members(text: &str, at: usize) -> Option<(Vec<Member<'_>>, usize)> {
    let bytes = text.as_bytes();
    let mut at = (bytes.get(at) == Some(&b'{')).then_some(at + 1)?;
    let mut found = Vec::new();
    loop {
        at = skip_space(text, at);
        match bytes.get(at)? {
            b'}' => return Some((found, at + 1)),
            b',' => at += 1,
            _ => {
                let start = at;
                let key_end = skip_value(text, at)?;
                let value_start = skip_space(text, skip_space(text, key_end) + 1);
                at = skip_value(text, value_start)?;
                let key = text.get(start + 1..key_end - 1)?;
                found.push(Member { key, whole: start..at, value: value_start..at });
            }
        }
    }
}

/// Where the value that starts at `at` ends.
fn skip_value(text: &str, at: usize) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (offset, byte) in text.as_bytes().get(at..)?.iter().enumerate() {
        let end = at + offset;
        if in_string {
            match (escaped, byte) {
                (true, _) => escaped = false,
                (false, b'\\') => escaped = true,
                (false, b'"') if depth == 0 => return Some(end + 1),
                (false, b'"') => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            // The end of what encloses a number or a word, or of the value itself.
            b'}' | b']' if depth == 0 => return Some(end),
            b'}' | b']' if depth == 1 => return Some(end + 1),
            b'}' | b']' => depth -= 1,
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return Some(end),
            _ => {}
        }
    }
    None
}

fn skip_space(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

#[cfg(test)]
mod tests {
    use calico_core::kind::Kind;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn check(given: &str, stored: &str) {
        assert_eq!(to_stored(&Key::resource(Kind::IpPool, None, "a"), given), stored);
    }

    #[test]
    fn the_version_is_not_stored_and_every_other_byte_is() {
        check(
            r#"{"kind":"IPPool","metadata":{"name":"a","resourceVersion":"7"},"spec":{"x": 1.50}}"#,
            r#"{"kind":"IPPool","metadata":{"name":"a"},"spec":{"x": 1.50}}"#,
        );
        check(
            r#" { "metadata" : { "selfLink" : "/a" , "resourceVersion":null, "uid" : "}\"," } } "#,
            r#" { "metadata" : {"uid" : "}\","} } "#,
        );
        check(r#"{"metadata":{"resourceVersion":"7"}}"#, r#"{"metadata":{}}"#);
        check(
            r#"{"spec":{"metadata":{"resourceVersion":"7"}},"metadata":{"generation":3,"selfLink":""}}"#,
            r#"{"spec":{"metadata":{"resourceVersion":"7"}},"metadata":{"generation":3}}"#,
        );
    }

    #[test]
    fn what_has_no_such_member_is_stored_as_it_is() {
        for text in [
            "",
            "resourceVersion",
            r#"{"metadata":{"resourceVersion":"7"}"#,
            r#"["resourceVersion"]"#,
            r#"{"metadata":["resourceVersion"]}"#,
            r#"{"metadata":"resourceVersion"}"#,
            r#"{"metadata":{"labels":{"resourceVersion":"7"}}}"#,
        ] {
            check(text, text);
        }
        let block = r#"{"metadata":{"resourceVersion":"7"}}"#;
        assert_eq!(to_stored(&Key::Handle("h".into()), block), block, "no resource");
    }

    #[test]
    fn an_empty_affinity_is_read_as_upstream_reads_it() {
        let key: Key = "/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-26".parse().unwrap();
        assert_eq!(from_stored(&key, ""), "{}");
        assert_eq!(from_stored(&key, "{\"state\":\"x\"}"), "{\"state\":\"x\"}");
        assert_eq!(from_stored(&Key::IpamHost("n".into()), ""), "");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof!["resourceVersion", "selfLink", "metadata", "[a\"{}\\\\,:]{0,3}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a\"{}\\[\\]\\\\,: \u{e9}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn exactly_two_members_go(metadata in any_json(), spec in any_json(), pretty: bool) {
            let given = json!({"spec": spec, "metadata": metadata});
            let text = match pretty {
                true => serde_json::to_string_pretty(&given).unwrap(),
                false => given.to_string(),
            };
            let stored = to_stored(&Key::resource(Kind::IpPool, None, "a"), &text).into_owned();
            let mut expected = given;
            if let Value::Object(metadata) = &mut expected["metadata"] {
                metadata.retain(|key, _| !BLANKED.contains(&key.as_str()));
            }
            prop_assert_eq!(serde_json::from_str::<Value>(&stored).unwrap(), expected);
        }

        #[test]
        fn no_text_panics(text in "[\\PC\"{}\\[\\],: ]{0,40}") {
            to_stored(&Key::resource(Kind::IpPool, None, "a"), &format!("{text}resourceVersion"));
            without_blanked(&text);
        }
    }
}
