//! Streams of bytes from one namespace to another, all at once, each of which ends or gets stuck.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tests::netns::Netns;

/// How many at once: the chance that all of them take one of two ways is 2 in 65,536.
pub(crate) const STREAMS: usize = 16;
/// Bytes of each.
const LENGTH: usize = 400_000;
/// A stream that isn't done by then is stuck: the kernel sends again after 0.2, 0.6, 1.4 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Sends all of them; how many arrived whole.
///
/// # Errors
/// When a namespace can't be entered or a socket can't be made.
pub(crate) fn send_many((from, to): (&Netns, &Netns), address: IpAddr) -> Result<usize> {
    let listener = to.inside(|| TcpListener::bind(SocketAddr::new(address, 0)))??;
    let at = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let end = Instant::now() + PATIENCE;
    std::thread::scope(|scope| {
        let receivers = scope.spawn(|| accept(&listener, end));
        let senders: Vec<_> = (0..STREAMS)
            .map(|_| scope.spawn(move || from.inside(|| send(at))))
            .collect();
        for sender in senders {
            // One that got stuck is counted by its receiver.
            let _stuck = sender
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        receivers
            .join()
            .map_err(|_| anyhow::anyhow!("a receiver panicked"))?
    })
}

fn send(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("no connection")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&vec![7; LENGTH])?;
    Ok(())
}

/// Takes connections until all are there or time is up, and reads each to its end; how many were whole.
fn accept(listener: &TcpListener, end: Instant) -> Result<usize> {
    let mut taken = Vec::new();
    while taken.len() < STREAMS && Instant::now() < end {
        match listener.accept() {
            Ok((stream, _)) => taken.push(std::thread::spawn(move || is_whole(stream, end))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut whole = 0;
    for reader in taken {
        whole += usize::from(reader.join().unwrap_or(false));
    }
    Ok(whole)
}

fn is_whole(mut stream: TcpStream, end: Instant) -> bool {
    let (mut read, mut buffer) = (0, vec![0; 65_536]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return false;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return read == LENGTH,
            Ok(length) => read += length,
            Err(_) => return false,
        }
    }
}
