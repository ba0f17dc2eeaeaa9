//! A blocking connection to the kernel's routing tables (`NETLINK_ROUTE`, RFC 3549).
//!
//! One [`Connection`] belongs to the network namespace in which it was opened, for good: a thread
//! may enter a namespace, open one, leave, and go on using it. Several requests travel in one
//! system call ([`Connection::exchange`]); the kernel carries them out in order and does not stop
//! at one it refuses.

mod error;
mod message;

use std::io;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

pub use error::{Refusal, RtnlError};
pub(crate) use message::attribute;
pub use message::{CREATE, REPLACE, Request};

use message::Answer;

/// How long the kernel may take to answer, unless somebody [says](Connection::answer_within)
/// otherwise. Its work under the routing lock is short, but an unregistering device may hold it long.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The kernel fills dump datagrams of at most this size (`netlink_dump` in af_netlink.c).
const DATAGRAM: usize = 64 * 1024;
/// Answers to one datagram of ours must fit the default receive buffer of 208 KiB.
const REQUESTS_PER_DATAGRAM: usize = 100;
const DUMP_ATTEMPTS: u32 = 8;

/// What came of one request: a message if it asked for one.
pub type Outcome = Result<Option<RouteNetlinkMessage>, Refusal>;

/// A connection. See the [module](self).
pub struct Connection {
    socket: Socket,
    sequence: u32,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    patience: Duration,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens a connection in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`RtnlError::Open`].
    pub fn open() -> Result<Self, RtnlError> {
        let socket = Socket::new(NETLINK_ROUTE).map_err(RtnlError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(RtnlError::Open)?;
        // Words instead of bare numbers; short acknowledgements; filters that the kernel honours.
        socket.set_ext_ack(true).map_err(RtnlError::Open)?;
        socket.set_cap_ack(true).map_err(RtnlError::Open)?;
        socket.set_netlink_get_strict_chk(true).map_err(RtnlError::Open)?;
        let (incoming, outgoing) = (Vec::new(), Vec::new());
        let patience = ANSWER_WITHIN;
        let mut connection = Self { socket, sequence: 0, incoming, outgoing, patience };
        connection.answer_within(ANSWER_WITHIN)?;
        Ok(connection)
    }

    /// How long the kernel may take from now on until a conversation counts as
    /// [failed](RtnlError::Timeout); at least a millisecond.
    ///
    /// # Errors
    ///
    /// [`RtnlError::Open`] if the socket cannot be told.
    pub fn answer_within(&mut self, patience: Duration) -> Result<(), RtnlError> {
        let milliseconds = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX).max(1);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(milliseconds))
            .map_err(|errno| RtnlError::Open(errno.into()))?;
        self.patience = patience;
        Ok(())
    }

    /// Carries out requests in order and returns what came of each, in the same order.
    ///
    /// # Errors
    ///
    /// If the conversation itself fails; it is then unknown which requests were carried out.
    pub fn exchange(&mut self, requests: &[Request]) -> Result<Vec<Outcome>, RtnlError> {
        let mut outcomes = Vec::with_capacity(requests.len());
        for part in requests.chunks(REQUESTS_PER_DATAGRAM) {
            self.exchange_part(part, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    /// Carries out one request that answers with no more than yes or no.
    ///
    /// # Errors
    ///
    /// See [`RtnlError`].
    pub fn execute(&mut self, request: Request) -> Result<(), RtnlError> {
        self.query(request).map(drop)
    }

    /// Carries out one request and returns the answer's message, if it has one.
    ///
    /// # Errors
    ///
    /// See [`RtnlError`].
    pub fn query(&mut self, request: Request) -> Result<Option<RouteNetlinkMessage>, RtnlError> {
        let mut outcomes = self.exchange(std::slice::from_ref(&request))?;
        let outcome = outcomes.pop().expect("one outcome per request");
        Ok(outcome?)
    }

    /// Lists: every object that the message's header and attributes select.
    ///
    /// # Errors
    ///
    /// See [`RtnlError`].
    pub fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(objects) = self.dump_once(message)? {
                return Ok(objects);
            }
        }
        Err(RtnlError::Interrupted { attempts: DUMP_ATTEMPTS })
    }

    fn exchange_part(
        &mut self,
        requests: &[Request],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), RtnlError> {
        let Some(last) = requests.len().checked_sub(1) else { return Ok(()) };
        let first = self.sequence.wrapping_add(1);
        self.outgoing.clear();
        for (position, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            // Requests are answered in order: silence of an earlier one is its yes once the last
            // one has answered.
            let ack = if position == last { NLM_F_ACK } else { 0 };
            message::append(
                &mut self.outgoing,
                request.message.clone(),
                request.flags | NLM_F_REQUEST | ack,
                self.sequence,
            );
        }
        self.send("send requests")?;

        let start = outcomes.len();
        outcomes.resize(start + requests.len(), Ok(None));
        loop {
            self.receive()?;
            for item in message::split(&self.incoming) {
                let (header, answer) = item?;
                let position = header.sequence.wrapping_sub(first) as usize;
                // Late answers to an earlier conversation that timed out carry other numbers.
                let Some(outcome) = outcomes[start..].get_mut(position) else { continue };
                match answer {
                    Answer::Ack => {}
                    Answer::Refused(refusal) => *outcome = Err(refusal),
                    Answer::Message(message) => {
                        *outcome = Ok(Some(message));
                        continue;
                    }
                    Answer::Done(_) | Answer::Unreadable(_) => {
                        return Err(RtnlError::Malformed {
                            reason: format!("{answer:?} instead of an acknowledgement"),
                        });
                    }
                }
                if position == last {
                    return Ok(());
                }
            }
        }
    }

    /// None if the state changed meanwhile.
    fn dump_once(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, RtnlError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.outgoing.clear();
        message::append(
            &mut self.outgoing,
            message.clone(),
            NLM_F_REQUEST | NLM_F_DUMP,
            self.sequence,
        );
        self.send("ask for a list")?;

        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive()?;
            for item in message::split(&self.incoming) {
                let (header, answer) = item?;
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match answer {
                    Answer::Message(object) => objects.push(object),
                    Answer::Refused(refusal) => return Err(refusal.into()),
                    // One strange object must not hide the others.
                    Answer::Unreadable(reason) => tracing::debug!(reason, "skipped an object"),
                    Answer::Done(Some(refusal)) => return Err(refusal.into()),
                    Answer::Done(None) => return Ok((!interrupted).then_some(objects)),
                    Answer::Ack => {}
                }
            }
        }
    }

    fn send(&mut self, doing: &'static str) -> Result<(), RtnlError> {
        let sent = self.socket.send(&self.outgoing, 0);
        let sent = sent.map_err(|source| io_error(doing, source, self.patience))?;
        if sent == self.outgoing.len() {
            return Ok(());
        }
        Err(io_error(doing, io::ErrorKind::WriteZero.into(), self.patience))
    }

    fn receive(&mut self) -> Result<(), RtnlError> {
        self.incoming.clear();
        self.incoming.reserve(DATAGRAM);
        let length = loop {
            match self.socket.recv(&mut self.incoming, message::TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    let failed = |source| io_error("receive answers", source, self.patience);
                    break other.map_err(failed)?;
                }
            }
        };
        if length > self.incoming.len() {
            return Err(RtnlError::Malformed {
                reason: format!(
                    "a datagram of {length} bytes, which is more than the kernel sends"
                ),
            });
        }
        Ok(())
    }
}

fn io_error(doing: &'static str, source: io::Error, patience: Duration) -> RtnlError {
    match source.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::ENOBUFS) => RtnlError::Overrun,
        Some(nix::errno::Errno::EAGAIN) => RtnlError::Timeout { seconds: patience.as_secs_f64() },
        _ => RtnlError::Io { doing, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_says_nothing_is_waited_for_as_long_as_was_said() {
        let mut connection = Connection::open().unwrap();
        connection.answer_within(Duration::from_millis(1500)).unwrap();
        let start = std::time::Instant::now();
        // Nothing was asked.
        let error = connection.receive().unwrap_err();
        assert!(matches!(error, RtnlError::Timeout { seconds } if seconds == 1.5), "{error:?}");
        assert_eq!(error.to_string(), "no answer from the kernel within 1.5 s");
        assert!(start.elapsed() >= Duration::from_millis(1400));
    }
}
