//! One TCP connection: a task that reads, a task that writes, bounded channels to both.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::listener::Accepted;
use crate::socket::{self, SocketOptions};

/// What sockets tell the speaker's task.
#[derive(Debug)]
pub(crate) enum Event {
    /// A configured peer's address dialled us.
    Accepted {
        stream: TcpStream,
        remote: SocketAddr,
    },
    /// A dial ended.
    Dialled {
        peer: Arc<str>,
        serial: u64,
        result: io::Result<TcpStream>,
    },
    /// Bytes came.
    Received {
        peer: Arc<str>,
        serial: u64,
        bytes: Bytes,
    },
    /// The connection ended or broke.
    Lost {
        peer: Arc<str>,
        serial: u64,
        reason: String,
    },
    /// A writer has written something, so it has room.
    Room,
}

impl From<Accepted> for Event {
    fn from(accepted: Accepted) -> Self {
        let Accepted { stream, remote, .. } = accepted;
        Self::Accepted { stream, remote }
    }
}

/// Pieces that wait for a writer; the last of them are kept for what is not UPDATEs.
const WRITE_QUEUE: usize = 16;
const KEPT_FOR_CONTROL: usize = 4;
const READ_SIZE: usize = 64 * 1024;
/// SendHoldTime (RFC 9687): a peer that takes no byte for so long is gone.
const SEND_HOLD_TIME: Duration = Duration::from_secs(480);
/// How long the last words of a closed connection may take.
const LINGER: Duration = Duration::from_secs(2);

/// A connection as the speaker's task holds it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) serial: u64,
    /// Our end.
    pub(crate) local: IpAddr,
    writer: mpsc::Sender<Bytes>,
    writing: JoinHandle<()>,
    reading: AbortHandle,
}

impl Connection {
    /// Starts the two tasks.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub(crate) fn start(
        stream: TcpStream,
        peer: &Arc<str>,
        serial: u64,
        inbox: &mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?.ip();
        let (read, write) = stream.into_split();
        let (writer, pieces) = mpsc::channel(WRITE_QUEUE);
        let from = Origin {
            peer: Arc::clone(peer),
            serial,
            inbox: inbox.clone(),
        };
        let reading = tokio::spawn(read_all(read, from.clone())).abort_handle();
        let writing = tokio::spawn(write_all(write, pieces, from));
        Ok(Self {
            serial,
            local,
            writer,
            writing,
            reading,
        })
    }

    /// Whether UPDATEs may be handed to the writer now.
    pub(crate) fn has_room(&self) -> bool {
        self.writer.capacity() > KEPT_FOR_CONTROL
    }

    /// Hands bytes to the writer. A KEEPALIVE that finds no room even in what is kept for it is dropped: the peer has
    /// plenty to read that restarts its hold timer just as well.
    pub(crate) fn send(&self, bytes: Bytes) {
        if self.writer.try_send(bytes).is_err() {
            tracing::debug!(serial = self.serial, "peer does not read: message dropped");
        }
    }

    /// Closes: no byte is read any more, what was sent is still written, for a short while.
    pub(crate) fn close(self) -> impl Future<Output = ()> + Send + 'static {
        self.reading.abort();
        let Self {
            writer,
            mut writing,
            ..
        } = self;
        drop(writer);
        async move {
            if timeout(LINGER, &mut writing).await.is_err() {
                writing.abort();
            }
        }
    }
}

/// Dials from `local` if given.
///
/// # Errors
/// As [`socket::dial`] has them.
pub(crate) async fn dial(remote: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let options = SocketOptions {
        source: local,
        ..SocketOptions::default()
    };
    socket::dial(remote, &options).await
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

/// Reads only as fast as the inbox takes it, so that TCP holds back a peer that is faster than we are.
async fn read_all(mut stream: OwnedReadHalf, to: Origin) {
    let mut buffer = BytesMut::new();
    let reason = loop {
        buffer.reserve(READ_SIZE);
        match stream.read_buf(&mut buffer).await {
            Ok(0) => break "closed by the peer".to_owned(),
            Ok(_) => {
                let bytes = buffer.split().freeze();
                let event = Event::Received {
                    peer: Arc::clone(&to.peer),
                    serial: to.serial,
                    bytes,
                };
                if to.inbox.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    to.lost(reason).await;
}

async fn write_all(mut stream: OwnedWriteHalf, mut pieces: mpsc::Receiver<Bytes>, to: Origin) {
    while let Some(mut piece) = pieces.recv().await {
        while !piece.is_empty() {
            match timeout(SEND_HOLD_TIME, stream.write_buf(&mut piece)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return to.lost(error.to_string()).await,
                Err(_) => return to.lost("send hold timer expired".to_owned()).await,
            }
        }
        // If the inbox is full the task is about to look for room anyway.
        let _ = to.inbox.try_send(Event::Room);
    }
    // An error means that the peer closed first.
    let _ = stream.shutdown().await;
}
