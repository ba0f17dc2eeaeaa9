//! The table of the node agent's parameters says what upstream's does.

use std::fs;
use std::path::Path;

use calico_core::felix::{Form, PARAMETERS, Parameter};
use serde_json::Value;

#[test]
fn upstream_has_the_same() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/reference/upstream-data/felix-config-params.json");
    let Ok(text) = fs::read_to_string(&data) else {
        eprintln!("NOT COMPARED: {} is absent; put upstream's table there", data.display());
        return;
    };
    let table: Value = serde_json::from_str(&text).unwrap();
    let groups = table["Groups"].as_array().unwrap();
    let mut count = 0;
    let mut differences = Vec::new();
    for theirs in groups.iter().flat_map(|group| group["Fields"].as_array().unwrap()) {
        let text = |key: &str| theirs[key].as_str().unwrap_or_default();
        if text("AllowedConfigSources") != "All" || text("NameYAML").is_empty() {
            continue;
        }
        count += 1;
        let Some(ours) = Parameter::by_field(text("NameYAML")) else {
            differences.push(format!("{} is missing", text("NameYAML")));
            continue;
        };
        let same_form = match text("ParsedType") {
            "bool" | "*bool" => ours.form == Form::Bool,
            "int" => ours.form == Form::Integer,
            "time.Duration" => matches!(ours.form, Form::Seconds | Form::Millis),
            "uint32" => ours.form == Form::Bits,
            _ => !matches!(ours.form, Form::Bool | Form::Integer | Form::Seconds),
        };
        if !ours.local.eq_ignore_ascii_case(text("NameConfigFile"))
            || !ours.default.eq_ignore_ascii_case(text("StringDefault"))
            || ours.vital != (text("OnParseFailure") == "Exit")
            || !same_form
        {
            differences.push(format!("{ours:?} differs from {theirs}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(count, PARAMETERS.len());
}
