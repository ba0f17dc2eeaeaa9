//! Reading and writing of resources.

use serde_json::{Value, json};

use super::*;

fn check(value: Value, expected: Result<(), &[&str]>) {
    let result = AnyResource::from_value(value.clone(), Mode::Strict);
    match (result, expected) {
        (Ok(resource), Ok(())) => {
            let again = resource.normalised().unwrap();
            assert_eq!(again.to_value(), value, "written as read");
        }
        (Err(errors), Err(expected)) => {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{value}");
        }
        (result, _) => panic!("{value}: {result:?}"),
    }
}

fn document(kind: &str, spec: Value) -> Value {
    json!({
        "kind": kind, "apiVersion": API_VERSION,
        "metadata": {"name": "one", "labels": {"a": "b"}},
        "spec": spec,
    })
}

#[test]
fn strict_reading_reports_everything_at_once() {
    check(
        document("IPPool", json!({"cidr": "10.0.0.0/16", "natOutgoing": true, "blockSize": 26})),
        Ok(()),
    );
    check(
        document("IPPool", json!({"cidr": "10.0.0.0", "natOutgoin": true, "ipipMode": "always"})),
        Err(&[
            "spec.cidr: the text \"10.0.0.0\" is no CIDR, such as 10.0.0.0/16 or fd00::/64",
            "spec.natOutgoin: unknown field; did you mean `natOutgoing`?",
            "spec.ipipMode: \"always\" is not one of Never, Always, CrossSubnet",
        ]),
    );
    check(document("IPPool", json!({})), Err(&["spec.cidr: required, but missing"]));
    check(
        document("IPpool", json!({})),
        Err(&["kind: \"IPpool\" is no kind of projectcalico.org/v3; did you mean IPPool?"]),
    );
    check(
        document(
            "NetworkPolicy",
            json!({
                "order": 10, "ingress": [{
                    "action": "Allow", "protocol": "TCP",
                    "source": {"nets": ["10.0.0.0/8"]}, "destination": {"ports": [80, "90:100", "http"]},
                }],
            }),
        ),
        Ok(()),
    );
    check(
        document("NetworkPolicy", json!({"ingress": [{"action": "Allow", "source": {"net": []}}]})),
        Err(&["spec.ingress[0].source.net: unknown field; did you mean `nets`?"]),
    );
    check(document("FelixConfiguration", json!({"bpfLogLevel": "Info"})), Ok(()));
}

#[test]
fn tolerant_reading_keeps_what_it_does_not_know() {
    let value = json!({
        "kind": "Tier", "apiVersion": API_VERSION,
        "metadata": {"name": "one", "future": 1},
        "spec": {"order": 1.5, "colour": {"a": [1]}},
        "extra": true,
    });
    let tier: Tier = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(tier.spec.order, Some(1.5));
    assert_eq!(serde_json::to_value(&tier).unwrap(), value);
}

#[test]
fn tolerant_errors_name_the_place() {
    let value = document("NetworkPolicy", json!({"ingress": [{"action": "Alow"}]}));
    let error = serde_json::from_value::<NetworkPolicy>(value).unwrap_err();
    assert_eq!(
        error.to_string(),
        "spec.ingress[0].action: \"Alow\" is not one of Allow, Deny, Log, Pass"
    );
}
