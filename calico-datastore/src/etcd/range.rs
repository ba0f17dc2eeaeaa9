//! Listings that are read while they arrive.
//!
//! A page of a listing is one message of many megabytes. gRPC's libraries gather such a message
//! whole and decode it then, which takes its size in memory a second time, and a copy of every
//! byte. Here each object is read where the network's buffer has it.

use bytes::{BufMut as _, BytesMut};
use http::Request;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::field;
use super::rpc::{self, Ask, Token};
use super::span::{Found, Span};
use super::wire::{Header, RangeRequest, StoredObject};

/// Longest page that is read, in bytes; pages are asked for to be far below it.
const MAX_PAGE: usize = 512 << 20;

/// Bytes in front of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A range whose objects are told apart while they arrive.
pub(super) struct OpenRange<'a> {
    pub(super) request: &'a RangeRequest,
    pub(super) span: &'a Span,
}

/// A part of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) header: Header,
    /// What belongs to the scope.
    pub(super) found: Vec<Found>,
    /// Whether more keys follow.
    pub(super) more: bool,
    /// The last key, of whatever scope.
    pub(super) last: Vec<u8>,
    /// How many keys there were.
    pub(super) keys: usize,
    /// Bytes of keys and values.
    pub(super) bytes: usize,
}

impl Ask for OpenRange<'_> {
    type Answer = Page;

    async fn ask(&self, mut channel: Channel, token: Option<Token>) -> Result<Page, Status> {
        let failed = |error: tonic::transport::Error| Status::from_error(Box::new(error));
        std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(failed)?;
        let response = channel.call(request(self.request, token)).await.map_err(failed)?;
        // An answer without a body has its status here; an HTTP error has none.
        let status = Status::from_header_map(response.headers());
        if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
            return Err(status);
        }
        if !response.status().is_success() {
            // As gRPC maps them.
            let code = match response.status().as_u16() {
                401 => Code::Unauthenticated,
                403 => Code::PermissionDenied,
                404 => Code::Unimplemented,
                429 | 502..=504 => Code::Unavailable,
                _ => Code::Unknown,
            };
            return Err(Status::new(code, format!("HTTP status {}", response.status())));
        }
        let mut body = response.into_body();
        let mut reader = Reader::new(self.span);
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => reader.take(&data)?,
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return match Status::from_header_map(&trailers) {
                        Some(status) if status.code() != Code::Ok => Err(status),
                        _ => reader.end(),
                    };
                }
            }
        }
        reader.end()
    }
}

fn request(range: &RangeRequest, token: Option<Token>) -> Request<Body> {
    let mut message = BytesMut::with_capacity(PREFIX + range.encoded_len());
    message.put_u8(0);
    message.put_u32(range.encoded_len() as u32);
    range.encode(&mut message).expect("a buffer grows");
    let mut request = Request::new(Body::new(Full::new(message.freeze())));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static(rpc::RANGE.path());
    *request.headers_mut() = rpc::metadata(token).into_headers();
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

/// Takes a message apart that comes in pieces.
struct Reader<'a> {
    span: &'a Span,
    page: Page,
    /// Bytes of the message that are still to come; `None` before its prefix.
    left: Option<usize>,
    /// The start of a field whose end has not come yet.
    begun: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(span: &'a Span) -> Self {
        Self { span, page: Page::default(), left: None, begun: Vec::new() }
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), Status> {
        if self.left.is_none() {
            let missing = PREFIX - self.begun.len();
            let (now, later) = data.split_at(missing.min(data.len()));
            self.begun.extend_from_slice(now);
            let Ok([compressed, length @ ..]) = <[u8; PREFIX]>::try_from(&self.begun[..]) else {
                return Ok(());
            };
            let length = u32::from_be_bytes(length) as usize;
            if compressed != 0 {
                return Err(Status::internal("the answer is compressed, or not gRPC's at all"));
            }
            if length > MAX_PAGE {
                let text = format!("a page of {length} bytes is too large: at most {MAX_PAGE}");
                return Err(Status::out_of_range(text));
            }
            self.begun.clear();
            self.left = Some(length);
            data = later;
        }
        let left = self.left.get_or_insert_default();
        let Some(rest) = left.checked_sub(data.len()) else {
            return Err(Status::internal("more than one answer"));
        };
        *left = rest;
        self.fields(data)
    }

    fn fields(&mut self, mut data: &[u8]) -> Result<(), Status> {
        // A field that began in the piece before: what is missing comes first.
        while !self.begun.is_empty() && !data.is_empty() {
            let missing = field::missing(&self.begun).map_err(malformed)?.min(data.len());
            let (now, later) = data.split_at(missing);
            self.begun.extend_from_slice(now);
            data = later;
            if self.page.field(&self.begun, self.span).map_err(malformed)? > 0 {
                self.begun.clear();
            }
        }
        loop {
            match self.page.field(data, self.span).map_err(malformed)? {
                0 => break self.begun.extend_from_slice(data),
                used => data = &data[used..],
            }
        }
        Ok(())
    }

    fn end(self) -> Result<Page, Status> {
        match (self.left, self.begun.is_empty()) {
            (Some(0), true) => Ok(self.page),
            _ => Err(Status::unavailable("the answer ended in its middle")),
        }
    }
}

