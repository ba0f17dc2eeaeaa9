//! Texts of operators: what is taken prints as something that means the same.

use calico_bgp::filter::{AnyCommunity, InterfacePattern};

/// All octets are the text.
pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(community) = text.parse::<AnyCommunity>() {
        let printed = community.to_string();
        assert_eq!(printed.parse::<AnyCommunity>().ok(), Some(community), "{text} {printed}");
    }
    // The first line is a pattern, the second a name.
    let (pattern, name) = text.split_once('\n').unwrap_or((text, text));
    if let Ok(pattern) = pattern.parse::<InterfacePattern>() {
        let _ = pattern.matches(name);
        let plain = pattern.to_string();
        assert!(plain.contains('*') || pattern.matches(&plain), "{plain}");
    }
}
