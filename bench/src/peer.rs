//! One session with the daemon under test: dials it, announces prepared octets, counts what comes back.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::tests::netns::Netns;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sink::{Expected, Progress, Sink};
use crate::table::put_message;
use crate::walk::{self, kind};

/// HoldTime we propose, seconds.
const HOLD: u16 = 90;
const KEEPALIVE: Duration = Duration::from_secs(25);
/// GoBGP takes connections only some seconds after its start.
const ESTABLISH: Duration = Duration::from_secs(60);
/// How much is written between two chances for a KEEPALIVE.
const CHUNK: usize = 128 * 1024;

/// Who a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its AS.
    pub asn: u32,
    /// Its address, and BGP Identifier.
    pub address: Ipv4Addr,
    /// The daemon's address on the link to it.
    pub daemon: Ipv4Addr,
}

/// An established session.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    writer: Arc<Mutex<TcpStream>>,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl Peer {
    /// Dials the daemon from inside `netns` until the session is established.
    ///
    /// # Errors
    /// When that takes too long; holds why the last attempt failed.
    pub fn establish(netns: &Netns, identity: Identity, expected: Expected) -> Result<Self> {
        let start = Instant::now();
        let stream = loop {
            match netns.inside(|| open(identity))? {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > ESTABLISH => {
                    return Err(error.context(format!("no session from {}", identity.address)));
                }
                Err(_) => ::tests::wait::pause(Duration::from_millis(100))?,
            }
        };
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let writer = Arc::new(Mutex::new(stream.try_clone()?));
        let stop = Arc::new(AtomicBool::new(false));
        let sink = Sink::new(expected);
        let progress = sink.progress();
        let reading = Reading {
            stream: stream.try_clone()?,
            writer: Arc::clone(&writer),
            stop: Arc::clone(&stop),
            sink,
        };
        let reader = std::thread::spawn(move || reading.run());
        Ok(Self {
            stream,
            writer,
            progress,
            stop,
            reader: Some(reader),
        })
    }

    /// How far its sink is.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Writes prepared messages; returns when the kernel has taken the last.
    ///
    /// # Errors
    /// When the session is gone.
    pub fn inject(&self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(whole_messages(rest));
            lock(&self.writer).write_all(chunk)?;
            rest = after;
        }
        Ok(())
    }

    /// Asks for all routes again (RFC 2918).
    ///
    /// # Errors
    /// When the session is gone.
    pub fn request_refresh(&self) -> Result<()> {
        const ROUTE_REFRESH: u8 = 5;
        let mut message = Vec::new();
        put_message(ROUTE_REFRESH, &[0, 1, 0, 1], &mut message);
        self.inject(&message)
    }

    /// An error if its reader has ended: the daemon closed the session or said something wrong.
    ///
    /// # Errors
    /// When it is no longer established.
    pub fn check(&mut self) -> Result<()> {
        match self.reader.take_if(|reader| reader.is_finished()) {
            None => Ok(()),
            Some(reader) => match reader.join() {
                Ok(ended) => ended.and(Err(anyhow!("the session has ended"))),
                Err(_) => bail!("the reader has panicked"),
            },
        }
    }

    /// Ends the session by a TCP reset.
    ///
    /// # Errors
    /// When the socket can't be told.
    pub fn reset(mut self) -> Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the reader at once; with linger zero the last close sends the reset.
        let _ = self.stream.shutdown(std::net::Shutdown::Read);
        match self.reader.take().map(JoinHandle::join) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(_)) => bail!("the reader has panicked"),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The session is to go anyway.
        let _ = self.end();
    }
}

