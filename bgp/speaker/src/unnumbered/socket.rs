//! The ICMPv6 socket of all unnumbered interfaces, and what the kernel says of interfaces.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::message::Message;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The largest message; what is longer is cut, and so invalid.
const LARGEST: usize = 1500;
// Not in libc 0.2; linux/icmpv6.h.
const ICMPV6_FILTER: libc::c_int = 1;

sockopt_impl!(
    /// A bit for each ICMPv6 type that is not wanted.
    Icmpv6Filter, SetOnly, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, [u32; 8]
);

/// The socket: solicitations and advertisements of all interfaces, nothing else. It is a raw one; tokio has no type for
/// these, and of its UDP socket only the waiting is used.
#[derive(Debug)]
pub(super) struct Socket(UdpSocket);

/// A valid message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) from: Ipv6Addr,
    pub(super) ifindex: u32,
}

/// An interface that exists.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    running: bool,
    /// Its index, if it has a link-local address.
    link_local: Option<u32>,
}

impl Found {
    /// Its index, or why it is of no use.
    pub(super) fn usable(self) -> Result<u32, &'static str> {
        if !self.running {
            return Err("it is down");
        }
        self.link_local.ok_or("it has no IPv6 link-local address")
    }
}

/// All interfaces of this network namespace, by name.
pub(super) fn interfaces() -> io::Result<BTreeMap<String, Found>> {
    let mut all: BTreeMap<String, Found> = BTreeMap::new();
    for one in getifaddrs()? {
        let found = all.entry(one.interface_name).or_default();
        found.running |= one
            .flags
            .contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
        let address = one
            .address
            .as_ref()
            .and_then(|address| address.as_sockaddr_in6());
        if let Some(address) = address
            && address.ip().is_unicast_link_local()
        {
            found.link_local = Some(address.scope_id());
        }
    }
    Ok(all)
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket2::Socket::new(
            Domain::IPV6,
            Type::RAW.nonblocking(),
            Some(Protocol::ICMPV6),
        )?;
        let mut unwanted = [u32::MAX; 8];
        // Types 133 and 134: bits 5 and 6 of the fifth word.
        if let Some(word) = unwanted.get_mut(4) {
            *word = !(0b11 << 5);
        }
        setsockopt(&socket, Icmpv6Filter, &unwanted)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        socket.set_multicast_hops_v6(255)?;
        socket.set_multicast_loop_v6(false)?;
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// Hears what is sent to nodes and to routers there.
    pub(super) fn join(&self, ifindex: u32) -> io::Result<()> {
        for group in [ALL_NODES, ALL_ROUTERS] {
            match SockRef::from(&self.0).join_multicast_v6(&group, ifindex) {
                // Joined before the link went down.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                result => result?,
            }
        }
        Ok(())
    }

    pub(super) fn leave(&self, ifindex: u32) {
        for group in [ALL_NODES, ALL_ROUTERS] {
            // An error means that the interface is gone, and the membership with it.
            let _ = SockRef::from(&self.0).leave_multicast_v6(&group, ifindex);
        }
    }

    /// Sends to everyone on the link whom the message concerns, from our link-local address there.
    pub(super) fn send(&self, message: Message, ifindex: u32) -> io::Result<()> {
        let group = match message {
            Message::Advertisement => ALL_NODES,
            Message::Solicitation => ALL_ROUTERS,
        };
        let to = SocketAddrV6::new(group, 0, 0, ifindex);
        SockRef::from(&self.0).send_to(message.encode(), &to.into())?;
        Ok(())
    }

    /// The next valid message.
    pub(super) async fn receive(&self) -> io::Result<Received> {
        let next = || self.try_receive().map_err(io::Error::from);
        loop {
            if let Some(received) = self.0.async_io(Interest::READABLE, next).await? {
                return Ok(received);
            }
        }
    }

    fn try_receive(&self) -> nix::Result<Option<Received>> {
        let mut buffer = [0; LARGEST];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut marks = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
        let fd = self.0.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        let packet = recvmsg::<SockaddrIn6>(fd, &mut slices, Some(&mut marks), flags)?;
        let (mut ifindex, mut hop_limit) = (None, None);
        for mark in packet.cmsgs()? {
            match mark {
                ControlMessageOwned::Ipv6PacketInfo(info) => ifindex = Some(info.ipi6_ifindex),
                ControlMessageOwned::Ipv6HopLimit(value) => hop_limit = u8::try_from(value).ok(),
                _ => {}
            }
        }
        let (from, len) = (packet.address.map(|from| from.ip()), packet.bytes);
        let received = || {
            let (from, ifindex) = (from?, ifindex?);
            let message = Message::decode(buffer.get(..len)?, from, hop_limit?)?;
            Some(Received {
                message,
                from,
                ifindex,
            })
        };
        Ok(received())
    }
}
