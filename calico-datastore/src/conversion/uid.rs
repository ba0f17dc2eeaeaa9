/// The identity under which Calico shows a Kubernetes object: the bits of every byte reversed,
/// except in those two (6 and 8) that hold version and variant of a UUID. Doing it twice gives
/// the original. A text that is no UUID stays as it is.
///
/// An object and its view are two objects to a garbage collector, so they must not share a UID.
#[must_use]
pub fn calico_uid(uid: &str) -> String {
    let digits: Vec<u8> = uid.bytes().filter(|byte| *byte != b'-').collect();
    let dashes = [8, 13, 18, 23].iter().all(|at| uid.as_bytes().get(*at) == Some(&b'-'));
    if !dashes || uid.len() != 36 || digits.len() != 32 {
        return uid.to_owned();
    }
    let mut out = String::with_capacity(36);
    for (index, pair) in digits.chunks(2).enumerate() {
        let byte = std::str::from_utf8(pair).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let Some(byte) = byte else { return uid.to_owned() };
        let byte = if matches!(index, 6 | 8) { byte } else { byte.reverse_bits() };
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_reversed_but_for_version_and_variant() {
        let uid = "30316465-6365-4463-ad63-3564622d3638";
        let shown = calico_uid(uid);
        assert_eq!(shown, "0c8c26a6-c6a6-44c6-adc6-ac2646b46c1c");
        assert_eq!(calico_uid(&shown), uid);
        for other in ["", "u", "30316465-6365-4463-ad63-3564622d363z"] {
            assert_eq!(calico_uid(other), other);
        }
    }
}
