//! The fields of a protobuf message, where they are in its bytes
//! (<https://protobuf.dev/programming-guides/encoding/>).

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number of variable length.
    Number(u64),
    /// A text, bytes, or a message.
    Bytes(&'a [u8]),
    /// A number of fixed length, which etcd's protocol has none of.
    Fixed,
}

/// These bytes are no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The field that `data` begins with: its number, its value, and how many bytes both take.
/// `None` if it is not all there.
pub(super) fn next(data: &[u8]) -> Result<Option<(u64, Value<'_>, usize)>, Malformed> {
    let Some(head) = head(data)? else { return Ok(None) };
    let end = head.start.checked_add(head.length).ok_or(Malformed)?;
    let Some(value) = data.get(head.start..end) else { return Ok(None) };
    Ok(Some((head.number, head.value.unwrap_or(Value::Bytes(value)), end)))
}

/// How many more bytes are needed to go on with `data`, which is the start of a field; at least 1.
pub(super) fn missing(data: &[u8]) -> Result<usize, Malformed> {
    let Some(head) = head(data)? else { return Ok(1) };
    let end = head.start.checked_add(head.length).ok_or(Malformed)?;
    Ok(end.saturating_sub(data.len()).max(1))
}

/// What comes before the bytes of a value.
struct Head {
    number: u64,
    /// The value, unless it is the bytes that follow.
    value: Option<Value<'static>>,
    /// Where the bytes that follow start, and how many they are.
    start: usize,
    length: usize,
}

fn head(data: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some((tag, start)) = varint(data)? else { return Ok(None) };
    let number = tag >> 3;
    let fixed = |length| Head { number, value: Some(Value::Fixed), start, length };
    Ok(Some(match tag & 7 {
        _ if number == 0 => return Err(Malformed),
        0 | 2 => {
            let Some((value, size)) = varint(&data[start..])? else { return Ok(None) };
            let start = start + size;
            match tag & 7 {
                0 => Head { number, value: Some(Value::Number(value)), start, length: 0 },
                _ => {
                    let length = usize::try_from(value).ok().ok_or(Malformed)?;
                    Head { number, value: None, start, length }
                }
            }
        }
        1 => fixed(8),
        5 => fixed(4),
        _ => return Err(Malformed),
    }))
}

/// A number of variable length, and how many bytes it takes; `None` if it is not all there.
fn varint(data: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in data.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if data.len() < 10 { Ok(None) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_specification() {
        // The examples of protobuf's documentation.
        assert_eq!(next(&[0x08, 0x96, 0x01]), Ok(Some((1, Value::Number(150), 3))));
        let text = [&[0x12, 0x07][..], b"testing", b"more"].concat();
        assert_eq!(next(&text), Ok(Some((2, Value::Bytes(b"testing"), 9))));
        let minus_one = [&[0x08][..], &[0xff; 9], &[0x01]].concat();
        assert_eq!(next(&minus_one), Ok(Some((1, Value::Number(u64::MAX), 11))));
        assert_eq!(next(&[0x0d, 1, 2, 3, 4, 5]), Ok(Some((1, Value::Fixed, 5))));
        assert_eq!(next(&[0x09, 1, 2, 3, 4, 5, 6, 7, 8]), Ok(Some((1, Value::Fixed, 9))));
    }

    #[test]
    fn what_is_missing_is_known() {
        let check = |data: &[u8], count: usize| {
            assert_eq!(next(data), Ok(None));
            assert_eq!(missing(data), Ok(count));
        };
        check(&[], 1);
        check(&[0x92], 1);
        check(&[0x12], 1);
        check(&[0x12, 0x07], 7);
        check(&[0x12, 0x07, b't'], 6);
        check(&[0x0d, 1], 3);
        for bad in [&[0x00, 0][..], &[0x0b, 0], &[0xff; 10], &[0x04]] {
            assert_eq!(next(bad), Err(Malformed), "{bad:?}");
        }
    }
}
