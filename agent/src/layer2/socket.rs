//! A packet socket on one interface, for ARP or for neighbour discovery: its filter wakes nobody for other packets.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recvfrom, send};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

/// Of one frame more is not read: neither protocol's are longer, but for options that we don't mind (RFC 4861 §4.3).
const SNAP: usize = 512;

// linux/filter.h, linux/bpf_common.h
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
/// What the kernel knows beside the octets.
const BESIDE: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = BESIDE + 4;
const VLAN_TAG_PRESENT: u32 = BESIDE + 48;
/// Frames for other hosts, and those that we sent, from here on (linux/if_packet.h).
const OTHER_HOST: u32 = 3;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    Arp,
    NeighbourDiscovery,
}

impl Speech {
    fn ethertype(self) -> u16 {
        match self {
            Self::Arp => 0x0806,
            Self::NeighbourDiscovery => 0x86dd,
        }
    }

    /// Lets through what is to this host or to all, of this interface's own VLAN: the tag of another's has been taken off the
    /// frame, but is there.
    fn filter(self) -> Vec<SockFilter> {
        // The octets that must be so, and where they are in the frame.
        let octets: &[(u32, u32, u32)] = match self {
            // Request or reply.
            Self::Arp => &[(21, 1, 2)],
            // Next header ICMPv6; solicitation or advertisement.
            Self::NeighbourDiscovery => &[(20, 58, 58), (54, 135, 136)],
        };
        let mut program = vec![
            SockFilter::new(LOAD_BYTE, 0, 0, VLAN_TAG_PRESENT),
            SockFilter::new(JUMP_IF_EQUAL, 1, 0, 0),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
            SockFilter::new(JUMP_IF_AT_LEAST, 0, 1, OTHER_HOST),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(LOAD_HALF, 0, 0, 12),
            SockFilter::new(JUMP_IF_EQUAL, 1, 0, u32::from(self.ethertype())),
            SockFilter::new(RETURN, 0, 0, 0),
        ];
        for (at, one, other) in octets {
            program.extend([
                SockFilter::new(LOAD_BYTE, 0, 0, *at),
                SockFilter::new(JUMP_IF_EQUAL, 2, 0, *one),
                SockFilter::new(JUMP_IF_EQUAL, 1, 0, *other),
                SockFilter::new(RETURN, 0, 0, 0),
            ]);
        }
        program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
        program
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
    index: usize,
}

impl PacketSocket {
    /// Opens one on that interface. Takes CAP_NET_RAW.
    pub(super) fn open(place: &LinkAddr, speech: Speech) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(speech.ethertype().to_be()));
        let kind = Type::from(libc::SOCK_RAW);
        let socket = Socket::new(Domain::PACKET, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&speech.filter())?;
        bind(socket.as_raw_fd(), place)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps to one descriptor until it is dropped"
        )]
        let fd = AsyncFd::new(OwnedFd::from(socket))?;
        Ok(Self {
            fd,
            index: place.ifindex(),
        })
    }

    /// Waits for a frame.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            let outcome = ready
                .try_io(|fd| recvfrom::<LinkAddr>(fd.as_raw_fd(), buffer).map_err(io::Error::from));
            match outcome {
                // Before it was bound it heard all interfaces.
                Ok(Ok((length, Some(from)))) if from.ifindex() == self.index => return Ok(length),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    _ => return Err(error),
                },
                Err(_not_ready) => {}
            }
        }
    }

    /// Room for one frame.
    pub(super) fn buffer() -> Vec<u8> {
        vec![0; SNAP]
    }

    /// Sends a frame, unless the interface has no room for it now.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        let fd = self.fd.get_ref().as_fd().as_raw_fd();
        send(fd, frame, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}
