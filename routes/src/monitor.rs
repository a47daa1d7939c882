//! Notices of what others do to links and routes, gathered so that one re-read answers many.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::errno::Errno;
use socket2::{SockFilter, SockRef};
use tokio::time::{Instant, timeout_at};

use crate::conn::{Conn, Header, Split, enlarge, parse};
use crate::links::{described, dump};
use crate::pace::Pace;
use crate::table::RouteTable;
use crate::wire::{RTM_DELNEXTHOP, RTM_DELROUTE, RTM_NEWNEXTHOP, RTM_NEWROUTE, TABLE_MAIN};
use crate::{Error, PROTOCOL};

/// What has changed. All but the first ask for [`RouteTable::resync`] and an apply; the later includes the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// A link that was there has another MTU: no route is lost, nothing is to be read again.
    Mtu,
    /// Another's route changed in table main, or one of ours by another's hand.
    Routes,
    /// A link that was there went down, came up again or is gone: the kernel drops IPv4 routes on
    /// link down without a notice, and brings none back.
    Links,
    /// Notices were lost: anything may have changed.
    Overrun,
}

/// Bytes waiting for us; 16 MiB hold some 40,000 route notices, the default holds 256.
const BUFFER_BYTES: usize = 16 << 20;
/// How long to wait after an error that is not understood.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest datagram the kernel makes for one notice, with room to spare.
const DATAGRAM_BYTES: usize = 64 * 1024;
const GROUP_LINK: u32 = 1;
const GROUP_ROUTE_V4: u32 = 7;
const GROUP_ROUTE_V6: u32 = 11;
const GROUP_NEXTHOP: u32 = 32;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;

/// Listens on a socket of its own, so that a flood of notices never hinders requests.
pub struct Monitor {
    socket: TokioSocket,
    /// Of the table whose writes are no news; `None`: no route of ours is news.
    own_port: Option<u32>,
    /// Index to whether it can carry packets and its MTU, for links that could at some time since we know them.
    /// Without a carrier the kernel drops next-hop objects, and their routes, as if the link were down.
    links: BTreeMap<u32, (bool, u32)>,
    pace: Pace,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Monitor");
        out.field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl Monitor {
    /// Listens in the calling thread's network namespace, leaving out what `table` writes itself.
    ///
    /// Open it before the table's last resync: then nothing falls between the two.
    ///
    /// # Errors
    /// When the socket can't be had.
    pub fn open(table: &RouteTable) -> Result<Self, Error> {
        Self::listen(Some(table.port()))
    }

    /// Listens for what is not ours, whoever of us wrote it.
    pub(crate) fn open_for_others() -> Result<Self, Error> {
        Self::listen(None)
    }

    fn listen(own_port: Option<u32>) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(|e| Error::Socket("open", e))?;
        let inner = socket.socket_mut();
        inner
            .bind(&SocketAddr::new(0, 0))
            .map_err(|e| Error::Socket("bind", e))?;
        enlarge(inner, BUFFER_BYTES);
        for group in [GROUP_LINK, GROUP_ROUTE_V4, GROUP_ROUTE_V6] {
            inner
                .add_membership(group)
                .map_err(|e| Error::Socket("join group", e))?;
        }
        if let Err(error) = inner.add_membership(GROUP_NEXTHOP) {
            tracing::debug!(%error, "a kernel without next-hop objects");
        }
        if let Err(error) = SockRef::from(&*inner).attach_filter(&without_echoes(own_port)) {
            tracing::debug!(%error, "our own writes come back as notices and are dropped one by one");
        }
        let links = dump(&mut Conn::open()?)?;
        let links = links
            .iter()
            .filter(|link| link.up && link.carrier)
            .map(|link| (link.index, (true, link.mtu)))
            .collect();
        Ok(Self {
            socket,
            own_port,
            links,
            pace: Pace::default(),
            buffer: Vec::with_capacity(DATAGRAM_BYTES),
        })
    }

