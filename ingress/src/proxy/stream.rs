//! A client's connection as hyper reads and writes it, plain or in TLS; it notes when something passed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// When what happened on a connection, in milliseconds since it began. hyper wants streams that may move between threads: these
/// never do, so the atomics cost nothing.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// Requests under way.
    in_flight: AtomicU32,
    /// The last octet in or out.
    last: AtomicU64,
    /// When the last request ended.
    idle_since: AtomicU64,
    /// The first octet since then, plus one; 0: none.
    head_since: AtomicU64,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            began: now,
            in_flight: AtomicU32::new(0),
            last: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
        })
    }

    fn since_began(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.began).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX - 1)
    }

    pub(super) fn begin_request(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn end_request(&self, now: Instant) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.idle_since
            .store(self.since_began(now), Ordering::Relaxed);
    }

    fn passed(&self, is_read: bool) {
        let now = self.since_began(Instant::now());
        self.last.store(now, Ordering::Relaxed);
        let is_idle = self.in_flight.load(Ordering::Relaxed) == 0;
        if is_read && is_idle && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(now + 1, Ordering::Relaxed);
        }
    }

    /// How long nothing passed.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_millis(self.since_began(now).saturating_sub(last))
    }

    /// What the connection waits for, and for how long.
    pub(super) fn state(&self, now: Instant) -> State {
        let for_since =
            |then: u64| Duration::from_millis(self.since_began(now).saturating_sub(then));
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return State::Busy(self.quiet(now));
        }
        match self.head_since.load(Ordering::Relaxed) {
            0 => State::Idle(for_since(self.idle_since.load(Ordering::Relaxed))),
            since => State::Head(for_since(since - 1)),
        }
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Requests are under way; for so long nothing passed.
    Busy(Duration),
    /// The head of a request has begun so long ago.
    Head(Duration),
    /// There is no request, for so long.
    Idle(Duration),
}

/// The connection.
pub(super) struct Stream {
    io: Io,
    activity: Arc<Activity>,
}

enum Io {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Stream {
    pub(super) fn plain(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self {
            io: Io::Plain(TokioIo::new(stream)),
            activity,
        }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, activity: Arc<Activity>) -> Self {
        Self {
            io: Io::Tls(Box::new(TokioIo::new(stream))),
            activity,
        }
    }

    fn note(&self, is_read: bool, poll: &Poll<io::Result<impl Sized>>) {
        if matches!(poll, Poll::Ready(Ok(_))) {
            self.activity.passed(is_read);
        }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buffer),
        };
        self.note(true, &read);
        read
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        };
        self.note(false, &written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.io {
            Io::Plain(io) => write_together(Pin::new(io), cx, bytes),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bytes),
        };
        self.note(false, &written);
        written
    }
}

/// So much is copied together for one plain write: a head, and the body of a short response.
const SHORT: usize = 2048;

/// Writes several pieces by one call. Short ones go by `send`, for which the kernel has less to do than for `writev`: hyper asks
/// for that even where there is one piece.
fn write_together(
    io: Pin<&mut TokioIo<TcpStream>>,
    cx: &mut Context<'_>,
    pieces: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return io.poll_write(cx, piece);
    }
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    if length > SHORT {
        return io.poll_write_vectored(cx, pieces);
    }
    let mut together: SmallVec<[u8; SHORT]> = SmallVec::new();
    for piece in pieces {
        together.extend_from_slice(piece);
    }
    io.poll_write(cx, &together)
}

/// A connection to an endpoint, as hyper reads and writes it.
pub(super) struct ToEndpoint(pub(super) TokioIo<TcpStream>);

impl Read for ToEndpoint {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for ToEndpoint {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        write_together(Pin::new(&mut self.0), cx, pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_has_begun_is_told_from_an_idle_connection_and_from_a_busy_one() {
        let now = Instant::now();
        let activity = Activity::new(now);
        let later = now + Duration::from_secs(20);
        assert_eq!(activity.state(later), State::Idle(Duration::from_secs(20)));
        activity.passed(true);
        assert!(matches!(activity.state(later), State::Head(since) if since.as_secs() >= 19));
        activity.begin_request();
        assert!(matches!(activity.state(later), State::Busy(_)));
        activity.end_request(later);
        assert_eq!(activity.state(later), State::Idle(Duration::ZERO));
        activity.passed(false);
        assert!(
            matches!(activity.state(later), State::Idle(_)),
            "what is written begins no head"
        );
    }
}
