//! Answers on one interface for the addresses that this node holds, and announces them; says which of them others claim.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use services::layer2::frame::{self, Heard};
use socket2::SockRef;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::links::Link;
use super::socket::{PacketSocket, Speech};

/// How many announcements or claims wait; who announces again anyway needs no more.
const QUEUE: usize = 256;

/// The addresses that are answered for, each with its interfaces.
pub(super) type Answered = Arc<BTreeMap<IpAddr, BTreeSet<String>>>;

/// What was done, on all interfaces.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) answers: AtomicU64,
    pub(crate) announcements: AtomicU64,
    pub(crate) claims: AtomicU64,
    pub(crate) unsent: AtomicU64,
}

/// A responder that runs; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) link: Link,
    announce: mpsc::Sender<IpAddr>,
}

impl Handle {
    /// Has an address announced.
    pub(super) fn announce(&self, address: IpAddr) {
        if self.announce.try_send(address).is_err() {
            debug!(%address, "not announced on an interface: too much is, or it is gone");
        }
    }

    /// Whether it still runs.
    pub(super) fn runs(&self) -> bool {
        !self.announce.is_closed()
    }
}

struct Responder {
    name: String,
    link: Link,
    answered: watch::Receiver<Answered>,
    announce: mpsc::Receiver<IpAddr>,
    claims: mpsc::Sender<IpAddr>,
    counts: Arc<Counts>,
    /// A socket for each group that is joined: one may join few.
    groups: BTreeMap<Ipv6Addr, UdpSocket>,
}

/// The channel by which responders say what others claim.
pub(super) fn claims() -> (mpsc::Sender<IpAddr>, mpsc::Receiver<IpAddr>) {
    mpsc::channel(QUEUE)
}

/// Starts one.
///
/// # Errors
/// The interface cannot be listened on.
pub(super) fn start(
    name: &str,
    link: &Link,
    answered: watch::Receiver<Answered>,
    claims: mpsc::Sender<IpAddr>,
    counts: Arc<Counts>,
) -> io::Result<Handle> {
    let arp = PacketSocket::open(&link.place, Speech::Arp)?;
    let discovery = PacketSocket::open(&link.place, Speech::NeighbourDiscovery)?;
    let (announce, announced) = mpsc::channel(QUEUE);
    let responder = Responder {
        name: name.to_owned(),
        link: link.clone(),
        answered,
        announce: announced,
        claims,
        counts,
        groups: BTreeMap::new(),
    };
    tokio::spawn(responder.run(arp, discovery));
    Ok(Handle {
        link: link.clone(),
        announce,
    })
}

impl Responder {
    async fn run(mut self, arp: PacketSocket, discovery: PacketSocket) {
        let (mut one, mut other) = (PacketSocket::buffer(), PacketSocket::buffer());
        self.join_groups();
        loop {
            let done = tokio::select! {
                read = arp.read(&mut one) => read.and_then(|length| self.hear(&arp, &one, length)),
                read = discovery.read(&mut other) => {
                    read.and_then(|length| self.hear(&discovery, &other, length))
                }
                address = self.announce.recv() => match address {
                    Some(address) => {
                        // Before the answers that follow are asked for.
                        self.join_groups();
                        let socket = if address.is_ipv4() { &arp } else { &discovery };
                        self.tell_all(socket, address)
                    }
                    None => return,
                },
                changed = self.answered.changed() => match changed {
                    Ok(()) => {
                        self.join_groups();
                        Ok(())
                    }
                    Err(_) => return,
                },
            };
            if let Err(error) = done {
                warn!(interface = self.name, %error, "cannot answer for addresses here; it is looked at again");
                return;
            }
        }
    }

    fn is_answered(&self, address: IpAddr) -> bool {
        let answered = self.answered.borrow();
        answered
            .get(&address)
            .is_some_and(|links| links.contains(&self.name))
    }

    fn hear(&self, socket: &PacketSocket, buffer: &[u8], length: usize) -> io::Result<()> {
        match frame::read(buffer.get(..length).unwrap_or_default()) {
            Some(Heard::Question(question)) if self.is_answered(question.address) => {
                let Some(answer) = frame::answer(&question, self.link.mac) else {
                    return Ok(());
                };
                self.send(socket, &answer, &self.counts.answers)
            }
            Some(Heard::Claim { address, mac })
                if mac != self.link.mac && self.is_answered(address) =>
            {
                self.counts.claims.fetch_add(1, Ordering::Relaxed);
                // Whoever claims so many says it again.
                let _ = self.claims.try_send(address);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn tell_all(&self, socket: &PacketSocket, address: IpAddr) -> io::Result<()> {
        // It may have been lost since it was to be announced.
        if !self.is_answered(address) {
            return Ok(());
        }
        let frames = frame::announcement(address, self.link.mac);
        let mut frames = frames.iter();
        frames.try_for_each(|frame| self.send(socket, frame, &self.counts.announcements))
    }

    /// Sends, and counts; what does not fit now is asked for again.
    fn send(&self, socket: &PacketSocket, frame: &[u8], count: &AtomicU64) -> io::Result<()> {
        match socket.send(frame) {
            Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::EAGAIN | nix::libc::ENOBUFS)
                ) =>
            {
                self.counts.unsent.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Joins the groups by which the addresses are asked for, so that switches and the interface bring the questions here.
    fn join_groups(&mut self) {
        let answered = self.answered.borrow_and_update().clone();
        let here = answered
            .iter()
            .filter(|(_, links)| links.contains(&self.name));
        let wanted: BTreeSet<Ipv6Addr> = here
            .filter_map(|(address, _)| match address {
                IpAddr::V6(address) => Some(frame::solicited_node(*address)),
                IpAddr::V4(_) => None,
            })
            .collect();
        self.groups.retain(|group, _| wanted.contains(group));
        for group in wanted {
            if self.groups.contains_key(&group) {
                continue;
            }
            match join(group, self.link.index) {
                Ok(socket) => drop(self.groups.insert(group, socket)),
                Err(error) => {
                    warn!(interface = self.name, %group, %error, "cannot join the group that an address is asked for by: behind a switch that looks on it may not be found");
                }
            }
        }
    }
}

fn join(group: Ipv6Addr, index: u32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    SockRef::from(&socket).join_multicast_v6(&group, index)?;
    Ok(socket)
}
