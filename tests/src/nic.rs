//! A NIC that gets checksums of what is in tunnels wrong: it fills in the ones that it knows and forgets those inside.
//!
//! Frames go from one packet socket to another as bytes, so that the kernel's note of what the device has yet to fill in is lost: what
//! is not filled in here stays as it is, as on a NIC that was told to and does not.

use std::io::ErrorKind;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    socket,
};

use crate::forge::checksum;
use crate::netns::Netns;

const ETHERNET: usize = 14;
/// UDP, VXLAN, Ethernet.
const VXLAN: usize = 8 + 8 + ETHERNET;
const VXLAN_PORT: [u8; 2] = [0x12, 0xb5];
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Packets of the kernel's own, which it sends by the link itself (linux/if_packet.h).
const OUTGOING: u8 = 4;

/// Stands between two links of a namespace until it is dropped.
#[derive(Debug)]
pub struct Nic {
    stop: Arc<AtomicBool>,
    forgotten: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Nic {
    /// Carries frames between `machine` and `wire`: those of the machine badly, the others well.
    ///
    /// # Errors
    /// When there are no such links, or packets can't be read there.
    pub fn start(netns: &Netns, machine: &str, wire: &str) -> Result<Self> {
        let (stop, forgotten) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut threads = Vec::new();
        for (from, to, is_careless) in [(machine, wire, true), (wire, machine, false)] {
            let (from, (to, _)) =
                netns.inside(|| -> Result<_> { Ok((open(from)?, open(to)?)) })??;
            let (stop, forgotten) = (Arc::clone(&stop), Arc::clone(&forgotten));
            threads.push(std::thread::spawn(move || {
                carry(&from, &to, is_careless, &stop, &forgotten);
            }));
        }
        Ok(Self {
            stop,
            forgotten,
            threads,
        })
    }

    /// How many packets left with a checksum that it forgot.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its panic shows as lost packets.
            let _ = thread.join();
        }
    }
}

/// A socket on a link, and the link's index.
fn open(link: &str) -> Result<(OwnedFd, usize)> {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )?;
    let mut all = getifaddrs()?.filter(|one| one.interface_name == link);
    let at = all.find_map(|one| one.address?.as_link_addr().copied());
    let at = at.with_context(|| format!("no link {link}"))?;
    bind(fd.as_raw_fd(), &at)?;
    Ok((fd, at.ifindex()))
}

fn carry(
    (from, link): &(OwnedFd, usize),
    to: &OwnedFd,
    careless: bool,
    stop: &AtomicBool,
    forgotten: &AtomicU64,
) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let (length, address) = match recvfrom::<LinkAddr>(from.as_raw_fd(), &mut buffer) {
            Ok(received) => received,
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(50_u8));
                continue;
            }
            Err(error) if std::io::Error::from(error).kind() == ErrorKind::NetworkDown => continue,
            Err(_) => return,
        };
        // Before it was bound there were others' packets, too.
        let arrived =
            |address: &LinkAddr| address.pkttype() != OUTGOING && address.ifindex() == *link;
        if !address.as_ref().is_some_and(arrived) {
            continue;
        }
        let Some(frame) = buffer.get_mut(..length) else {
            continue;
        };
        if let Some(packet) = frame.get_mut(ETHERNET..)
            && fill(packet, careless) == Some(Filled::Forgotten)
        {
            forgotten.fetch_add(1, Ordering::Relaxed);
        }
        // What is too large for the link, or finds no room, is lost as on any wire.
        let _ = send(to.as_raw_fd(), frame, MsgFlags::empty());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    All,
    /// The one inside; the outer one is as the kernel reckoned it for a right inner one.
    Forgotten,
}

/// Fills in the checksums of an IP packet of TCP or UDP; `None` where there is none.
fn fill(packet: &mut [u8], careless: bool) -> Option<Filled> {
    let (header, whole, protocol, addresses) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 15) * 4;
            (
                header,
                half(packet, 2)?,
                *packet.get(9)?,
                packet.get(12..20)?,
            )
        }
        6 => (
            40,
            40 + half(packet, 4)?,
            *packet.get(6)?,
            packet.get(8..40)?,
        ),
        _ => return None,
    };
    let place = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let addresses = addresses.to_vec();
    let segment = packet.get_mut(header..whole)?;
    if protocol == UDP && segment.get(2..4)? == VXLAN_PORT {
        let inner = segment.get_mut(VXLAN..)?;
        let before = inner.to_vec();
        let filled = fill(inner, careless);
        if careless && filled.is_some() && inner != before.as_slice() {
            inner.copy_from_slice(&before);
            return Some(Filled::Forgotten);
        }
    }
    if protocol == UDP && segment.get(place..place + 2)? == [0, 0] {
        return None;
    }
    segment.get_mut(place..place + 2)?.fill(0);
    let length = u16::try_from(segment.len()).ok()?.to_be_bytes();
    let sum = checksum(&[&addresses, &length[..], &[0, protocol], segment].concat());
    let sum = if sum == 0 && protocol == UDP {
        u16::MAX
    } else {
        sum
    };
    segment
        .get_mut(place..place + 2)?
        .copy_from_slice(&sum.to_be_bytes());
    Some(Filled::All)
}

fn half(packet: &[u8], at: usize) -> Option<usize> {
    let bytes = packet.get(at..at + 2)?.try_into().ok()?;
    Some(usize::from(u16::from_be_bytes(bytes)))
}
