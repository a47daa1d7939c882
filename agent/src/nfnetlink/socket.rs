//! A netlink socket of the netfilter family that waits without holding a thread.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket,
};
use tokio::io::unix::AsyncFd;

use super::wire::{Received, messages};

/// What waits to be read: a burst of whole packets fits.
const RECEIVE_BUFFER: usize = 8 << 20;
/// One datagram: the kernel's are of a packet and its attributes, or of a few packets' heads.
const DATAGRAM: usize = 128 << 10;

/// The socket.
#[derive(Debug)]
pub(super) struct Socket(AsyncFd<OwnedFd>);

/// What reading gave.
#[derive(Debug)]
pub(super) enum Read {
    /// So many octets of messages.
    Datagram(usize),
    /// The kernel had more to say than there was room for.
    Overrun,
}

impl Socket {
    /// Opens it in the caller's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Without NET_ADMIN over the limit of net.core.rmem_max: as much as is allowed.
        if setsockopt(&fd, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, RcvBuf, &RECEIVE_BUFFER)?;
        }
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps to one descriptor until it is dropped"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    /// Room for one datagram.
    pub(super) fn buffer() -> Vec<u8> {
        vec![0; DATAGRAM]
    }

    /// Sends a message to the kernel, which takes it at once.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), message, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// Sends a request and waits for its acknowledgement; gives the datagrams that came before it, too.
    pub(super) async fn request(&self, message: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send(message)?;
        let mut buffer = Self::buffer();
        let mut early = Vec::new();
        loop {
            let Read::Datagram(length) = self.read(&mut buffer).await? else {
                continue;
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            let answer = messages(datagram).find_map(|message| match message {
                Received::Answer(code) => Some(code),
                Received::Message { .. } => None,
            });
            match answer {
                None => early.push(datagram.to_vec()),
                Some(0) => return Ok(early),
                Some(code) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
            }
        }
    }

    /// Waits for a datagram.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        loop {
            let mut ready = self.0.readable().await?;
            let outcome = ready.try_io(|fd| {
                recv(fd.as_raw_fd(), buffer, MsgFlags::empty()).map_err(io::Error::from)
            });
            match outcome {
                Ok(Ok(length)) => return Ok(Read::Datagram(length)),
                Ok(Err(error)) => match Errno::try_from(error) {
                    Ok(Errno::ENOBUFS) => return Ok(Read::Overrun),
                    Ok(Errno::EINTR) => {}
                    Ok(other) => return Err(other.into()),
                    Err(error) => return Err(error),
                },
                Err(_not_ready) => {}
            }
        }
    }
}
