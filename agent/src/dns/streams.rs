//! Answers by TCP: what resolvers say on each connection, in order, as far as messages of the DNS hang on it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::sync::oneshot;

use crate::nfnetlink::Segment;

/// So many connections are followed; of those that are too many, what was silent for longest goes.
const CONNECTIONS: usize = 256;
/// Of one pod: one that opens many takes nothing from others.
const CONNECTIONS_OF_POD: usize = 64;
/// Octets of a connection that wait for the rest of their message.
const WAITING: usize = 16 << 10;
/// The length before each message (RFC 1035 §4.2.2).
const PREFIX: usize = 2;

/// Who says something to whom; the resolver's port is 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Connection {
    pub(super) resolver: IpAddr,
    pub(super) pod: IpAddr,
    pub(super) port: u16,
}

/// What a segment brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Brought {
    /// Messages that are whole with it.
    pub(super) messages: Vec<Vec<u8>>,
    /// It says something, and nobody can tell what.
    pub(super) unread: bool,
}

/// A segment's place in the line of its connection: it may go on when those before it have.
#[derive(Debug, Default)]
pub(super) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _gone_on: Option<oneshot::Sender<()>>,
}

impl Turn {
    /// Whether nobody is before it.
    pub(super) fn is_free(&self) -> bool {
        self.before.is_none()
    }

    /// Waits until nobody is before it.
    pub(super) async fn wait(&mut self) {
        if let Some(before) = self.before.take() {
            // They have gone on when their turn is dropped.
            let _ = before.await;
        }
    }
}

/// The connections that are followed: those whose beginning was seen. Elsewhere nobody knows where a message begins, and
/// a pod that chooses where segments end could have any octets of an answer read as one.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: BTreeMap<Connection, Stream>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// The sequence number of the first octet.
    first: u32,
    /// How many octets came, without a gap.
    next: u32,
    /// The last of them: no whole message yet.
    waiting: Vec<u8>,
    /// What came beyond a gap, by its place.
    ahead: BTreeMap<u32, Vec<u8>>,
    /// It was too much: nothing of it is read any more.
    lost: bool,
    /// When it was heard of last.
    heard: u64,
    /// Ends when the last segment has gone on.
    last: Option<oneshot::Receiver<()>>,
}

impl Streams {
    /// Takes what a resolver says.
    pub(super) fn take(&mut self, connection: Connection, segment: &Segment<'_>) -> Brought {
        self.clock += 1;
        // SYN counts as one octet.
        let start = segment.sequence.wrapping_add(u32::from(segment.syn));
        if segment.syn {
            self.open(connection, start);
        }
        let something = !segment.payload.is_empty();
        let Some(stream) = self.streams.get_mut(&connection) else {
            return Brought {
                messages: Vec::new(),
                unread: something,
            };
        };
        stream.heard = self.clock;
        if something && !stream.lost {
            stream.push(start, segment.payload);
        }
        Brought {
            messages: stream.whole_messages(),
            unread: something && stream.lost,
        }
    }

    /// Lines a segment up behind the earlier ones of its connection.
    pub(super) fn line_up(&mut self, connection: Connection) -> Turn {
        let Some(stream) = self.streams.get_mut(&connection) else {
            return Turn::default();
        };
        let (gone_on, next) = oneshot::channel();
        let waits = |last: &mut oneshot::Receiver<()>| {
            matches!(last.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        };
        let before = stream.last.replace(next);
        Turn {
            before: before.and_then(|mut last| waits(&mut last).then_some(last)),
            _gone_on: Some(gone_on),
        }
    }

    fn open(&mut self, connection: Connection, first: u32) {
        let present = self.streams.get(&connection);
        if present.is_some_and(|stream| stream.first == first) {
            // The same again.
            return;
        }
        self.streams.remove(&connection);
        let of_pod = |one: &&Connection| one.pod == connection.pod;
        if self.streams.keys().filter(of_pod).count() >= CONNECTIONS_OF_POD {
            self.forget(|one| one.pod == connection.pod);
        } else if self.streams.len() >= CONNECTIONS {
            self.forget(|_| true);
        }
        let stream = Stream {
            first,
            ..Stream::default()
        };
        self.streams.insert(connection, stream);
    }

    /// Forgets the one of these that was silent for longest.
    fn forget(&mut self, of: impl Fn(&Connection) -> bool) {
        let candidates = self.streams.iter().filter(|(one, _)| of(one));
        let silent = candidates.min_by_key(|(_, stream)| stream.heard);
        if let Some(connection) = silent.map(|(one, _)| *one) {
            self.streams.remove(&connection);
        }
    }
}

impl Stream {
    fn push(&mut self, sequence: u32, payload: &[u8]) {
        let place = sequence.wrapping_sub(self.first);
        if self.known_of(place).is_some() {
            self.append(place, payload);
        } else {
            let longest = self.ahead.entry(place).or_default();
            if longest.len() < payload.len() {
                *longest = payload.to_vec();
            }
        }
        while let Some(place) = self.closed_gap() {
            let payload = self.ahead.remove(&place).unwrap_or_default();
            self.append(place, &payload);
        }
    }

    /// How much of what begins there has come already; `None` if there is a gap before it.
    fn known_of(&self, place: u32) -> Option<usize> {
        let known = self.next.wrapping_sub(place);
        // Half of all sequence numbers are behind (RFC 9293 §3.4).
        (known <= u32::MAX / 2).then_some(usize::try_from(known).ok()?)
    }

    fn append(&mut self, place: u32, payload: &[u8]) {
        let known = self.known_of(place).unwrap_or(0);
        let new = payload.get(known..).unwrap_or_default();
        self.waiting.extend_from_slice(new);
        let length = u32::try_from(new.len()).unwrap_or(u32::MAX);
        self.next = self.next.wrapping_add(length);
    }

    fn closed_gap(&self) -> Option<u32> {
        let mut places = self.ahead.keys().copied();
        places.find(|place| self.known_of(*place).is_some())
    }

    fn whole_messages(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut rest = self.waiting.as_slice();
        while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX>() {
            let length = usize::from(u16::from_be_bytes(*prefix));
            let Some((message, further)) = after.split_at_checked(length) else {
                break;
            };
            messages.push(message.to_vec());
            rest = further;
        }
        self.waiting = rest.to_vec();
        let ahead: usize = self.ahead.values().map(Vec::len).sum();
        if self.waiting.len() + ahead > WAITING {
            self.lost = true;
            self.waiting = Vec::new();
            self.ahead.clear();
        }
        messages
    }
}

#[cfg(test)]
mod tests;
