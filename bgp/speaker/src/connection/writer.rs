//! Writing a connection: what waits is bounded in bytes, goes out many pieces at a time, and its progress is seen.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Notify, mpsc};

use super::{Event, Origin};

/// Bytes that wait from which on no further UPDATEs are taken.
pub const UPDATE_ROOM: u64 = 256 * 1024;
/// Bytes below which a writer says that it has room again.
const LOW: u64 = UPDATE_ROOM / 2;
/// More than this waits only when the peer has read nothing for hours: [`UPDATE_ROOM`], the largest piece of UPDATEs
/// that began below it, and thousands of KEEPALIVEs.
const MOST: u64 = 2 * UPDATE_ROOM;
/// Pieces that wait; the bound in bytes is reached first unless they are tiny.
const PIECES: usize = 4096;
/// Pieces written by one call.
const AT_ONCE: usize = 64;

/// How far a writer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteProgress {
    /// Bytes handed over that TCP has not taken yet.
    pub waiting: u64,
    /// Bytes that TCP has taken in all: a change is progress (RFC 9687 §3.2).
    pub written: u64,
    /// For how long bytes have waited without any being taken; zero when none wait.
    pub blocked_for: Duration,
}

/// The owner's end.
#[derive(Debug)]
pub(super) struct Queue {
    pieces: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
}

/// The writer's end.
pub(super) struct Pieces {
    queue: mpsc::Receiver<Bytes>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    handed: AtomicU64,
    written: AtomicU64,
    /// Milliseconds after `started` of the last progress, or of the first byte that waits.
    since: AtomicU64,
    /// Somebody has been told that there is no room.
    room_wanted: AtomicBool,
    overflow: Notify,
}

impl Queue {
    pub(super) fn new() -> (Self, Pieces) {
        let (pieces, queue) = mpsc::channel(PIECES);
        let shared = Arc::new(Shared {
            started: Instant::now(),
            handed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            since: AtomicU64::new(0),
            room_wanted: AtomicBool::new(false),
            overflow: Notify::new(),
        });
        let writer = Pieces {
            queue,
            shared: Arc::clone(&shared),
        };
        (Self { pieces, shared }, writer)
    }

    pub(super) fn has_room(&self) -> bool {
        if self.shared.waiting() < UPDATE_ROOM {
            return true;
        }
        self.shared.room_wanted.store(true, Ordering::SeqCst);
        // What was written in between was not announced.
        self.shared.waiting() < LOW
    }

    pub(super) fn push(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let shared = &self.shared;
        if shared.waiting() == 0 {
            shared.mark_time();
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        shared.handed.fetch_add(len, Ordering::SeqCst);
        if shared.waiting() > MOST || self.pieces.try_send(bytes).is_err() {
            shared.overflow.notify_one();
        }
    }

    pub(super) fn progress(&self, now: Instant) -> WriteProgress {
        let waiting = self.shared.waiting();
        let since = Duration::from_millis(self.shared.since.load(Ordering::SeqCst));
        WriteProgress {
            waiting,
            written: self.shared.written.load(Ordering::SeqCst),
            blocked_for: match waiting {
                0 => Duration::ZERO,
                _ => now.saturating_duration_since(self.shared.started + since),
            },
        }
    }
}

impl Shared {
    fn waiting(&self) -> u64 {
        let written = self.written.load(Ordering::SeqCst);
        self.handed.load(Ordering::SeqCst).saturating_sub(written)
    }

    fn mark_time(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(since, Ordering::SeqCst);
    }
}

/// Writes until the owner drops its end, then says that there is no more.
pub(super) async fn write_all(mut stream: OwnedWriteHalf, mut from: Pieces, to: Origin) {
    let shared = Arc::clone(&from.shared);
    let mut batch = VecDeque::new();
    while from.fill(&mut batch).await {
        let slices: Vec<IoSlice<'_>> = batch.iter().map(|piece| IoSlice::new(piece)).collect();
        let written = tokio::select! {
            written = stream.write_vectored(&slices) => written,
            () = shared.overflow.notified() => {
                return to.lost("the peer does not read: too much waits for it".to_owned()).await;
            }
        };
        match written {
            Ok(written) if written > 0 => {
                advance(&mut batch, written);
                shared.mark_time();
                let written = u64::try_from(written).unwrap_or(u64::MAX);
                shared.written.fetch_add(written, Ordering::SeqCst);
            }
            Ok(_) => return to.lost("closed by the peer".to_owned()).await,
            Err(error) => return to.lost(error.to_string()).await,
        }
        if shared.waiting() < LOW && shared.room_wanted.swap(false, Ordering::SeqCst) {
            // An error means that the speaker has ended.
            let _ = to.inbox.send(Event::Room).await;
        }
    }
    // An error means that the peer closed first.
    if stream.shutdown().await.is_ok() {
        read_out(&stream).await;
    }
}

/// Reads what still comes, to the end: a socket closed with unread bytes is reset by the kernel, and a peer that
/// writes at that moment never gets to read our last words (a NOTIFICATION).
async fn read_out(stream: &OwnedWriteHalf) {
    let stream: &TcpStream = stream.as_ref();
    let mut ignored = [0; 4096];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut ignored) {
            Ok(read) if read > 0 => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

impl Pieces {
    /// Adds what waits to the batch; waits itself only if there is nothing. False: nothing comes any more.
    async fn fill(&mut self, batch: &mut VecDeque<Bytes>) -> bool {
        if batch.is_empty() {
            let Some(first) = self.queue.recv().await else {
                return false;
            };
            batch.push_back(first);
        }
        while batch.len() < AT_ONCE
            && let Ok(next) = self.queue.try_recv()
        {
            batch.push_back(next);
        }
        true
    }
}

fn advance(batch: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = batch.front_mut() {
        if written < first.len() {
            return first.advance(written);
        }
        written -= first.len();
        batch.pop_front();
    }
}
