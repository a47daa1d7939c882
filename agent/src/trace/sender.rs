//! Sends probes from inside of a pod's network namespace, or from the node's; no process of the pod takes part.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::packet::{Probe, Transport, Tuple};
use super::watch::inside;

/// IPPROTO_RAW: packets come with their IP headers.
const RAW: i32 = 255;

/// Holds a port there, so that nobody else has it, and sends from it.
#[derive(Debug)]
pub(super) struct Sender {
    raw: Socket,
    /// It never listens: the kernel answers for it, as for any port without a listener.
    _port: Option<Socket>,
    tuple: Tuple,
}

impl Sender {
    /// Takes a free port in the namespace; none is the caller's.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the address is not one of it (`AddrNotAvailable`).
    pub(super) fn open(namespace: Option<&File>, tuple: Tuple) -> io::Result<Self> {
        let at = SocketAddr::new(tuple.from, 0);
        let domain = Domain::for_address(at);
        let (raw, port) = inside(namespace, || {
            let raw = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
            raw.bind(&at.into())?;
            let kind = match tuple.transport {
                Transport::Tcp => Some(Type::STREAM),
                Transport::Udp => Some(Type::DGRAM),
                Transport::Icmp => None,
            };
            let port = kind.map(|kind| {
                let socket = Socket::new(domain, kind, None)?;
                socket.bind(&at.into())?;
                io::Result::Ok(socket)
            });
            Ok((raw, port.transpose()?))
        })?;
        let mut tuple = tuple;
        if let Some(port) = &port {
            let bound = port.local_addr()?.as_socket();
            tuple.from_port = bound.map_or(0, |bound| bound.port());
        }
        Ok(Self {
            raw,
            _port: port,
            tuple,
        })
    }

    /// With the port that was taken.
    pub(super) fn tuple(&self) -> Tuple {
        self.tuple
    }

    /// Sends one.
    ///
    /// # Errors
    /// What the pod's kernel says against it: no route, too large for the link, and so on.
    pub(super) fn send(&self, probe: &Probe) -> io::Result<()> {
        // Raw sockets of IPv6 take no port.
        let to = match self.tuple.to {
            IpAddr::V4(_) => SocketAddr::new(self.tuple.to, self.tuple.to_port),
            IpAddr::V6(_) => SocketAddr::new(self.tuple.to, 0),
        };
        let packet = self.tuple.packet(probe);
        self.raw.send_to(&packet, &to.into()).map(drop)
    }
}
