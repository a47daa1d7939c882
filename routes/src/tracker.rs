//! Next-hop tracking: whether and how this host reaches given addresses without the routes we wrote ourselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::conn::Conn;
use crate::links::blocking;
use crate::monitor::{Monitor, Notice};
use crate::table::read_routes;
use crate::wire::{self, Dumped, INET, INET6, Shape};
use crate::{Error, PROTOCOL};

/// How this host reaches an address, by routes that are not ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// A route leads there. One of several next hops, or one that goes by a next-hop object, counts.
    pub reachable: bool,
    /// The route's metric, the interior cost of RFC 4271 §9.1.2.2 (e); 0 where nothing leads.
    pub metric: u32,
    /// The interface's index if it is only one.
    pub link: Option<u32>,
    /// It is a neighbour on that interface: no router between.
    pub connected: bool,
    /// The router on the way there, if it is one, and only one.
    pub via: Option<IpAddr>,
}

/// Watches addresses; the BGP speaker's next hops.
///
/// Answers come from a mirror of table main without protocol 179, since the kernel's own answer may
/// be one of our routes, and a BGP next hop must not hang on the very route that it carries. The
/// mirror is read anew when another's route or a link changes (gathered by the monitor, at most every
/// half second), and every watched address is looked up in it: that costs by addresses, not by the
/// routes that use them.
#[derive(Debug)]
pub struct NextHopTracker {
    monitor: Monitor,
    conn: Arc<Mutex<Conn>>,
    watched: BTreeMap<IpAddr, Reach>,
    mirror: Mirror,
    /// The mirror may be out of date: read it before it is asked.
    stale: bool,
}

impl NextHopTracker {
    /// Opens its sockets in the calling thread's network namespace.
    ///
    /// # Errors
    /// When a socket can't be had or the routes can't be read.
    pub async fn open() -> Result<Self, Error> {
        // Listening before reading: nothing falls between the two.
        let mut tracker = Self {
            monitor: Monitor::open_for_others()?,
            conn: Arc::new(Mutex::new(Conn::open()?)),
            watched: BTreeMap::new(),
            mirror: Mirror::default(),
            stale: true,
        };
        tracker.refresh().await?;
        Ok(tracker)
    }

    /// Sets the addresses to watch, in place of those before; returns the answers for all of them.
    ///
    /// # Errors
    /// When a change was noticed and the routes can't be read again.
    pub async fn watch(
        &mut self,
        addresses: BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, Reach>, Error> {
        self.refresh().await?;
        let mirror = &self.mirror;
        let answers = addresses.into_iter().map(|ip| (ip, mirror.find(ip)));
        let answers: BTreeMap<IpAddr, Reach> = answers.collect();
        self.watched.clone_from(&answers);
        Ok(answers)
    }

    /// Waits until the answer for some watched address changes; returns those that did.
    ///
    /// May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// When the routes can't be read; call again, after a pause.
    pub async fn next(&mut self) -> Result<BTreeMap<IpAddr, Reach>, Error> {
        loop {
            if !self.stale {
                while self.monitor.next().await == Notice::Mtu {}
                self.stale = true;
            }
            self.refresh().await?;
            let mut changed = BTreeMap::new();
            for (address, known) in &mut self.watched {
                let reach = self.mirror.find(*address);
                if std::mem::replace(known, reach) != reach {
                    changed.insert(*address, reach);
                }
            }
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), Error> {
        if self.stale {
            let conn = Arc::clone(&self.conn);
            let read =
                move || Mirror::read(&mut conn.lock().unwrap_or_else(PoisonError::into_inner));
            self.mirror = blocking(read).await?;
            self.stale = false;
        }
        Ok(())
    }
}

/// Others' routes of table main, the best of each prefix (with what it is judged by).
#[derive(Debug, Default)]
struct Mirror {
    routes: HashMap<IpNet, ((bool, u32), Reach)>,
    /// The prefix lengths that occur, longest first.
    v4: BTreeSet<u8>,
    v6: BTreeSet<u8>,
}

impl Mirror {
    fn read(conn: &mut Conn) -> Result<Self, Error> {
        let mut mirror = Self::default();
        for family in [INET, INET6] {
            let each = |payload: &[u8]| {
                let foreign = payload.get(5) != Some(&PROTOCOL);
                let route = foreign.then(|| wire::read(payload)).flatten()?;
                mirror.add(&route, wire::is_alive(payload));
                None::<()>
            };
            read_routes(conn, family, each)?;
        }
        Ok(mirror)
    }

    fn add(&mut self, route: &Dumped, alive: bool) {
        let (link, via) = match &route.shape {
            Shape::Gateways(gateways) => match gateways.as_slice() {
                [only] => (only.link, Some(only.address)),
                _ => (None, None),
            },
            Shape::Onlink(address, link) => (Some(*link), Some(*address)),
            Shape::Device(index) => (Some(*index), None),
            Shape::Group(_) => (route.device, None),
            Shape::Blackhole | Shape::Strange => (None, None),
        };
        let usable = route.unicast && alive;
        let reach = Reach {
            reachable: usable,
            metric: route.metric,
            link: link.filter(|_| usable),
            connected: usable && matches!(route.shape, Shape::Device(_)),
            via: via.filter(|_| usable),
        };
        match route.prefix {
            IpNet::V4(net) => self.v4.insert(net.prefix_len()),
            IpNet::V6(net) => self.v6.insert(net.prefix_len()),
        };
        // The kernel passes over dead routes and takes the lowest metric of the rest, even if that refuses.
        let rank = (!alive, route.metric);
        let known = self.routes.get(&route.prefix);
        if known.is_none_or(|(old, _)| rank < *old) {
            self.routes.insert(route.prefix, (rank, reach));
        }
    }

    /// The longest match.
    fn find(&self, address: IpAddr) -> Reach {
        let lengths = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        let nets = lengths
            .iter()
            .rev()
            .filter_map(|bits| IpNet::new(address, *bits).ok());
        let routes = nets.filter_map(|net| self.routes.get(&net.trunc()));
        // A dead route is as good as none: a shorter prefix may lead there.
        let mut alive = routes.filter(|((dead, _), _)| !dead);
        let found = alive.next().map(|(_, reach)| *reach);
        found.filter(|reach| reach.reachable).unwrap_or_default()
    }
}
