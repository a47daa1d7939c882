//! Whether checksums in tunnels are right: what comes is looked at, and what goes is tried with one that the kernel computed and with
//! one that is left to the NIC. A NIC that gets the inner one wrong loses TCP and UDP, and a ping passes.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt};
use nix::{setsockopt_impl, sockopt_impl};
use socket2::SockFilter;

use super::packet::sums::of_tunnelled;
use super::packet::{Kind, Probe, Transport, Tuple};
use super::sender::Sender;
use super::watch::{Direction, OTHER_HOST, OUTGOING, Place, Sought, Watch, all_links};

/// So many packets are enough.
const ENOUGH: usize = 2000;
/// The largest packet, with what the kernel put together for itself.
const LARGEST: usize = 1 << 16;
/// A port on which nobody needs to listen: a refusal is an answer, too (discard, RFC 863).
const PORT: u16 = 9;
/// For so long an answer of another node is waited for, once.
const PATIENCE: Duration = Duration::from_millis(500);
/// The kernel sends a second SYN within.
const CONNECT: Duration = Duration::from_millis(1300);
/// linux/if_packet.h: the kernel has left the checksum to a device that this packet never met.
const CHECKSUM_NOT_READY: u32 = 1 << 3;

sockopt_impl!(
    /// The kernel says of each packet whether its checksum is filled in.
    AuxiliaryData, SetOnly, libc::SOL_PACKET, libc::PACKET_AUXDATA, bool
);

/// What came in tunnels from one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The node's address on the network between the nodes.
    pub(crate) from: IpAddr,
    /// Packets with a checksum.
    pub(crate) seen: usize,
    /// Of those, with a wrong one.
    pub(crate) wrong: usize,
}

/// What another node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Whoever computes the checksum.
    Always,
    /// Only where the kernel computes the checksum; where it is left to the NIC nothing comes back.
    OwnSumsOnly,
    /// Nothing, or no more.
    Never,
}

/// Looks at what comes to this node in tunnels, for so long.
///
/// # Errors
/// If links cannot be watched (that takes CAP_NET_RAW).
pub(crate) fn listen(patience: Duration) -> io::Result<Vec<Heard>> {
    let socket = open()?;
    let end = Instant::now() + patience;
    let mut buffer = vec![0; LARGEST];
    let mut heard: BTreeMap<IpAddr, Heard> = BTreeMap::new();
    let mut count = 0;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || count == ENOUGH {
            return Ok(heard.into_values().collect());
        }
        let Some(length) = next(&socket, &mut buffer)? else {
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        count += 1;
        let packet = buffer.get(..length).unwrap_or_default();
        if let Some((from, is_right)) = of_tunnelled(packet) {
            let of_node = heard.entry(from).or_insert(Heard {
                from,
                seen: 0,
                wrong: 0,
            });
            of_node.seen += 1;
            of_node.wrong += usize::from(!is_right);
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let fd = all_links(&filter())?;
    setsockopt(&fd, AuxiliaryData, &true)?;
    Ok(fd)
}

/// The length of the next packet that came to this node; one whose checksum is not filled in is as good as right, and has length 0.
fn next(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut marks = nix::cmsg_space!([u32; 5]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let packet = match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut slices, Some(&mut marks), flags)
    {
        Ok(packet) => packet,
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let kind = packet.address.map(|address| address.pkttype());
    let mut status = 0;
    for mark in packet.cmsgs()? {
        if let ControlMessageOwned::Unknown(mark) = mark
            && mark.cmsg_header.cmsg_level == libc::SOL_PACKET
            && let Some(word) = mark.data_bytes.first_chunk()
        {
            status = u32::from_ne_bytes(*word);
        }
    }
    let is_ours = !matches!(kind, None | Some(OUTGOING | OTHER_HOST));
    Ok(Some(match is_ours && status & CHECKSUM_NOT_READY == 0 {
        true => packet.bytes,
        false => 0,
    }))
}

/// Lets through what may be VXLAN over IPv4 without options, IPIP, or VXLAN over IPv6.
fn filter() -> Vec<SockFilter> {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let port = u32::from(routes::VXLAN_PORT);
    let mut program = Vec::new();
    for (load, at, value) in [
        (LOAD_BYTE, 9, 4),
        (LOAD_HALF, 22, port),
        (LOAD_HALF, 42, port),
    ] {
        program.push(SockFilter::new(load, 0, 0, at));
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, value));
        program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

/// Asks an address of another node for a connection, with a checksum of our own and with one that is left to the device.
///
/// # Errors
/// If there is no way there, or probes cannot be sent (that takes CAP_NET_RAW).
pub(crate) fn ask(to: IpAddr) -> io::Result<Answer> {
    let mut own = OwnSums::open(to)?;
    if !own.is_answered()? {
        return Ok(Answer::Never);
    }
    match TcpStream::connect_timeout(&SocketAddr::new(to, PORT), CONNECT) {
        Ok(_) => return Ok(Answer::Always),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Answer::Always),
        Err(_) => {}
    }
    Ok(match own.is_answered()? {
        true => Answer::OwnSumsOnly,
        false => Answer::Never,
    })
}

/// Sends SYNs that no device has to do anything about.
struct OwnSums {
    sender: Sender,
    watch: Watch,
    sent: Vec<Probe>,
}

impl OwnSums {
    fn open(to: IpAddr) -> io::Result<Self> {
        let any = match to {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // The kernel says by which address it would go.
        let way = UdpSocket::bind((any, 0))?;
        way.connect((to, PORT))?;
        let sender = Sender::open(
            None,
            Tuple {
                transport: Transport::Tcp,
                from: way.local_addr()?.ip(),
                to,
                from_port: 0,
                to_port: PORT,
                mark: super::gather::port_like(),
            },
        )?;
        Ok(Self {
            watch: Watch::open(Place::Node, Sought::Run(sender.tuple()), None)?,
            sender,
            sent: Vec::new(),
        })
    }

    /// Two, one after the other.
    fn is_answered(&mut self) -> io::Result<bool> {
        for _ in 0..2 {
            let number = u16::try_from(self.sent.len()).unwrap_or_default();
            let probe = Probe {
                number,
                hops: 64,
                size: 0,
            };
            self.sent.push(Probe {
                size: self.sender.tuple().least(),
                ..probe
            });
            self.sender.send(&probe)?;
            if self.hears(number)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn hears(&mut self, number: u16) -> io::Result<bool> {
        let end = Instant::now() + PATIENCE;
        loop {
            while let Some(sighting) = self.watch.next(&self.sent)? {
                let is_answer = matches!(
                    sighting.seen.kind,
                    Kind::Accepted(of) | Kind::Refused(of) if of == number
                );
                if is_answer && sighting.direction == Direction::In {
                    return Ok(true);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut fds = [PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
