//! Sees probes on the links of a namespace: a packet socket whose filter lets through what bears the run's mark, and the answers to it.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use socket2::{SockFilter, SockRef};

use super::packet::flow::Flow;
use super::packet::{Probe, SEARCHED, Seen, Transport, Tuple};

/// What waits to be read; a probe takes some hundred octets here.
const RECEIVE_BUFFER: usize = 1 << 20;
/// More of one packet is not looked at.
const SNAP: u32 = 512;
/// What the kernel says of a packet's way (linux/if_packet.h).
pub(super) const OTHER_HOST: u8 = 3;
pub(super) const OUTGOING: u8 = 4;

/// Which namespace is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The pod that sends.
    Source,
    /// The node.
    Node,
    /// The pod that is to get it, where it is of this node.
    Target,
}

/// Which way a packet went on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
    /// In, and addressed to another's MAC: dropped there.
    Stray,
}

/// A packet of a run, seen on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) place: Place,
    /// The link's index.
    pub(super) link: u32,
    pub(super) direction: Direction,
    pub(super) seen: Seen,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    /// Probes of a run, and what comes of them.
    Run(Tuple),
    /// A connection of others.
    Flow(Flow),
}

/// A namespace that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    place: Place,
    sought: Sought,
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket that gets what passes on every link and the filter lets through. What comes before the filter is there is told
/// apart when it is read.
pub(super) fn all_links(filter: &[SockFilter]) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(
        AddressFamily::Packet,
        SockType::Datagram,
        flags,
        SockProtocol::EthAll,
    )?;
    SockRef::from(&fd).attach_filter(filter)?;
    Ok(fd)
}

impl Watch {
    /// Opens one; from then on the kernel keeps what passes.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or its links not be watched (that takes CAP_NET_RAW).
    pub(super) fn open(place: Place, sought: Sought, namespace: Option<&File>) -> io::Result<Self> {
        let socket = inside(namespace, || all_links(&sought.filter()))?;
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        Ok(Self {
            place,
            sought,
            socket,
            buffer: vec![0; SNAP as usize],
        })
    }

    /// The next packet that is of this run; `None` when there is none for now.
    ///
    /// # Errors
    /// If the socket cannot be read.
    pub(super) fn next(&mut self, sent: &[Probe]) -> io::Result<Option<Sighting>> {
        loop {
            let fd = self.socket.as_raw_fd();
            let (length, address) = match recvfrom::<LinkAddr>(fd, &mut self.buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(None),
                // A link that went down is told here once.
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                Err(error) => return Err(error.into()),
            };
            let packet = self.buffer.get(..length).unwrap_or_default();
            let seen = match &self.sought {
                Sought::Run(tuple) => tuple.read(packet, sent),
                Sought::Flow(flow) => flow.read(packet),
            };
            let (Some(seen), Some(address)) = (seen, address) else {
                continue;
            };
            let direction = match address.pkttype() {
                OUTGOING => Direction::Out,
                OTHER_HOST => Direction::Stray,
                _ => Direction::In,
            };
            return Ok(Some(Sighting {
                place: self.place,
                link: u32::try_from(address.ifindex()).unwrap_or_default(),
                direction,
                seen,
            }));
        }
    }
}

/// Does something on a thread of its own, in a namespace or here; what is opened there stays there.
///
/// # Errors
/// If the namespace cannot be entered (that takes CAP_SYS_ADMIN), or what the work gives.
pub(super) fn inside<T: Send>(
    namespace: Option<&File>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(namespace) = namespace else {
        return work();
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        let panicked = || Err(io::Error::other("the work in the pod's namespace panicked"));
        thread.join().unwrap_or_else(|_| panicked())
    })
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

impl Sought {
    fn filter(&self) -> Vec<SockFilter> {
        match self {
            Self::Run(tuple) => filter(tuple),
            Self::Flow(flow) => between(flow),
        }
    }
}

/// Lets through what has the last four octets of both addresses where they stand in a plain packet, in IPIP, or in VXLAN over either
/// family; the rest is told when it is read.
fn between(flow: &Flow) -> Vec<SockFilter> {
    let last = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => u32::try_from(address.to_bits() & 0xffff_ffff).unwrap_or(0),
    };
    let (from, to) = (last(flow.from), last(flow.to));
    let (starts, source, destination): (&[u32], _, _) = match flow.from {
        IpAddr::V4(_) => (&[0, 20, 50, 70], 12, 16),
        IpAddr::V6(_) => (&[0, 50, 70], 20, 36),
    };
    let mut program = Vec::new();
    for start in starts {
        for (one, other) in [(from, to), (to, from)] {
            program.push(SockFilter::new(LOAD_WORD, 0, 0, start + source));
            program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 3, one));
            program.push(SockFilter::new(LOAD_WORD, 0, 0, start + destination));
            program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, other));
            program.push(SockFilter::new(RETURN, 0, 0, SNAP));
        }
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

/// Lets a packet through whose mark stands at any even place of its start, whatever is around it; and datagrams to the
/// probes' port, which bear no mark. Reading beyond a packet's end drops it.
fn filter(tuple: &Tuple) -> Vec<SockFilter> {
    const FIRST: usize = 20;
    let mut program = Vec::new();
    let mut accept_if = |at: usize, value: u16| {
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        program.push(SockFilter::new(LOAD_HALF, 0, 0, at));
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, value.into()));
        program.push(SockFilter::new(RETURN, 0, 0, SNAP));
    };
    for at in (FIRST..SEARCHED).step_by(2) {
        // The destination's port, behind a header of IPv4 or IPv6.
        if tuple.transport == Transport::Udp && [22, 42].contains(&at) {
            accept_if(at, tuple.from_port);
        }
        accept_if(at, tuple.mark);
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}
