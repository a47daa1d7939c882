//! One netlink conversation: requests in batches with a single acknowledgement at the end, dumps, errors by number.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::Error;
use crate::batch::{Attributes, Batch, HEADER, half, serialized, word};

/// Bytes the answers may take: a batch that fails whole answers some 700 times.
const ANSWER_BYTES: usize = 8 << 20;
/// The kernel answers inside `send`; silence as long as this means that the answer was lost.
const ANSWER_SECONDS: i64 = 10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;
const DUMP_TRIES: u32 = 5;

/// Why the kernel refused one request of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The kernel's error number, positive.
    pub errno: i32,
    /// Its sentence, when it has one.
    pub said: String,
}

impl Refusal {
    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == errno as i32
    }

    pub(crate) fn into_error(self, what: impl Into<String>) -> Error {
        Error::Refused {
            what: what.into(),
            source: io::Error::from_raw_os_error(self.errno),
            said: self.said,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errno = Errno::from_raw(self.errno);
        if self.said.is_empty() {
            write!(f, "{}", errno.desc())
        } else {
            write!(f, "{} ({})", self.said, errno.desc())
        }
    }
}

enum Handle {
    Own(Socket),
    Given(OwnedFd),
}

/// A request socket. It belongs to the network namespace it was made in, whatever thread uses it.
pub(crate) struct Conn {
    handle: Handle,
    sequence: u32,
    buffer: Vec<u8>,
    port: u32,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.handle {
            Handle::Own(socket) => socket.as_fd(),
            Handle::Given(fd) => fd.as_fd(),
        }
    }
}

impl Conn {
    /// Opens a socket for links and routes in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        Self::open_for(NETLINK_ROUTE)
    }

    /// Opens a socket for nfnetlink (conntrack, ipset) in the calling thread's network namespace.
    pub(crate) fn open_netfilter() -> Result<Self, Error> {
        Self::open_for(NETLINK_NETFILTER)
    }

    /// Opens a socket for generic netlink (WireGuard, IPVS) in the calling thread's network namespace.
    pub(crate) fn open_generic() -> Result<Self, Error> {
        Self::open_for(NETLINK_GENERIC)
    }

    fn open_for(protocol: isize) -> Result<Self, Error> {
        let mut socket = Socket::new(protocol).map_err(|e| Error::Socket("open", e))?;
        let address = socket.bind_auto().map_err(|e| Error::Socket("bind", e))?;
        let quirks = [
            socket.set_cap_ack(true),
            socket.set_ext_ack(true),
            socket.set_netlink_get_strict_chk(true),
        ];
        for error in quirks.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "an older kernel: a netlink option is missing");
        }
        Self::prepared(Handle::Own(socket), address.port_number())
    }

    /// Takes a socket that someone else opened in another namespace.
    pub(crate) fn given(fd: OwnedFd) -> Result<Self, Error> {
        Self::prepared(Handle::Given(fd), 0)
    }

    fn prepared(handle: Handle, port: u32) -> Result<Self, Error> {
        let conn = Self {
            handle,
            sequence: 0,
            buffer: vec![0; 64 * 1024],
            port,
        };
        let timeout = TimeVal::new(ANSWER_SECONDS, 0);
        setsockopt(&conn, sockopt::ReceiveTimeout, &timeout)
            .map_err(|e| Error::Socket("receive timeout", e.into()))?;
        enlarge(&conn, ANSWER_BYTES);
        Ok(conn)
    }

    /// The port number by which notices of our own changes can be told.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends all requests of a batch at once and returns the refused ones by their place in it.
    ///
    /// # Errors
    /// When sending fails or answers were lost: then nothing is known of what was done.
    pub(crate) fn transact(
        &mut self,
        batch: &mut Batch,
    ) -> Result<BTreeMap<usize, Refusal>, Error> {
        self.converse(batch, |_, _, _| {})
    }

    /// Like [`Self::transact`], for questions: hands every answer with its place to `each`.
    pub(crate) fn converse(
        &mut self,
        batch: &mut Batch,
        mut each: impl FnMut(usize, &Header, &[u8]),
    ) -> Result<BTreeMap<usize, Refusal>, Error> {
        let mut refused = BTreeMap::new();
        let count = batch.count();
        if count == 0 {
            return Ok(refused);
        }
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        self.send(batch.seal(first))?;
        loop {
            let length = self.receive()?;
            for (header, payload) in Split::new(self.buffer.get(..length).unwrap_or_default()) {
                let place = header.sequence_number.wrapping_sub(first);
                if place >= count {
                    continue;
                }
                if header.message_type != NLMSG_ERROR {
                    each(place as usize, &header, payload);
                    continue;
                }
                if let Some(refusal) = refusal(&header, payload) {
                    refused.insert(place as usize, refusal);
                }
                if place.wrapping_add(1) == count {
                    return Ok(refused);
                }
            }
        }
    }

    /// Asks for one thing; `None` when the kernel says there is no such thing.
    pub(crate) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        what: &str,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let mut batch = Batch::default();
        batch.push(message, 0);
        let mut answer = None;
        let mut refused = self.converse(&mut batch, |_, header, payload| {
            answer = Some(parse(header, payload));
        })?;
        match refused.remove(&0) {
            None => answer.transpose(),
            Some(r) if r.is(Errno::ENODEV) || r.is(Errno::ENOENT) => Ok(None),
            Some(r) => Err(r.into_error(what)),
        }
    }

    /// Dumps, handing every message to `each`; starts anew when the kernel says the dump was disturbed.
    pub(crate) fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        what: &str,
        mut each: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let (kind, body) = request(message);
        // What this library cannot read is not ours: skipped, not fatal.
        self.dump_raw(kind, &body, what, |header, payload| {
            parse(header, payload).ok().and_then(&mut each)
        })
    }

    /// Like [`Self::dump`], for requests and answers as bytes.
    pub(crate) fn dump_raw<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        what: &str,
        mut each: impl FnMut(&Header, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut request = Batch::default();
        request.push_with(kind, NLM_F_DUMP, |out| out.extend_from_slice(body));
        for _ in 0..DUMP_TRIES {
            if let Some(all) = self.dump_once(&mut request, what, &mut each)? {
                return Ok(all);
            }
        }
        Err(Error::Garbled(format!(
            "{what}: changed under our hands {DUMP_TRIES} times"
        )))
    }

    fn dump_once<T>(
        &mut self,
        request: &mut Batch,
        what: &str,
        each: &mut impl FnMut(&Header, &[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(request.seal(sequence))?;
        let (mut all, mut whole) = (Vec::new(), true);
        loop {
            let length = self.receive()?;
            for (header, payload) in Split::new(self.buffer.get(..length).unwrap_or_default()) {
                if header.sequence_number != sequence {
                    continue;
                }
                whole &= header.flags & NLM_F_DUMP_INTR == 0;
                match header.message_type {
                    NLMSG_DONE => match negative(payload) {
                        0 => return Ok(whole.then_some(all)),
                        errno => return Err(refused(errno).into_error(what)),
                    },
                    NLMSG_ERROR => {
                        let refusal = refusal(&header, payload).unwrap_or_else(|| refused(0));
                        return Err(refusal.into_error(what));
                    }
                    _ => all.extend(each(&header, payload)),
                }
            }
        }
    }

    /// Takes so many numbers for requests; gives the first.
    pub(crate) fn number(&mut self, count: usize) -> u32 {
        let first = self.sequence.wrapping_add(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Waits for the next datagram.
    pub(crate) fn next_datagram(&mut self) -> Result<&[u8], Error> {
        let length = self.receive()?;
        Ok(self.buffer.get(..length).unwrap_or_default())
    }

    /// Sends a datagram of requests that are numbered already.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let fd = self.as_fd().as_raw_fd();
        loop {
            match send(fd, bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::Socket("send", e.into())),
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Error> {
        let fd = self.as_fd().as_raw_fd();
        loop {
            match recv(fd, &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::Socket("receive", e.into())),
            }
        }
    }
}

/// Gives a socket a receive buffer of `bytes`, beyond the system's limit where we may.
pub(crate) fn enlarge(socket: &impl AsFd, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err()
        && let Err(error) = setsockopt(socket, sockopt::RcvBuf, &bytes)
    {
        tracing::debug!(%error, "netlink keeps its default receive buffer");
    }
}

/// The head of one message as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub message_type: u16,
    pub flags: u16,
    pub sequence_number: u32,
    pub port_number: u32,
}

/// Walks the messages of one datagram; ends at the first that is malformed.
pub(crate) struct Split<'a> {
    rest: &'a [u8],
}

impl<'a> Split<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }
}

