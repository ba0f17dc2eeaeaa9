use super::*;
use crate::resource::{Field as _, IpPoolSpec, Rule};

#[test]
fn names_and_types_come_from_the_struct_and_limits_from_the_file() {
    let schema = IpPoolSpec::schema();
    let of = |field: &str| &schema["properties"][field];
    assert_eq!(of("cidr")["type"], "string");
    assert_eq!(of("cidr")["description"], "The range; cannot change after creation.");
    assert_eq!(of("ipipMode")["enum"], json!(["Never", "Always", "CrossSubnet"]));
    assert_eq!(of("nodeSelector")["default"], "all()");
    assert_eq!(of("blockSize")["description"], "Prefix length of the blocks given to nodes");
    assert_eq!(schema["required"], json!(["cidr"]));
    let ports = &Rule::schema()["properties"]["source"]["properties"]["ports"];
    assert_eq!(ports["items"]["x-kubernetes-int-or-string"], true);
}

#[test]
fn limits_are_readable() {
    for (name, fields) in LIMITS.as_object().unwrap() {
        assert!(name.starts_with(char::is_uppercase) && fields.is_object(), "{name}");
    }
}

#[test]
fn editors_get_closed_schemas() {
    let schema = json_schema(crate::Kind::NetworkPolicy);
    assert_eq!(schema["properties"]["spec"]["additionalProperties"], false);
    assert!(!schema.to_string().contains("x-kubernetes"));
    assert_eq!(schema["properties"]["kind"]["const"], "NetworkPolicy");
}