impl Page {
    /// Takes the field that `data` begins with, and says how long it is; 0 if it is not all there.
    fn field(&mut self, data: &[u8], span: &Span) -> Result<usize, field::Malformed> {
        let Some((number, value, used)) = field::next(data)? else { return Ok(0) };
        match (number, value) {
            (1, field::Value::Bytes(header)) => {
                self.header = Header::decode(header).ok().ok_or(field::Malformed)?;
            }
            (2, field::Value::Bytes(object)) => {
                let object = StoredObject::read(object)?;
                self.keys += 1;
                self.bytes += object.key.len() + object.value.len();
                match span.read(object) {
                    Found::Other => {}
                    found => self.found.push(found),
                }
                self.last.clear();
                self.last.extend_from_slice(object.key);
            }
            (3, field::Value::Number(more)) => self.more = more != 0,
            _ => {}
        }
        Ok(used)
    }
}

fn malformed(_: field::Malformed) -> Status {
    Status::internal("the answer is malformed")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use calico_core::key::Scope;
    use proptest::prelude::*;

    use super::super::wire::{KeyValue, RangeResponse};
    use super::*;

    fn answer(sizes: &[usize]) -> RangeResponse {
        let kvs = sizes.iter().enumerate().map(|(n, size)| KeyValue {
            key: format!("/calico/ipam/v2/handle/h{n}").into(),
            mod_revision: n as i64 + 300,
            value: vec![b'x'; *size].into(),
        });
        let header = Some(Header { cluster_id: u64::MAX, revision: 77 });
        RangeResponse { header, kvs: kvs.collect(), more: sizes.len() % 2 == 1 }
    }

    fn framed(message: &RangeResponse) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(message.encoded_len() as u32);
        message.encode(&mut bytes).unwrap();
        bytes.freeze()
    }

    fn read(pieces: impl Iterator<Item = Bytes>) -> Result<Page, String> {
        let span = Span::of(Scope::All);
        let mut reader = Reader::new(&span);
        for piece in pieces {
            reader.take(&piece).map_err(|status| status.message().to_owned())?;
        }
        reader.end().map_err(|status| status.message().to_owned())
    }

    proptest! {
        #[test]
        fn it_is_read_alike_wherever_it_is_cut(
            sizes in prop::collection::vec(0..400_usize, 0..12),
            cuts in prop::collection::vec(1..200_usize, 1..40),
        ) {
            let message = answer(&sizes);
            let mut rest = framed(&message);
            let mut cuts = cuts.into_iter().cycle();
            let pieces = std::iter::from_fn(|| {
                let cut = cuts.next()?.min(rest.len());
                (cut > 0).then(|| rest.split_to(cut))
            });
            let page = read(pieces).unwrap();
            let span = Span::of(Scope::All);
            let expected: Vec<Found> = message.kvs.iter().map(|kv| span.read(kv.stored())).collect();
            prop_assert_eq!(page.found, expected);
            prop_assert_eq!((page.more, page.keys), (message.more, sizes.len()));
            prop_assert_eq!(page.header, message.header.unwrap());
            let last = message.kvs.last().map(|kv| kv.key.to_vec()).unwrap_or_default();
            prop_assert_eq!(page.last, last);
        }

        #[test]
        fn no_bytes_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8)) {
            let _ = read(pieces.into_iter().map(Bytes::from));
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let whole = framed(&answer(&[5, 5]));
        let check = |bytes: Bytes, expected: &str| {
            let error = read([bytes].into_iter()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(whole.slice(..whole.len() - 1), "ended in its middle");
        check(Bytes::new(), "ended in its middle");
        check([&whole[..], &whole[..]].concat().into(), "more than one");
        check(Bytes::from_static(b"<html>"), "not gRPC");
        check(Bytes::from_static(&[0, 255, 255, 255, 255]), "too large");
        check(Bytes::from_static(&[0, 0, 0, 0, 2, 7, 0]), "malformed");
    }
}
