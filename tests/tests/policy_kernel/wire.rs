//! The sockets that probes are sent from and arrive at: packet sockets at the far ends, raw ones on the node.

use std::cell::Cell;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt,
    socket, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Place;
use crate::packet::{Mark, Packet, is_refusal, read_body, read_datagram};

/// Room for what arrives between two looks.
const ROOM: usize = 16 << 20;
const ETHERNET: usize = 14;

/// The far end of a link of the node: whole frames go out and come in, no stack answers.
pub(crate) struct FarEnd {
    pub(crate) place: Place,
    interface: LinkAddr,
    /// Destination and source of every frame.
    head: [u8; 12],
    v4: OwnedFd,
    v6: OwnedFd,
    refusals: Cell<u64>,
}

impl FarEnd {
    /// Opens the sockets in the thread's namespace, on `eth0`.
    pub(crate) fn new(place: Place, node: [u8; 6], own: [u8; 6]) -> Result<Self> {
        let open = |protocol| -> Result<OwnedFd> {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let made = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)?;
            setsockopt(&made, sockopt::RcvBufForce, &ROOM)?;
            Ok(made)
        };
        let of_link = |found: nix::ifaddrs::InterfaceAddress| {
            let address = *found.address?.as_link_addr()?;
            (found.interface_name == "eth0").then_some(address)
        };
        let interface = nix::ifaddrs::getifaddrs()?.find_map(of_link);
        let mut head = [0; 12];
        head[..6].copy_from_slice(&node);
        head[6..].copy_from_slice(&own);
        Ok(Self {
            place,
            interface: interface.context("no eth0 there")?,
            head,
            v4: open(SockProtocol::EthIp)?,
            v6: open(SockProtocol::EthIpv6)?,
            refusals: Cell::new(0),
        })
    }

    pub(crate) fn send(&self, packet: &Packet) -> Result<()> {
        let mut frame = self.head.to_vec();
        let (kind, of) = if packet.destination.is_ipv4() {
            ([8, 0], &self.v4)
        } else {
            ([0x86, 0xdd], &self.v6)
        };
        frame.extend(kind);
        frame.extend(packet.bytes());
        sendto(of.as_raw_fd(), &frame, &self.interface, MsgFlags::empty())
            .with_context(|| format!("{packet:?}"))?;
        Ok(())
    }

    /// Hands over what has arrived.
    pub(crate) fn drain(&self, mut take: impl FnMut(Mark)) -> Result<()> {
        let mut buffer = [0_u8; 2048];
        for of in [&self.v4, &self.v6] {
            loop {
                match recv(of.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => {
                        let datagram = buffer.get(ETHERNET..length).unwrap_or_default();
                        read_datagram(datagram).into_iter().for_each(&mut take);
                        if is_refusal(datagram) {
                            self.refusals.set(self.refusals.get() + 1);
                        }
                    }
                    Err(Errno::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// How many refusals have come: a sender whose packet is dropped gets none.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.get()
    }
}

/// The node's own sockets: what they get has passed its INPUT, what they send passes its OUTPUT.
pub(crate) struct NodeEnd {
    v4: Socket,
    v6: Socket,
    receivers: Vec<(bool, u8, Socket)>,
}

impl NodeEnd {
    /// Opens the sockets in the thread's namespace.
    pub(crate) fn new() -> Result<Self> {
        let open = |domain, number: u8| -> Result<Socket> {
            let made = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(number))))?;
            made.set_nonblocking(true)?;
            setsockopt(&made, sockopt::RcvBufForce, &ROOM)?;
            Ok(made)
        };
        let mut receivers = Vec::new();
        for (is_ipv4, domain, numbers) in [
            (true, Domain::IPV4, [6, 17, 132, 1]),
            (false, Domain::IPV6, [6, 17, 132, 58]),
        ] {
            for number in numbers {
                receivers.push((is_ipv4, number, open(domain, number)?));
            }
        }
        // IPPROTO_RAW: the headers are written by the sender.
        Ok(Self {
            v4: open(Domain::IPV4, 255)?,
            v6: open(Domain::IPV6, 255)?,
            receivers,
        })
    }

    pub(crate) fn send(&self, packet: &Packet) -> Result<()> {
        let of = match packet.destination {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let to = SocketAddr::new(packet.destination, 0);
        match of.send_to(&packet.bytes(), &to.into()) {
            // A packet that OUTPUT drops.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            sent => sent.map(drop).with_context(|| format!("{packet:?}")),
        }
    }

    /// Hands over what has arrived.
    pub(crate) fn drain(&self, mut take: impl FnMut(Mark)) -> Result<()> {
        let mut buffer = [0_u8; 2048];
        for (is_ipv4, number, of) in &self.receivers {
            loop {
                let length = match (&mut &*of).read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                let bytes = &buffer[..length];
                // Only IPv4's raw sockets get the header.
                let mark = if *is_ipv4 {
                    read_datagram(bytes)
                } else {
                    read_body(*number, bytes)
                };
                mark.into_iter().for_each(&mut take);
            }
        }
        Ok(())
    }
}