impl<'a> Iterator for Split<'a> {
    type Item = (Header, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = word(self.rest, 0)? as usize;
        if length < HEADER || length > self.rest.len() {
            return None;
        }
        let header = Header {
            message_type: half(self.rest, 4)?,
            flags: half(self.rest, 6)?,
            sequence_number: word(self.rest, 8)?,
            port_number: word(self.rest, 12)?,
        };
        let payload = self.rest.get(HEADER..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((header, payload))
    }
}

/// A message's kind and its body, as [`Conn::dump_raw`] takes them.
pub(crate) fn request(message: &RouteNetlinkMessage) -> (u16, Vec<u8>) {
    let whole = serialized(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, 0);
    let body = whole.get(HEADER..).unwrap_or_default().to_vec();
    (half(&whole, 4).unwrap_or_default(), body)
}

/// Reads a route message of the library's kinds.
pub(crate) fn parse(header: &Header, payload: &[u8]) -> Result<RouteNetlinkMessage, Error> {
    use netlink_packet_core::ParseableParametrized;
    RouteNetlinkMessage::parse_with_param(payload, header.message_type)
        .map_err(|e| Error::Garbled(e.to_string()))
}

/// Why a request was refused, if this answer says so.
pub(crate) fn refusal(header: &Header, payload: &[u8]) -> Option<Refusal> {
    let errno = negative(payload);
    if errno == 0 {
        return None;
    }
    let mut said = String::new();
    if header.flags & NLM_F_ACK_TLVS != 0 {
        // After the error number comes the request's header, and unless capped the whole request.
        let request = word(payload, 4).unwrap_or(0) as usize;
        let echoed = if header.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            request
        };
        let attributes = payload
            .get(4 + echoed.next_multiple_of(4)..)
            .unwrap_or_default();
        said = sentence(attributes).unwrap_or_default();
    }
    Some(Refusal { errno, said })
}

fn sentence(attributes: &[u8]) -> Option<String> {
    let (_, text) = Attributes(attributes).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text);
    Some(text.trim_end_matches('\0').to_owned())
}

fn refused(errno: i32) -> Refusal {
    Refusal {
        errno,
        said: String::new(),
    }
}

/// The error number at the start of an error or done message, made positive.
fn negative(payload: &[u8]) -> i32 {
    word(payload, 0).map_or(0, |n| n.cast_signed().wrapping_neg())
}
