//! A server of SCTP (RFC 9260) that each client is told its address by, and questions to it: what the common kernel has not.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tests::netns::Netns;

use super::{ANSWER, TELLS};

/// Its number, as IP has it.
const SCTP: i32 = 132;

/// The server, at one address of each family: associations with several would tell them all.
pub(super) struct Listener {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn start(netns: &Netns, addresses: &[IpAddr]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let each = addresses.iter().map(|address| {
            let socket = socket(netns, *address);
            socket
                .bind(&SocketAddr::new(*address, TELLS).into())
                .unwrap();
            socket.listen(8).unwrap();
            socket.set_nonblocking(true).unwrap();
            let (listener, stop) = (TcpListener::from(socket), Arc::clone(&stop));
            thread::spawn(move || tell(&listener, &stop))
        });
        let threads = each.collect();
        Self { stop, threads }
    }

    /// Asks from a place; it must be answered.
    pub(super) fn is_asked(&self, from: &Netns, to: SocketAddr) {
        assert!(self.threads.iter().all(|thread| !thread.is_finished()));
        let socket = socket(from, to.ip());
        let connected = socket.connect_timeout(&to.into(), ANSWER);
        connected.unwrap_or_else(|error| panic!("SCTP to {to}: {error}"));
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let mut text = [0; 64];
        let length = stream.read(&mut text).unwrap();
        let told = std::str::from_utf8(&text[..length]).unwrap();
        assert!(told.parse::<IpAddr>().is_ok(), "{told:?}");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One-to-one (RFC 6458 section 4): it is used as one of TCP.
fn socket(netns: &Netns, like: IpAddr) -> Socket {
    let domain = if like.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let made = netns.inside(|| Socket::new(domain, Type::STREAM, Some(Protocol::from(SCTP))));
    made.unwrap().expect("a kernel with the module sctp")
}

fn tell(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, from)) => {
                let _ = stream.write_all(from.ip().to_string().as_bytes());
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
