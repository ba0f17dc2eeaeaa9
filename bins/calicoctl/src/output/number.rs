//! Numbers as upstream prints them.

/// `value` with at most five significant digits, as C's `%.5g`.
pub(crate) fn five_digits(value: u128) -> String {
    let digits = value.to_string();
    if digits.len() <= 5 {
        return digits;
    }
    // Rounding by hand: floating point has too few digits for IPv6.
    let unit = 10u128.pow(digits.len() as u32 - 5);
    let rounded = (value / unit) + u128::from(value % unit >= unit / 2);
    let (rounded, exponent) = match rounded {
        100_000 => (10_000, digits.len()),
        rounded => (rounded, digits.len() - 1),
    };
    let text = rounded.to_string();
    let fraction = text[1..].trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}e+{exponent:02}", &text[..1])
}

/// `value`, and how much of `whole` it is: `5 (0%)`.
pub(crate) fn share(value: u128, whole: u128) -> String {
    let percent = if whole == 0 { 0.0 } else { value as f64 * 100.0 / whole as f64 };
    format!("{} ({percent:.0}%)", five_digits(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_upstream() {
        for (value, text) in [
            (0, "0"),
            (65_536, "65536"),
            (100_000, "1e+05"),
            (1_048_576, "1.0486e+06"),
            (999_999, "1e+06"),
            (1 << 64, "1.8447e+19"),
            (1 << 104, "2.0282e+31"),
        ] {
            assert_eq!(five_digits(value), text);
        }
        assert_eq!(share(5, 65_536), "5 (0%)");
        assert_eq!(share(65_531, 65_536), "65531 (100%)");
        assert_eq!(share(16, 64), "16 (25%)");
        assert_eq!(share(0, 0), "0 (0%)");
    }
}
