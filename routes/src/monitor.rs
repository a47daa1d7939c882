//! Notices of what others do to links and routes, gathered so that one re-read answers many.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteHeader;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::errno::Errno;
use tokio::time::{Instant, timeout_at};

use crate::conn::{Conn, Header, Split, enlarge, parse};
use crate::links::{described, dump};
use crate::table::RouteTable;
use crate::{Error, PROTOCOL};

/// What has changed. Each asks for [`RouteTable::resync`] and an apply; the later includes the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
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
/// What comes within this time of the first change is told with it.
const GATHER: Duration = Duration::from_millis(50);
/// A re-read of 100,000 routes takes about 0.2 s: foreign churn must not make us do nothing else.
const ROUTES_GAP: Duration = Duration::from_millis(500);
const LINKS_GAP: Duration = Duration::from_millis(100);
/// The largest datagram the kernel makes for one notice, with room to spare.
const DATAGRAM_BYTES: usize = 64 * 1024;
const GROUP_LINK: u32 = 1;
const GROUP_ROUTE_V4: u32 = 7;
const GROUP_ROUTE_V6: u32 = 11;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// Listens on a socket of its own, so that a flood of notices never hinders requests.
pub struct Monitor {
    socket: TokioSocket,
    own_port: u32,
    /// Index to whether it is up, for links that have been up since we know them.
    links: BTreeMap<u32, bool>,
    pending: Option<(Notice, Instant)>,
    told: Option<Instant>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Monitor");
        out.field("pending", &self.pending).finish_non_exhaustive()
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
        let links = dump(&mut Conn::open()?)?;
        let links = links
            .iter()
            .filter(|link| link.up)
            .map(|link| (link.index, true))
            .collect();
        let own_port = table.port();
        Ok(Self {
            socket,
            own_port,
            links,
            pending: None,
            told: None,
            buffer: Vec::with_capacity(DATAGRAM_BYTES),
        })
    }

    /// Waits for the next change worth a look. May be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> Notice {
        loop {
            let Some((_, due)) = self.pending else {
                self.wait().await;
                continue;
            };
            if timeout_at(due, self.wait()).await.is_err()
                && let Some((notice, _)) = self.pending.take()
            {
                self.told = Some(Instant::now());
                return notice;
            }
            // A flood that never pauses must not keep the timer from being looked at.
            if Instant::now() >= due
                && let Some((notice, _)) = self.pending.take()
            {
                self.told = Some(Instant::now());
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
                tokio::time::sleep(LINKS_GAP).await;
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
                RTM_NEWLINK | RTM_DELLINK => self.handle_link(&header, payload),
                _ => {}
            }
        }
        self.buffer = data;
    }

    /// Judges by the fixed header alone (struct rtmsg: table at byte 4, protocol at 5): echoes of our own 100,000 routes cost nothing.
    fn is_news(&self, header: &Header, payload: &[u8]) -> bool {
        let main = payload.get(4) == Some(&RouteHeader::RT_TABLE_MAIN);
        let echo = header.port_number == self.own_port && payload.get(5) == Some(&PROTOCOL);
        main && !echo
    }

    fn handle_link(&mut self, header: &Header, payload: &[u8]) {
        let Ok(RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) =
            parse(header, payload)
        else {
            return self.note(Notice::Links);
        };
        let link = described(&link);
        let known = self.links.get(&link.index).copied();
        if header.message_type == RTM_DELLINK {
            if self.links.remove(&link.index).is_some() {
                self.note(Notice::Links);
            }
        } else if known.is_some_and(|up| up != link.up) {
            self.links.insert(link.index, link.up);
            self.note(Notice::Links);
        } else if known.is_none() && link.up {
            // New: no route of ours can have been lost with it. What it makes reachable shows as a route.
            self.links.insert(link.index, true);
        }
    }

    fn note(&mut self, notice: Notice) {
        let now = Instant::now();
        let gap = if notice == Notice::Links {
            LINKS_GAP
        } else {
            ROUTES_GAP
        };
        let due = self.told.map_or(now, |told| told + gap).max(now + GATHER);
        self.pending = Some(match self.pending {
            None => (notice, due),
            Some((before, planned)) => (before.max(notice), planned.min(due)),
        });
    }
}
