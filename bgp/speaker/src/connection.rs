//! One TCP connection: a task that reads, a task that writes, bounded channels to both.
//!
//! Reading: a connection has at most [`PIECES_IN_FLIGHT`] pieces of 256 KiB at most that the owner has not done with,
//! so that one fast peer neither fills the inbox nor delays what others say by more than its share; then TCP holds it
//! back. Writing: [`Connection::has_room`] says whether UPDATEs may be handed over; what is said besides them always
//! may, and stands behind no more than [`UPDATE_ROOM`] and one piece. [`Connection::progress`] is what a SendHoldTimer
//! (RFC 9687) looks at: a few atomics, no message, so that looking costs nothing and a slow peer makes no noise.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::speaker::Endpoints;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::listener::{Accepted, Slot};

pub use reader::{PIECES_IN_FLIGHT, Piece};
use writer::Queue;
pub use writer::{UPDATE_ROOM, WriteProgress};

/// What sockets tell the speaker's task.
#[derive(Debug)]
pub enum Event {
    /// A configured peer's address dialled us.
    Accepted(Accepted),
    /// A dial ended.
    Dialled {
        /// Who was dialled.
        peer: Arc<str>,
        /// Which dial it was.
        serial: u64,
        /// What came of it.
        result: io::Result<TcpStream>,
    },
    /// Bytes came.
    Received {
        /// From whom.
        peer: Arc<str>,
        /// On which connection.
        serial: u64,
        /// To be dropped when done with: then more is read.
        bytes: Piece,
    },
    /// The connection ended or broke.
    Lost {
        /// Whose.
        peer: Arc<str>,
        /// Which.
        serial: u64,
        /// How.
        reason: String,
    },
    /// A writer that had no room for UPDATEs has some.
    Room,
}

impl From<Accepted> for Event {
    fn from(accepted: Accepted) -> Self {
        Self::Accepted(accepted)
    }
}

/// How long the last words of a closed connection may take.
const LINGER: Duration = Duration::from_secs(2);

/// A connection as its owner holds it.
#[derive(Debug)]
pub struct Connection {
    /// Which one its events are about.
    pub serial: u64,
    /// Its two ends.
    pub endpoints: Endpoints,
    /// Its place among the connections that have no session yet.
    pub slot: Option<Slot>,
    queue: Queue,
    writing: JoinHandle<()>,
    reading: AbortHandle,
}

impl Connection {
    /// Starts the two tasks.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn start(
        stream: TcpStream,
        peer: &Arc<str>,
        serial: u64,
        inbox: &mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        let endpoints = endpoints(stream.local_addr()?, stream.peer_addr()?);
        let (read, write) = stream.into_split();
        let from = Origin {
            peer: Arc::clone(peer),
            serial,
            inbox: inbox.clone(),
        };
        let reading = tokio::spawn(reader::read_all(read, from.clone())).abort_handle();
        let (queue, pieces) = Queue::new();
        let writing = tokio::spawn(writer::write_all(write, pieces, from));
        Ok(Self {
            serial,
            endpoints,
            slot: None,
            queue,
            writing,
            reading,
        })
    }

    /// Whether UPDATEs may be handed to the writer now. After a no, [`Event::Room`] says when to ask again.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    /// Hands bytes to the writer, whole messages. A peer that leaves even what is kept besides UPDATEs unread is lost.
    pub fn send(&self, bytes: Bytes) {
        self.queue.push(bytes);
    }

    /// What waits unwritten, and since when.
    #[must_use]
    pub fn progress(&self, now: Instant) -> WriteProgress {
        self.queue.progress(now)
    }

    /// Closes: no byte is read any more, what was sent is still written, for a short while.
    pub fn close(self) -> impl Future<Output = ()> + Send + 'static {
        self.reading.abort();
        let Self {
            queue, mut writing, ..
        } = self;
        drop(queue);
        async move {
            if timeout(LINGER, &mut writing).await.is_err() {
                writing.abort();
            }
        }
    }
}

/// The two ends, with what a next hop on their link needs.
fn endpoints(local: SocketAddr, remote: SocketAddr) -> Endpoints {
    let link = match remote {
        SocketAddr::V6(remote) if remote.scope_id() != 0 => Some(remote.scope_id()),
        _ => None,
    };
    let link_local = match local {
        SocketAddr::V6(local) if local.ip().is_unicast_link_local() => Some(*local.ip()),
        _ => None,
    };
    Endpoints {
        local,
        remote,
        link_local,
        link,
    }
}

/// Where a task's events come from and go to.
#[derive(Clone, Debug)]
struct Origin {
    peer: Arc<str>,
    serial: u64,
    inbox: mpsc::Sender<Event>,
}

impl Origin {
    async fn lost(&self, reason: String) {
        let event = Event::Lost {
            peer: Arc::clone(&self.peer),
            serial: self.serial,
            reason,
        };
        // An error means that the speaker has ended: nobody is left to be told.
        let _ = self.inbox.send(event).await;
    }
}
