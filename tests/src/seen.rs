//! Servers that say whom they see, and questions to them: what becomes of a client's address on its way.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Netns;
use crate::reach::Transport;

/// How often a server's thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);
const LONGEST_ADDRESS: usize = 64;

/// A TCP and UDP server on one port, all addresses of both families: it tells each client the client's address.
#[derive(Debug)]
pub struct Teller {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Teller {
    /// Starts it in this process, with its sockets in `netns`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let (tcp, udp) = netns.inside(|| -> Result<_> {
            let tcp = TcpListener::bind(any).context("tcp port of the server")?;
            tcp.set_nonblocking(true)?;
            let udp = UdpSocket::bind(any).context("udp port of the server")?;
            udp.set_read_timeout(Some(LOOK))?;
            Ok((tcp, udp))
        })??;
        let stop = Arc::new(AtomicBool::new(false));
        let (for_tcp, for_udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            std::thread::spawn(move || tell_tcp(&tcp, &for_tcp)),
            std::thread::spawn(move || tell_udp(&udp, &for_udp)),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of a server was seen by the client already.
            let _ = thread.join();
        }
    }
}

fn tell_tcp(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, from)) => {
                // A client that has gone needs no answer.
                let _ = stream.write_all(name(from).as_bytes());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn tell_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0_u8; LONGEST_ADDRESS];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name(from).as_bytes(), from);
        }
    }
}

fn name(from: SocketAddr) -> String {
    from.ip().to_canonical().to_string()
}

/// Asks from inside `from`; the address that the server saw, or nothing if no answer came within `patience`.
///
/// # Errors
/// When the namespace can't be entered or a socket can't be made.
pub fn ask(
    from: &Netns,
    to: SocketAddr,
    transport: Transport,
    patience: Duration,
) -> Result<Option<IpAddr>> {
    from.inside(|| match transport {
        Transport::Tcp => Ok(ask_tcp(to, patience)),
        Transport::Udp => {
            let any = match to {
                SocketAddr::V4(_) => "0.0.0.0:0",
                SocketAddr::V6(_) => "[::]:0",
            };
            ask_udp(&UdpSocket::bind(any)?, to, patience)
        }
    })?
}

fn ask_tcp(to: SocketAddr, patience: Duration) -> Option<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// The same by a socket that is there already: its flow may be known.
///
/// # Errors
/// When the socket can't be set up.
pub fn ask_udp(socket: &UdpSocket, to: SocketAddr, patience: Duration) -> Result<Option<IpAddr>> {
    socket.set_read_timeout(Some(patience))?;
    // What is unreachable is so without an answer.
    let _ = socket.send_to(b"whom?", to);
    let mut buffer = [0_u8; LONGEST_ADDRESS];
    let Ok((length, _)) = socket.recv_from(&mut buffer) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(buffer.get(..length).unwrap_or_default())?;
    Ok(text.parse().ok())
}