    /// Waits for the next change worth a look. May be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> Notice {
        loop {
            let Some(due) = self.pace.due() else {
                self.wait().await;
                continue;
            };
            // A flood that never pauses must not keep the time from being looked at.
            let silent = timeout_at(due, self.wait()).await.is_err();
            let now = Instant::now();
            if (silent || now >= due)
                && let Some(notice) = self.pace.take(now.max(due))
            {
                return notice;
            }
        }
    }

    async fn wait(&mut self) {
        self.buffer.clear();
        let Self { socket, buffer, .. } = self;
        match poll_fn(|cx| socket.poll_recv(cx, buffer)).await {
            Ok(()) => self.handle_datagram(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                self.note(Notice::Overrun);
            }
            Err(error) => {
                tracing::warn!(%error, "netlink monitor can't read");
                self.note(Notice::Overrun);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn handle_datagram(&mut self) {
        let data = std::mem::take(&mut self.buffer);
        for (header, payload) in Split::new(&data) {
            match header.message_type {
                RTM_NEWROUTE | RTM_DELROUTE if self.is_news(&header, payload) => {
                    self.note(Notice::Routes);
                }
                RTM_NEWNEXTHOP | RTM_DELNEXTHOP if self.is_damage(&header, payload) => {
                    self.note(Notice::Routes);
                }
                RTM_NEWLINK | RTM_DELLINK => self.handle_link(&header, payload),
                _ => {}
            }
        }
        self.buffer = data;
    }

    /// Judges by the fixed header alone (struct rtmsg: table at byte 4, protocol at 5): echoes of our own 100,000 routes cost nothing.
    fn is_news(&self, header: &Header, payload: &[u8]) -> bool {
        let main = payload.get(4) == Some(&TABLE_MAIN);
        let own = self.own_port.is_none_or(|port| port == header.port_number);
        let echo = own && payload.get(5) == Some(&PROTOCOL);
        main && !echo
    }

    /// Whether another has changed a next-hop object that we look at (struct nhmsg: protocol at byte 2).
    fn is_damage(&self, header: &Header, payload: &[u8]) -> bool {
        let ours = payload.get(2) == Some(&PROTOCOL);
        match self.own_port {
            Some(port) => ours && header.port_number != port,
            None => !ours,
        }
    }

    fn handle_link(&mut self, header: &Header, payload: &[u8]) {
        let Ok(RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) =
            parse(header, payload)
        else {
            return self.note(Notice::Links);
        };
        let link = described(&link);
        let usable = link.up && link.carrier;
        let known = self.links.get(&link.index).copied();
        if header.message_type == RTM_DELLINK {
            if self.links.remove(&link.index).is_some() {
                self.note(Notice::Links);
            }
            return;
        }
        match known {
            // New: no route of ours can have been lost with it. What it makes reachable shows as a route.
            None if !usable => return,
            None => {}
            Some((before, _)) if before != usable => self.note(Notice::Links),
            Some((_, mtu)) if mtu != link.mtu => self.note(Notice::Mtu),
            Some(_) => {}
        }
        self.links.insert(link.index, (usable, link.mtu));
    }

    fn note(&mut self, notice: Notice) {
        self.pace.note(notice, Instant::now());
    }
}

/// A classic BPF program by which the kernel itself leaves out notices of our own writes to routes
/// and next-hop objects: 100,000 of them would wake us 100,000 times, and crowd out what is news.
fn without_echoes(own_port: Option<u32>) -> [SockFilter; 11] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let op = |code, jt, jf, k| SockFilter::new(code, jt, jf, k);
    // A load takes the bytes as big-endian; netlink's fields have the host's order.
    let if_type = |kind: u16, jt, jf| op(IF_EQUAL, jt, jf, u32::from(kind.to_be()));
    // Without a port: past the comparison, and next-hop objects are kept.
    let (port, other, object) = own_port.map_or((0, 0, 5), |port| (port.to_be(), 7, 6));
    [
        op(LOAD_WORD, 0, 0, 12),
        op(IF_EQUAL, 0, other, port),
        op(LOAD_HALF, 0, 0, 4),
        if_type(RTM_NEWNEXTHOP, object, 0),
        if_type(RTM_DELNEXTHOP, object - 1, 0),
        if_type(RTM_NEWROUTE, 1, 0),
        if_type(RTM_DELROUTE, 0, 2),
        // Struct rtmsg: the protocol is its sixth byte, after the header's sixteen.
        op(LOAD_BYTE, 0, 0, 21),
        op(IF_EQUAL, 1, 0, u32::from(PROTOCOL)),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ]
}