fn lock(writer: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Octets of the whole messages at the start of `bytes` that fit a chunk; all of them if they are no messages.
fn whole_messages(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(length) = bytes.get(end + 16..end + 18) {
        let length = length
            .iter()
            .fold(0, |sum, octet| sum << 8 | usize::from(*octet));
        if length < walk::HEADER || (end > 0 && end + length > CHUNK) {
            break;
        }
        end += length;
    }
    if end == 0 {
        bytes.len()
    } else {
        end.min(bytes.len())
    }
}

/// Connects and exchanges OPENs and KEEPALIVEs.
fn open(identity: Identity) -> Result<TcpStream> {
    const WAIT: Duration = Duration::from_secs(5);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from(SocketAddrV4::new(identity.address, 0)).into())?;
    let daemon = SocketAddr::from(SocketAddrV4::new(identity.daemon, 179));
    socket.connect_timeout(&daemon.into(), WAIT)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(WAIT))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&open_message(identity))?;
    expect(&mut stream, kind::OPEN)?;
    let mut keepalive = Vec::new();
    put_message(kind::KEEPALIVE, &[], &mut keepalive);
    stream.write_all(&keepalive)?;
    expect(&mut stream, kind::KEEPALIVE)?;
    Ok(stream)
}

fn open_message(identity: Identity) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4];
    capabilities.extend(identity.asn.to_be_bytes());
    let mut body = vec![4];
    let two_octets = u16::try_from(identity.asn).unwrap_or(23_456);
    body.extend(two_octets.to_be_bytes());
    body.extend(HOLD.to_be_bytes());
    body.extend(identity.address.octets());
    let length = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    let mut message = Vec::new();
    put_message(kind::OPEN, &body, &mut message);
    message
}

/// Reads one message, no octet further, which must be of this kind.
fn expect(stream: &mut TcpStream, wanted: u8) -> Result<()> {
    let mut header = [0; walk::HEADER];
    stream.read_exact(&mut header)?;
    let [.., high, low, kind] = header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let mut body = vec![0; length.checked_sub(walk::HEADER).context("bad length")?];
    stream.read_exact(&mut body)?;
    ensure!(kind == wanted, "message {kind}: {body:?}");
    Ok(())
}

/// What the reading thread owns.
struct Reading {
    stream: TcpStream,
    writer: Arc<Mutex<TcpStream>>,
    stop: Arc<AtomicBool>,
    sink: Sink,
}

impl Reading {
    fn run(mut self) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut filled = 0;
        let mut spoken = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => bail!("closed by the daemon"),
                Ok(count) => filled += count,
                Err(error) if is_timeout(error.kind()) => {}
                Err(error) => return Err(error.into()),
            }
            let used = self.take(buffer.get(..filled).unwrap_or_default())?;
            buffer.copy_within(used..filled, 0);
            filled -= used;
            if spoken.elapsed() > KEEPALIVE {
                self.keep_alive()?;
                spoken = Instant::now();
            }
        }
        Ok(())
    }

    /// Takes the whole messages; says how many octets they are.
    fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        let broken = |_| anyhow!("malformed message from the daemon");
        let mut rest = bytes;
        while let Some((kind, body, after)) = walk::message(rest).map_err(broken)? {
            match kind {
                kind::UPDATE => self.sink.update(body).map_err(broken)?,
                kind::NOTIFICATION => bail!("NOTIFICATION from the daemon: {body:?}"),
                _ => {}
            }
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn keep_alive(&self) -> Result<()> {
        // Whoever holds the lock is writing UPDATEs, which are as good as a KEEPALIVE.
        if let Ok(mut writer) = self.writer.try_lock() {
            let mut message = Vec::new();
            put_message(kind::KEEPALIVE, &[], &mut message);
            writer.write_all(&message)?;
        }
        Ok(())
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_ends_where_a_message_ends() {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            put_message(kind::UPDATE, &[7; 3_000], &mut bytes);
        }
        let length = 3_000 + walk::HEADER;
        let first = whole_messages(&bytes);
        assert_eq!(first % length, 0);
        assert!(first <= CHUNK && first + length > CHUNK);
        assert_eq!(whole_messages(&bytes[..length]), length);
    }
}
