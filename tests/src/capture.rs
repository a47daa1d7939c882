//! What the client's interface sees of ARP and neighbour discovery for one address, and questions that no kernel asks so often.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use crate::netns::Netns;
use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    setsockopt, socket,
};

const OUTGOING: u8 = 4;

/// A frame that says something of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// By this machine.
    pub is_sent: bool,
    /// What it says.
    pub what: What,
    /// The hardware address that it names.
    pub mac: String,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// ARP request or solicitation.
    Question,
    /// ARP reply to one, or a solicited advertisement.
    Answer,
    /// Gratuitous ARP request.
    AnnouncedRequest,
    /// Gratuitous ARP reply.
    AnnouncedReply,
    /// An advertisement that nobody solicited, with override, to all nodes.
    Advertised,
}

/// Sees all frames of the client's interface from when it is made.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
    link: LinkAddr,
}

impl Capture {
    /// Opens it on `eth0` of a namespace.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn open(client: &Netns) -> Result<Self> {
        client.inside(|| -> Result<Self> {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let fd = socket(
                AddressFamily::Packet,
                SockType::Raw,
                flags,
                SockProtocol::EthAll,
            )?;
            // Room for what passes while nobody looks, flows and all.
            setsockopt(&fd, RcvBufForce, &(32 << 20))?;
            let of_link = |found: nix::ifaddrs::InterfaceAddress| {
                let address = *found.address?.as_link_addr()?;
                (found.interface_name == "eth0").then_some(address)
            };
            let link = nix::ifaddrs::getifaddrs()?.find_map(of_link);
            Ok(Self {
                fd,
                link: link.context("no eth0 there")?,
            })
        })?
    }

    /// What has been seen of an address since the last call.
    ///
    /// # Errors
    /// When that is no address, or the interface is gone.
    pub fn take(&self, address: &str) -> Result<Vec<Seen>> {
        let address: IpAddr = address.parse()?;
        let mut seen = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let is_sent = from.is_some_and(|from| from.pkttype() == OUTGOING);
                    seen.extend(read(
                        buffer.get(..length).unwrap_or_default(),
                        address,
                        is_sent,
                    ));
                }
                Err(Errno::EAGAIN) => return Ok(seen),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends ARP requests for an address, from `sender`, one after the other, and says how often each was answered.
    ///
    /// # Errors
    /// When that is no IPv4 address, or the interface is gone.
    pub fn ask(&self, address: &str, sender: [u8; 4], times: usize) -> Result<Vec<usize>> {
        let own = self.link.addr().context("a hardware address")?;
        let target: std::net::Ipv4Addr = address.parse()?;
        let mut frame = vec![0xff; 6];
        frame.extend(own);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(own);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(target.octets());
        let mut answers = Vec::new();
        for _ in 0..times {
            self.take(address)?;
            sendto(self.fd.as_raw_fd(), &frame, &self.link, MsgFlags::empty())?;
            let until = Instant::now() + Duration::from_millis(60);
            let mut count = 0;
            while Instant::now() < until {
                let seen = self.take(address)?;
                count += seen.iter().filter(|one| one.what == What::Answer).count();
                std::thread::sleep(Duration::from_millis(5));
            }
            answers.push(count);
        }
        Ok(answers)
    }
}

fn read(frame: &[u8], address: IpAddr, is_sent: bool) -> Option<Seen> {
    let (what, mac) = match (frame.get(12..14)?, address) {
        ([8, 6], IpAddr::V4(address)) => {
            let (operation, sender) = (frame.get(21)?, frame.get(28..32)?);
            let (target, octets) = (frame.get(38..42)?, address.octets());
            let what = match (operation, sender == octets, target == octets) {
                (1, false, true) => What::Question,
                (1, true, true) => What::AnnouncedRequest,
                (2, true, true) => What::AnnouncedReply,
                (2, true, false) => What::Answer,
                _ => return None,
            };
            (what, frame.get(22..28)?)
        }
        ([0x86, 0xdd], IpAddr::V6(address)) => {
            let is_of_it = *frame.get(20)? == 58 && *frame.get(62..78)? == address.octets();
            let what = match (frame.get(54)?, frame.get(58)? & 0x60) {
                (135, _) => What::Question,
                (136, 0x60) => What::Answer,
                (136, 0x20) if frame.get(38..40)? == [0xff, 2] => What::Advertised,
                _ => return None,
            };
            (is_of_it.then_some(what)?, frame.get(6..12)?)
        }
        _ => return None,
    };
    let mac: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
    Some(Seen {
        is_sent,
        what,
        mac: mac.join(":"),
    })
}
