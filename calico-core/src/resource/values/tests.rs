//! What is read, and what is written for it.

use serde_json::{Value, json};

use super::*;
use crate::resource::Field;

/// `written` is what becomes of `read`; nothing if it is refused.
fn check<T: Field>(read: Value, written: Option<Value>) {
    let value: Option<T> = serde_json::from_value(read.clone()).ok();
    assert_eq!(value.map(|value| json!(value)), written, "{read}");
}

#[test]
fn ports() {
    check::<Port>(json!(80), Some(json!(80)));
    check::<Port>(json!("80"), Some(json!(80)));
    check::<Port>(json!("80:80"), Some(json!(80)));
    check::<Port>(json!("80:90"), Some(json!("80:90")));
    check::<Port>(json!("http-1.x_Y"), Some(json!("http-1.x_Y")));
    for bad in [json!(65536), json!(-1), json!("90:80"), json!("a:b"), json!("a b"), json!("")] {
        check::<Port>(bad, None);
    }
    check::<Port>(json!("+80:90"), None);
    check::<Port>(json!(1.5), None);
    check::<Port>(json!("x".repeat(129)), None);
}

#[test]
fn protocols() {
    check::<Protocol>(json!("TCP"), Some(json!("TCP")));
    check::<Protocol>(json!("udplite"), Some(json!("UDPLite")));
    check::<Protocol>(json!("6"), Some(json!(6)));
    check::<Protocol>(json!(255), Some(json!(255)));
    for bad in [json!(256), json!("tcp6"), json!(""), json!(true)] {
        check::<Protocol>(bad, None);
    }
    assert_eq!(Protocol::Number(6).number(), Protocol::Tcp.number());
}

#[test]
fn as_numbers() {
    check::<AsNumber>(json!(64512), Some(json!(64512)));
    check::<AsNumber>(json!("4294967295"), Some(json!(4_294_967_295_u32)));
    check::<AsNumber>(json!("1.10"), Some(json!(65546)));
    for bad in [
        json!(4_294_967_296_u64),
        json!("1.65536"),
        json!("x"),
        json!("1.2.3"),
        json!(1.1),
        json!(""),
    ] {
        check::<AsNumber>(bad, None);
    }
}

#[test]
fn durations() {
    for (read, written) in [
        ("0", "0s"),
        ("90s", "1m30s"),
        ("1h", "1h0m0s"),
        ("1.5h", "1h30m0s"),
        ("1500ms", "1.5s"),
        ("500ms", "500ms"),
        ("1us", "1µs"),
        ("7ns", "7ns"),
        ("1h1m1.000000001s", "1h1m1.000000001s"),
    ] {
        check::<GoDuration>(json!(read), Some(json!(written)));
    }
    for bad in ["", "5", "-5s", "s", "5x", "1.2.3s", "99999999999999999h", "5s6"] {
        check::<GoDuration>(json!(bad), None);
    }
}

#[test]
fn networks() {
    check::<Cidr>(json!("10.0.0.0/8"), Some(json!("10.0.0.0/8")));
    check::<Cidr>(json!("10.0.0.1"), Some(json!("10.0.0.1/32")));
    check::<Cidr>(json!("fd00::1"), Some(json!("fd00::1/128")));
    for bad in [json!("10.0.0.0/33"), json!("10.0.0"), json!(""), json!(7)] {
        check::<Cidr>(bad, None);
    }
}
