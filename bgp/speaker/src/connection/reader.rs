//! Reading a connection, no faster than its owner takes what was read.

use std::ops::Deref;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Event, Origin};

/// Pieces of one connection that wait or are worked on: one and the next.
pub const PIECES_IN_FLIGHT: usize = 2;

/// Bytes of one read. While it is held the connection has one piece less to hand on.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    _credit: OwnedSemaphorePermit,
}

impl Deref for Piece {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

pub(super) async fn read_all(mut stream: OwnedReadHalf, to: Origin) {
    let credits = Arc::new(Semaphore::new(PIECES_IN_FLIGHT));
    let mut buffer = Buffer::new();
    let reason = loop {
        let Ok(credit) = Arc::clone(&credits).acquire_owned().await else {
            return;
        };
        match stream.read_buf(buffer.room()).await {
            Ok(0) => break "closed by the peer".to_owned(),
            Ok(read) => {
                let event = Event::Received {
                    peer: Arc::clone(&to.peer),
                    serial: to.serial,
                    bytes: Piece {
                        bytes: buffer.take(read),
                        _credit: credit,
                    },
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

/// What is read into: small for a peer that says little (an idle session costs 4 KiB, and so does a connection that
/// never becomes one), up to 256 KiB a read for one that sends a table.
#[derive(Debug)]
struct Buffer {
    octets: BytesMut,
    /// Room offered to the next read.
    size: usize,
}

const SMALLEST: usize = 4 * 1024;
const LARGEST: usize = 256 * 1024;

impl Buffer {
    fn new() -> Self {
        Self {
            octets: BytesMut::new(),
            size: SMALLEST,
        }
    }

    fn room(&mut self) -> &mut BytesMut {
        self.octets.reserve(self.size);
        &mut self.octets
    }

    /// What the last read gave, `read` bytes of it.
    fn take(&mut self, read: usize) -> Bytes {
        let bytes = self.octets.split().freeze();
        if read >= self.size {
            self.size = (self.size * 2).min(LARGEST);
        } else if read < self.size / 4 {
            self.size = (self.size / 2).max(SMALLEST);
            if self.octets.capacity() > 4 * self.size {
                self.octets = BytesMut::new();
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffer: &mut Buffer, most: usize) -> usize {
        let room = buffer.room();
        let read = most.min(room.capacity());
        room.extend_from_slice(&vec![0; read]);
        buffer.take(read).len()
    }

    #[test]
    fn room_grows_with_what_comes_and_shrinks_again() {
        let mut buffer = Buffer::new();
        for _ in 0..10 {
            read(&mut buffer, usize::MAX);
        }
        assert_eq!(buffer.size, LARGEST);
        assert!(read(&mut buffer, usize::MAX) >= LARGEST);
        for _ in 0..10 {
            assert_eq!(read(&mut buffer, 19), 19);
        }
        assert_eq!(buffer.size, SMALLEST);
        assert!(buffer.octets.capacity() <= 4 * SMALLEST);
    }
}
