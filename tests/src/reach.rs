//! Who reaches whom: echo servers, and single connections from one namespace to another.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// The port every server of the lab listens on, TCP and UDP.
pub const PORT: u16 = 8080;

/// How often a server's thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// What a connection runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// A handshake and an echo.
    Tcp,
    /// A datagram and its echo.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How an attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The echo came back.
    Answered,
    /// Nothing came back in time: what a dropped packet looks like.
    Silent,
    /// Refused or unreachable: somebody said no.
    Refused,
}

/// A TCP and UDP echo server on [`PORT`], all addresses of both families.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts it in this process, with its sockets in `netns`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(netns: &Netns) -> Result<Self> {
        let (tcp, udp) = netns.inside(bind)??;
        let stop = Arc::new(AtomicBool::new(false));
        let (for_tcp, for_udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            std::thread::spawn(move || serve_tcp(&tcp, &for_tcp)),
            std::thread::spawn(move || serve_udp(&udp, &for_udp)),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of a server was seen by the client already.
            let _ = thread.join();
        }
    }
}

/// Serves in this process's own namespace until the process ends.
///
/// # Errors
/// When the port is taken.
pub fn serve_forever() -> Result<()> {
    let (tcp, udp) = bind()?;
    let stop = Arc::new(AtomicBool::new(false));
    let for_udp = Arc::clone(&stop);
    std::thread::spawn(move || serve_udp(&udp, &for_udp));
    serve_tcp(&tcp, &stop);
    Ok(())
}

/// Tries once, from inside `from`, to have `to` echo a few bytes within `patience`.
///
/// # Errors
/// When the namespace can't be entered or a socket can't be made.
pub fn attempt(
    from: &Netns,
    to: SocketAddr,
    transport: Transport,
    patience: Duration,
) -> Result<Verdict> {
    from.inside(|| match transport {
        Transport::Tcp => attempt_tcp(to, patience),
        Transport::Udp => attempt_udp(to, patience),
    })?
}

/// The address of the server on `address`.
#[must_use]
pub fn server_at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, PORT)
}

fn bind() -> Result<(TcpListener, UdpSocket)> {
    let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT);
    let tcp = TcpListener::bind(any).context("tcp port of the echo server")?;
    tcp.set_nonblocking(true)?;
    let udp = UdpSocket::bind(any).context("udp port of the echo server")?;
    udp.set_read_timeout(Some(LOOK))?;
    Ok((tcp, udp))
}

fn serve_tcp(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let stop = Arc::clone(stop);
                std::thread::spawn(move || echo_stream(stream, &stop));
            }
            Err(_) => wait_readable(listener),
        }
    }
}

/// Sleeps until a connection waits, or until it is time to look at the stop flag.
fn wait_readable(listener: &TcpListener) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::from(100_u8));
}

fn echo_stream(mut stream: TcpStream, stop: &Arc<AtomicBool>) {
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(LOOK)));
    if ready.is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    let mut buffer = [0_u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if stream
                    .write_all(buffer.get(..length).unwrap_or_default())
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

fn serve_udp(socket: &UdpSocket, stop: &Arc<AtomicBool>) {
    let mut buffer = [0_u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), peer);
        }
    }
}

fn attempt_tcp(to: SocketAddr, patience: Duration) -> Result<Verdict> {
    let mut stream = match TcpStream::connect_timeout(&to, patience) {
        Ok(stream) => stream,
        Err(error) => return Ok(verdict_of(&error)),
    };
    stream.set_read_timeout(Some(patience))?;
    if let Err(error) = stream.write_all(b"ahoy") {
        return Ok(verdict_of(&error));
    }
    let mut buffer = [0_u8; 4];
    Ok(stream
        .read_exact(&mut buffer)
        .map_or_else(|e| verdict_of(&e), |()| Verdict::Answered))
}

fn attempt_udp(to: SocketAddr, patience: Duration) -> Result<Verdict> {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(patience))?;
    let sent = socket.connect(to).and_then(|()| socket.send(b"ahoy"));
    if let Err(error) = sent {
        return Ok(verdict_of(&error));
    }
    let mut buffer = [0_u8; 4];
    Ok(socket
        .recv(&mut buffer)
        .map_or_else(|e| verdict_of(&e), |_| Verdict::Answered))
}

fn verdict_of(error: &std::io::Error) -> Verdict {
    if is_timeout(error) {
        Verdict::Silent
    } else {
        Verdict::Refused
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}
