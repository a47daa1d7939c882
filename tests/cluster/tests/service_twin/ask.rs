//! Servers that say where they are and whom they see, and questions from many places at once.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tests::netns::Netns;
use tests::reach::Transport;

/// The ports that every server listens on.
pub(crate) const PORTS: [u16; 2] = [8080, 8081];
/// How many questions each place asks at once: most of the time goes by waiting for what is dropped.
const AT_ONCE: usize = 32;
const LONGEST: usize = 128;

/// What became of one question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// An endpoint said where it is, and whom it saw.
    Answered { by: SocketAddr, seen: IpAddr },
    /// At once: nobody listens, or a rule says so.
    Refused,
    /// A router said that there is no way.
    Unreachable,
    /// Nothing came: dropped.
    Silent,
}

/// All that became of one question asked often.
pub(crate) type Got = BTreeSet<Outcome>;

/// Where to, and by what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) to: SocketAddr,
    pub(crate) transport: Transport,
}

/// TCP at all addresses of a namespace and UDP at these, on each of [`PORTS`].
#[derive(Debug)]
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(netns: &Netns, addresses: &[IpAddr]) -> Result<Self> {
        let bound = netns.inside(|| bind(addresses))??;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = Some(std::thread::spawn(move || {
            serve(&bound.0, &bound.1, &until)
        }));
        Ok(Self { stop, thread })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of it was seen by who asked it.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn bind(addresses: &[IpAddr]) -> Result<(Vec<TcpListener>, Vec<UdpSocket>)> {
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for port in PORTS {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(any).context("a server's port")?;
        listener.set_nonblocking(true)?;
        tcp.push(listener);
        for &address in addresses {
            let socket = UdpSocket::bind((address, port)).with_context(|| address.to_string())?;
            socket.set_nonblocking(true)?;
            udp.push(socket);
        }
    }
    Ok((tcp, udp))
}

fn serve(tcp: &[TcpListener], udp: &[UdpSocket], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let of_tcp = tcp.iter().map(|socket| socket.as_fd());
        let of_udp = udp.iter().map(|socket| socket.as_fd());
        let all = of_tcp.chain(of_udp);
        let mut waiting: Vec<PollFd<'_>> =
            all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = poll(&mut waiting, PollTimeout::from(100_u8));
        for listener in tcp {
            while let Ok((mut stream, from)) = listener.accept() {
                if let Ok(at) = stream.local_addr() {
                    // A client that has gone needs no answer.
                    let _ = stream.write_all(words(at, from).as_bytes());
                }
            }
        }
        for socket in udp {
            let mut buffer = [0_u8; LONGEST];
            while let (Ok((_, from)), Ok(at)) = (socket.recv_from(&mut buffer), socket.local_addr())
            {
                let _ = socket.send_to(words(at, from).as_bytes(), from);
            }
        }
    }
}

fn words(at: SocketAddr, from: SocketAddr) -> String {
    let at = SocketAddr::new(at.ip().to_canonical(), at.port());
    format!("{at} {}", from.ip().to_canonical())
}

fn parse(text: &str) -> Result<Outcome> {
    let (by, seen) = text.split_once(' ').with_context(|| format!("'{text}'"))?;
    Ok(Outcome::Answered {
        by: by.parse()?,
        seen: seen.parse()?,
    })
}

/// Asks once, in the namespace of this thread.
fn ask(way: Way, patience: Duration) -> Result<Outcome> {
    let said = match way.transport {
        Transport::Tcp => ask_tcp(way.to, patience),
        Transport::Udp => ask_udp(way.to, patience),
    };
    match said {
        Ok(text) => parse(&text),
        Err(error) => match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Outcome::Silent),
            ErrorKind::ConnectionRefused => Ok(Outcome::Refused),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Outcome::Unreachable),
            _ => Err(anyhow!("{way:?}: {error}")),
        },
    }
}

fn ask_tcp(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask_udp(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    match socket.send(b"whom?") {
        // A rule has stopped the node's own datagram; whether it was refused is heard as from anywhere else.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        sent => drop(sent?),
    }
    let mut buffer = [0_u8; LONGEST];
    let length = socket.recv(&mut buffer)?;
    let text = buffer.get(..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// How often and how long is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// What is answered is asked so often that every endpoint is likely to have answered.
    pub(crate) tries: usize,
    pub(crate) patience: Duration,
}

/// Asks all of it from one place, many at once; what became of each, in order, and how often was asked.
pub(crate) fn ask_all(from: &Netns, ways: &[Way], effort: Effort) -> Result<(Vec<Got>, usize)> {
    let (next, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (tell, told) = channel();
    let work = || -> Result<()> {
        let tell = tell.clone();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&way) = ways.get(at) else {
                return Ok(());
            };
            let mut got = Got::new();
            for number in 0..effort.tries {
                let outcome = ask(way, effort.patience)?;
                asked.fetch_add(1, Ordering::Relaxed);
                let is_over = match outcome {
                    Outcome::Answered { .. } => false,
                    Outcome::Refused => number > 0,
                    // It took its time, and TCP has asked twice in it.
                    Outcome::Unreachable | Outcome::Silent => true,
                };
                got.insert(outcome);
                if is_over {
                    break;
                }
            }
            let _ = tell.send((at, got));
        }
    };
    std::thread::scope(|scope| {
        let count = AT_ONCE.min(ways.len());
        let workers: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| from.inside(work)?))
            .collect();
        let mut joined = workers.into_iter().map(|worker| worker.join());
        joined.try_for_each(|result| result.map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    drop(tell);
    let mut all = vec![Got::new(); ways.len()];
    for (at, got) in told {
        if let Some(place) = all.get_mut(at) {
            *place = got;
        }
    }
    Ok((all, asked.into_inner()))
}
