//! A stream of octets cut anywhere: framing does not depend on how they arrive.

use calico_bgp::wire::Framer;

/// The first octet says how large the pieces are, the rest is the stream.
pub(crate) fn run(data: &[u8]) {
    let [step, stream @ ..] = data else { return };
    let whole = frames(stream, stream.len().max(1));
    let pieces = frames(stream, usize::from(*step).max(1));
    assert_eq!(whole, pieces);
}

fn frames(stream: &[u8], step: usize) -> (Vec<(u8, usize)>, Option<String>) {
    let mut framer = Framer::default();
    let mut found = Vec::new();
    for piece in stream.chunks(step) {
        framer.push(piece);
        loop {
            match framer.poll_frame() {
                Ok(Some(frame)) => found.push((frame.kind.value(), frame.body.len())),
                Ok(None) => break,
                // Which of two errors is seen first may depend on how much is there, so only
                // that there is one counts.
                Err(_) => return (found, Some("error".to_owned())),
            }
        }
    }
    (found, None)
}
