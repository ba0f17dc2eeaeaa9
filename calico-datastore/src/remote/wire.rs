//! Messages and frames.

use std::io;

use calico_core::datastore::{
    Entry, Revision, SharedEvent, StoreError, WatchEvent, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Version of the protocol.
pub(super) const VERSION: u32 = 1;

/// Longest frame in bytes. As JSON in JSON, a value takes up to six times its length.
pub(super) const MAX_FRAME: usize = 16 << 20;

/// Longest value that always fits into a frame, next to a part that is already full.
pub(super) const MAX_VALUE: usize = MAX_FRAME / 8;

/// A frame with several objects is sent once their values have this many bytes.
pub(super) const PART: usize = 128 << 10;

/// Events that the server may send before it hears from the client again.
pub(super) const WINDOW: u32 = 512;

/// The first frame, from the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Always `calico-datastore`.
    pub(super) protocol: String,
    pub(super) version: u32,
    /// Whether [`Say::Alive`] is understood; older clients do not say.
    #[serde(default)]
    pub(super) heartbeat: bool,
}

impl Hello {
    pub(super) const PROTOCOL: &str = "calico-datastore";
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Welcome {
    /// Requests may follow.
    Welcome {
        /// Another number means another server, whose revisions need not be those known before.
        instance: u64,
        /// Whether the server says [`Say::Alive`] when it has nothing else to say.
        #[serde(default)]
        heartbeat: bool,
    },
    /// They may not.
    Refused { reason: String },
}

/// What the client sends after [`Hello`]. `id` is new for each request; `Credit` and `Cancel`
/// name the watch that they are about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FromClient {
    pub(super) id: u64,
    pub(super) ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Ask {
    Get(Key),
    List(Scope),
    Write(Vec<Write>),
    Watch { scope: Scope, from: Option<Revision>, credit: u32 },
    Credit(u32),
    Cancel,
}

/// What the server sends after [`Welcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FromServer {
    pub(super) id: u64,
    pub(super) say: Say,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Say {
    Entry(Entry),
    /// Some objects of a listing; more will follow.
    Part(Vec<Entry>),
    /// The listing is complete.
    Listed(Revision),
    Written(Vec<Revision>),
    WriteFailed(WriteFailed),
    Failed(StoreError),
    Events(Vec<WatchEvent>),
    /// The watch has ended.
    Ended,
    /// The server is there; about no request.
    Alive,
}

/// A message as a frame; `None` if it is too long for one.
pub(super) fn encode<T: Serialize>(message: &T) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    // Cannot fail: the messages have text keys only, and memory takes every write.
    serde_json::to_writer(&mut frame, message).ok()?;
    finish(frame)
}

/// Fills in the length.
fn finish(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    let length = frame.len() - 4;
    frame[..4].copy_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
    (length <= MAX_FRAME).then_some(frame)
}

/// [`Say::Events`] as a frame, from what was written for others who follow the same store.
pub(super) fn encode_events(id: u64, events: &[SharedEvent]) -> Option<Vec<u8>> {
    let (head, tail) = (format!("{{\"id\":{id},\"say\":{{\"events\":["), "]}}");
    let texts: usize = events.iter().map(|event| event.json().len() + 1).sum();
    let mut frame = Vec::with_capacity(4 + head.len() + texts + tail.len());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(head.as_bytes());
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            frame.push(b',');
        }
        frame.extend_from_slice(event.json().as_bytes());
    }
    frame.extend_from_slice(tail.as_bytes());
    finish(frame)
}

/// Reads one message; `None` at the end of the stream.
///
/// Not safe to cancel: what was read of the message is lost.
pub(super) async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    if reader.read(&mut prefix[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut prefix[1..]).await?;
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MAX_FRAME {
        return Err(invalid(format!("a frame of {length} bytes; at most {MAX_FRAME} are allowed")));
    }
    // Grows as bytes arrive: the other side's word alone reserves no memory.
    let mut content = Vec::new();
    reader.take(length as u64).read_to_end(&mut content).await?;
    if content.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match serde_json::from_slice(&content) {
        Ok(message) => Ok(Some(message)),
        Err(error) => Err(invalid(format!("a message that cannot be understood: {error}"))),
    }
}

pub(super) fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_back() {
        let message =
            FromClient { id: 7, ask: Ask::Write(vec![Write::put(Key::IpamConfig, "\"\n")]) };
        let mut bytes = encode(&message).unwrap();
        bytes.extend(encode(&message).unwrap());
        let mut reader = &bytes[..];
        for _ in 0..2 {
            assert_eq!(read(&mut reader).await.unwrap(), Some(message.clone()));
        }
        assert_eq!(read::<FromClient>(&mut reader).await.unwrap(), None);
    }

    #[test]
    fn shared_events_make_the_same_frame() {
        let entry =
            Entry { key: Key::IpamConfig, value: "\"\n\u{1}".into(), revision: Revision(7) };
        let events = [
            WatchEvent::Begin,
            WatchEvent::Item(entry.clone()),
            WatchEvent::Ready(Revision(7)),
            WatchEvent::Put(entry),
            WatchEvent::Gone { key: Key::IpamConfig, revision: Revision(8) },
            WatchEvent::Bad { path: "/a".into(), reason: "\"".into() },
        ];
        for count in 0..=events.len() {
            let shared: Vec<_> = events[..count].iter().cloned().map(SharedEvent::new).collect();
            let message = FromServer { id: u64::MAX, say: Say::Events(events[..count].to_vec()) };
            assert_eq!(encode_events(u64::MAX, &shared), encode(&message));
        }
    }

    #[tokio::test]
    async fn bad_frames_are_errors() {
        let whole = encode(&Ask::Cancel).unwrap();
        for bytes in [&whole[..3], &whole[..6], b"\xff\xff\xff\xff{}", b"\0\0\0\x02{]", b"\0\0\0\0"]
        {
            assert!(read::<Ask>(&mut &bytes[..]).await.is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_longest_value_fits_with_a_full_part() {
        let entry = |length: usize| Entry {
            key: Key::IpamConfig,
            value: "\u{1}".repeat(length).into(),
            revision: Revision(u64::MAX),
        };
        let say = Say::Part(vec![entry(PART), entry(MAX_VALUE)]);
        assert!(encode(&FromServer { id: u64::MAX, say }).is_some());
    }
}
