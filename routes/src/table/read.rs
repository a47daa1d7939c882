//! Reading the kernel's routes and next-hop objects back, and marking what differs.

use std::collections::BTreeSet;

use ipnet::IpNet;
use nix::errno::Errno;

use super::RouteTable;
use crate::conn::Conn;
use crate::intern::Id;
use crate::wire::{self, Dumped, DumpedNexthop, Encoded, Shape};
use crate::{Error, METRIC};

/// RTPROT_KERNEL.
const KERNEL: u8 = 2;

/// What one reading found.
struct Found {
    /// Routes with our metric, whoever's.
    routes: Vec<Dumped>,
    /// Subnets of this host's own interfaces whose routes give way to ours.
    subnets: BTreeSet<IpNet>,
    /// `None` where the kernel knows no next-hop objects.
    nexthops: Option<Vec<DumpedNexthop>>,
}

impl RouteTable {
    pub(super) async fn reread(&mut self) -> Result<(), Error> {
        let wanted = self.options.next_hop_objects;
        let found = self.with_conn(move |conn| read_all(conn, wanted)).await?;
        self.uncertain = false;
        self.forget_plans();
        self.objects = found.nexthops.is_some();
        match found.nexthops {
            Some(dumped) => self.nexthops.adopt(dumped),
            None => self.nexthops.forget(),
        }
        self.take_routes(found.routes);
        self.subnets = found.subnets;
        self.mark_unwanted();
        self.mark_claimed();
        Ok(())
    }

    fn take_routes(&mut self, routes: Vec<Dumped>) {
        for entry in self.entries.values_mut() {
            if let Some(shape) = entry.kernel.take() {
                self.shapes.release(shape);
            }
        }
        self.foreign.clear();
        for route in routes {
            if route.is_ours() {
                let shape = self.shapes.acquire(route.shape, Encoded::new);
                let entry = self.entries.entry(route.prefix).or_default();
                if let Some(other) = entry.kernel.replace(shape) {
                    self.shapes.release(other);
                }
            } else {
                self.foreign.insert(route.prefix, route.protocol);
            }
        }
        self.entries
            .retain(|_, entry| entry.desired.is_some() || entry.kernel.is_some());
        self.counts = super::Counts::default();
        self.dirty.clear();
        for entry in self.entries.values_mut() {
            self.counts.add(entry);
            entry.dirty = false;
        }
    }

    /// Marks all that somebody has spoken of; the next apply finds what is right already and writes
    /// only the rest. An explicit `None` outlives a re-read: the route came back or its deletion failed.
    fn mark_claimed(&mut self) {
        for (prefix, entry) in &mut self.entries {
            if entry.claimed && !std::mem::replace(&mut entry.dirty, true) {
                self.dirty.push(*prefix);
            }
        }
    }

    /// Whether a route of this shape, as the kernel has it, is what the target asks for.
    pub(super) fn is_right(&self, target: Id, shape: Id) -> bool {
        let planned = self.targets.extra(target).and_then(|state| state.shape());
        planned.is_some_and(|planned| {
            let both = self.shapes.value(shape).zip(self.shapes.value(planned));
            planned == shape || both.is_some_and(|(there, wanted)| there.satisfies(wanted))
        })
    }
}

fn read_all(conn: &mut Conn, nexthops: bool) -> Result<Found, Error> {
    let nexthops = if nexthops { read_nexthops(conn)? } else { None };
    let (mut routes, mut subnets) = (Vec::new(), BTreeSet::new());
    for family in [wire::INET, wire::INET6] {
        let each = |payload: &[u8]| {
            let route = wire::read(payload)?;
            if is_subnet(&route) && route.metric > METRIC && wire::is_alive(payload) {
                subnets.insert(route.prefix);
            }
            (route.metric == METRIC).then_some(route)
        };
        routes.extend(read_routes(conn, family, each)?);
    }
    Ok(Found {
        routes,
        subnets,
        nexthops,
    })
}

/// The kernel's own route to the neighbours on an interface.
fn is_subnet(route: &Dumped) -> bool {
    let by_device = matches!(route.shape, Shape::Device(_));
    route.protocol == KERNEL && route.unicast && by_device
}

/// Dumps table main of one family.
pub(crate) fn read_routes<T>(
    conn: &mut Conn,
    family: u8,
    mut keep: impl FnMut(&[u8]) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let body = wire::all_routes(family);
    let each = |_: &_, payload: &[u8]| keep(payload);
    match conn.dump_raw(wire::RTM_GETROUTE, &body, "listing routes", each) {
        // A namespace where no route was ever made has no table main yet.
        Err(Error::Refused { source, .. }) if is_absence(&source) => Ok(Vec::new()),
        other => other,
    }
}

fn read_nexthops(conn: &mut Conn) -> Result<Option<Vec<DumpedNexthop>>, Error> {
    let each = |_: &_, payload: &[u8]| wire::read_nexthop(payload);
    let body = wire::all_nexthops();
    match conn.dump_raw(
        wire::RTM_GETNEXTHOP,
        &body,
        "listing next-hop objects",
        each,
    ) {
        Ok(all) => Ok(Some(all)),
        // A kernel before 5.3, or one that doesn't let us: routes hold their gateways themselves.
        Err(Error::Refused { source, .. }) => {
            tracing::debug!(%source, "no next-hop objects");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    let absent = [Errno::ENOENT, Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP];
    error
        .raw_os_error()
        .is_some_and(|errno| absent.contains(&Errno::from_raw(errno)))
}

impl Shape {
    /// The next-hop object it names.
    pub(super) fn group(&self) -> Option<u32> {
        match self {
            Self::Group(id) => Some(*id),
            _ => None,
        }
    }
}
