//! The UDP sockets of BFD: one listener per port and family, one sender per session (RFC 5881 §4, §5; RFC 5883).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::peer::BfdPeer;

/// The TTL of every packet sent, and of every single-hop packet received (RFC 5881 §5, RFC 5883 §5).
pub(super) const TTL: u8 = 255;
/// The least source port (RFC 5881 §4).
const FIRST_SOURCE_PORT: u16 = 49_152;
/// DSCP CS6, as routing protocols use.
const TRAFFIC_CLASS: u32 = 0xc0;
/// The highest `SO_PRIORITY` that needs no privilege: the interface's queue for control traffic.
const QUEUE_PRIORITY: u32 = 6;
/// How many source ports are tried.
const PORT_TRIES: u16 = 64;

/// Which listener: by hop count and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listening {
    pub(super) multihop: bool,
    pub(super) ipv6: bool,
}

impl Listening {
    /// The listener a peer's packets come to.
    pub(super) fn of(peer: &BfdPeer) -> Self {
        Self {
            multihop: peer.multihop.is_some(),
            ipv6: peer.remote.is_ipv6(),
        }
    }
}

/// A listener.
#[derive(Debug)]
pub(super) struct Listener(Socket);

/// A datagram as it came.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) length: usize,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) interface: u32,
    pub(super) ttl: u8,
}

impl Listener {
    pub(super) fn bind(listening: Listening, port: u16) -> io::Result<Self> {
        let socket = new_socket(listening.ipv6)?;
        if listening.ipv6 {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        }
        if !listening.multihop {
            socket.attach_filter(&only_from_the_link(listening.ipv6))?;
        }
        socket.bind(&SocketAddr::new(unspecified(listening.ipv6), port).into())?;
        Ok(Self(socket))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next datagram that waits; None when there is none. One without the marks it should have is an error of
    /// kind `InvalidData`.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let mut marks = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo, i32);
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = self.0.as_raw_fd();
        let message = match recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut marks), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (mut to, mut ttl) = (None, None);
        for mark in message.cmsgs()? {
            match mark {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    to = Some((
                        ip.into(),
                        u32::try_from(info.ipi_ifindex).unwrap_or_default(),
                    ));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    to = Some((ip.into(), info.ipi6_ifindex));
                }
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = u8::try_from(value).ok();
                }
                _ => {}
            }
        }
        match (message.address.as_ref().and_then(address), to, ttl) {
            (Some(from), Some((to, interface)), Some(ttl)) => Ok(Some(Datagram {
                length: message.bytes,
                from,
                to,
                interface,
                ttl,
            })),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Has the kernel drop what was forwarded on its way, so that a flood from afar fills no queue (RFC 5881 §5, RFC 5082).
fn only_from_the_link(ipv6: bool) -> [SockFilter; 4] {
    /// Where the TTL or Hop Limit is in the header.
    const TTL_AT: i32 = 8;
    const HOP_LIMIT_AT: i32 = 7;
    let at = libc::SKF_NET_OFF + if ipv6 { HOP_LIMIT_AT } else { TTL_AT };
    let instruction =
        |code: u32, jump_if_not: u8, k: u32| SockFilter::new(code as u16, 0, jump_if_not, k);
    [
        instruction(
            libc::BPF_LD | libc::BPF_B | libc::BPF_ABS,
            0,
            at.cast_unsigned(),
        ),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            u32::from(TTL),
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0),
    ]
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = from.as_sockaddr_in().map(|from| IpAddr::V4(from.ip()));
    v4.or_else(|| from.as_sockaddr_in6().map(|from| IpAddr::V6(from.ip())))
}

/// A session's sender; nothing is received on it.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    to: SocketAddr,
}

impl Sender {
    /// Bound to a free source port that `random` leads to.
    pub(super) fn open(peer: &BfdPeer, port: u16, random: u64) -> io::Result<Self> {
        let ipv6 = peer.remote.is_ipv6();
        let socket = new_socket(ipv6)?;
        let interface = peer.interface.and_then(NonZeroU32::new);
        if ipv6 {
            socket.set_unicast_hops_v6(u32::from(TTL))?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
            socket.bind_device_by_index_v6(interface)?;
        } else {
            socket.set_ttl_v4(u32::from(TTL))?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
            socket.bind_device_by_index_v4(interface)?;
        }
        socket.set_priority(QUEUE_PRIORITY)?;
        socket.set_recv_buffer_size(0)?;
        let scope = peer.interface.unwrap_or_default();
        let local = peer.local.unwrap_or(unspecified(ipv6));
        bind_to_source_port(&socket, local, scope, random)?;
        Ok(Self {
            socket,
            to: scoped(peer.remote, port, scope),
        })
    }

    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, &self.to.into()).map(drop)
    }
}

fn bind_to_source_port(socket: &Socket, ip: IpAddr, scope: u32, random: u64) -> io::Result<()> {
    let ports = u64::from(u16::MAX - FIRST_SOURCE_PORT) + 1;
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for turn in 0..u64::from(PORT_TRIES) {
        let offset = (random % ports + turn) % ports;
        let port = FIRST_SOURCE_PORT + u16::try_from(offset).unwrap_or_default();
        result = socket.bind(&scoped(ip, port, scope).into());
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    result
}

fn new_socket(ipv6: bool) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if ipv6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn unspecified(ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

fn scoped(ip: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() { scope } else { 0 };
            SocketAddrV6::new(v6, port, 0, scope).into()
        }
    }
}
