//! Reads a whole log: what it says, where its good part ends, and whether that is the end of an
//! interrupted write or damage.

use super::format::{Frame, HEADER, Header, Record};

/// Bytes that the search for later frames may sum up, per byte searched.
const SEARCH: usize = 64;

/// At this offset something is broken that was whole once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

/// Hands the changes of `bytes` to `apply`, with `true` for the one that completes the snapshot.
/// Returns how many bytes from the start are whole; what follows was never acknowledged.
///
/// On `Err`, some changes may have been handed out: throw them away.
pub(super) fn scan<'a>(
    bytes: &'a [u8],
    header: Header,
    mut apply: impl FnMut(Record<'a>, bool),
) -> Result<usize, Damage> {
    let mut at = HEADER;
    let mut snapshot = header.count;
    let mut last = if snapshot == 0 { header.base } else { 0 };
    while let Some(frame) = Frame::decode(&bytes[at..]) {
        for record in frame.records() {
            let Ok(record) = record else {
                return Err(Damage { at, what: "a record is malformed" });
            };
            let in_order = match snapshot {
                0 => record.revision == last + 1,
                _ => record.revision > last && record.revision <= header.base,
            };
            if !in_order {
                return Err(Damage { at, what: "a change is missing or out of order" });
            }
            last = record.revision;
            let completes = snapshot == 1;
            snapshot = snapshot.saturating_sub(1);
            if completes {
                last = header.base;
            }
            apply(record, completes);
        }
        at += frame.length;
    }
    if snapshot > 0 {
        return Err(Damage { at, what: "the snapshot is incomplete" });
    }
    if promised_after(bytes, at)? {
        return Err(Damage { at, what: "a record is damaged" });
    }
    Ok(at)
}

/// Whether a frame after the bad one at `bad` says that everything up to beyond `bad` had reached
/// the disk. If none does, the rest is what a crash left of writes that were under way.
fn promised_after(bytes: &[u8], bad: usize) -> Result<bool, Damage> {
    let mut budget = (bytes.len() - bad).saturating_mul(SEARCH);
    for at in bad + 1..bytes.len() {
        let Some(content) = Frame::plausible(&bytes[at..]) else { continue };
        let content = &bytes[at..][content];
        let synced = content.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        if synced <= bad as u64 || synced > at as u64 {
            continue;
        }
        budget = budget
            .checked_sub(content.len())
            .ok_or(Damage { at: bad, what: "a record is damaged, and so is what follows" })?;
        if Frame::decode(&bytes[at..]).is_some_and(|frame| frame.synced == synced) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::super::format::encode;
    use super::*;

    fn put(revision: u64) -> Record<'static> {
        Record { path: "/calico/ipam/v2/config", value: Some("{}"), revision }
    }

    /// A log of three frames, with the offsets where they start and end.
    fn log(synced: impl Fn(usize) -> usize) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Header { base: 0, count: 0 }.encode().to_vec();
        let mut ends = vec![bytes.len()];
        for revision in 1..=3 {
            let promise = synced(bytes.len()) as u64;
            encode([put(revision)], promise, &mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn check(bytes: &[u8], expected: Result<usize, usize>) {
        let header = Header::decode(bytes).unwrap();
        let found = scan(bytes, header, |_, _| ());
        assert_eq!(found.map_err(|damage| damage.at), expected);
    }

    #[test]
    fn a_bad_last_frame_is_cut_off() {
        let (mut bytes, ends) = log(|at| at);
        check(&bytes, Ok(ends[3]));
        bytes[ends[2] + 20] ^= 1;
        check(&bytes, Ok(ends[2]));
    }

    #[test]
    fn a_bad_frame_before_a_promise_is_damage() {
        let (mut bytes, ends) = log(|at| at);
        bytes[ends[1] + 20] ^= 1;
        check(&bytes, Err(ends[1]));
    }

    #[test]
    fn frames_that_nothing_promised_are_cut_off_together() {
        let (mut bytes, ends) = log(|_| HEADER);
        bytes[ends[1] + 20] ^= 1;
        check(&bytes, Ok(ends[1]));
    }

    #[test]
    fn a_tail_of_zeros_is_cut_off() {
        let (mut bytes, ends) = log(|at| at);
        bytes.resize(ends[3] + 4096, 0);
        check(&bytes, Ok(ends[3]));
    }

    #[test]
    fn a_missing_frame_is_damage() {
        let (bytes, ends) = log(|at| at);
        check(&[&bytes[..ends[0]], &bytes[ends[1]..]].concat(), Err(ends[0]));
    }

    #[test]
    fn a_snapshot_must_be_complete() {
        let mut bytes = Header { base: 9, count: 2 }.encode().to_vec();
        encode([put(4)], 0, &mut bytes);
        check(&bytes, Err(bytes.len()));
        encode([put(8)], 0, &mut bytes);
        check(&bytes, Ok(bytes.len()));
        encode([put(10)], 0, &mut bytes);
        check(&bytes, Ok(bytes.len()));
    }
}
