//! What a target means in the kernel's terms: interfaces found, gateways located, a next-hop group chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use nix::errno::Errno;

use super::RouteTable;
use crate::batch::Batch;
use crate::conn::{Conn, Refusal};
use crate::intern::Id;
use crate::nexthops::{Hops, Write};
use crate::wire::{self, Encoded, Shape};
use crate::{Error, Gateway, Target, links};

/// Times a plan is made anew because the kernel refused part of it.
const ROUNDS: u32 = 3;

#[derive(Debug, Default)]
pub(super) enum Plan {
    #[default]
    Unknown,
    Shape(Id),
    Impossible(Arc<str>),
}

/// What is known of a target.
#[derive(Debug)]
pub(super) struct TargetState {
    pub(super) plan: Plan,
    /// The next-hop group that serves it.
    pub(super) group: Option<u32>,
    /// It names an IPv4 gateway: nothing for an IPv6 route.
    pub(super) has_v4: bool,
    /// The kernel refused its group: its routes hold their gateways themselves.
    pub(super) fallback: bool,
}

impl TargetState {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            plan: Plan::Unknown,
            group: None,
            has_v4: several(target).iter().any(|g| g.address.is_ipv4()),
            fallback: false,
        }
    }

    pub(super) fn shape(&self) -> Option<Id> {
        match self.plan {
            Plan::Shape(id) => Some(id),
            Plan::Unknown | Plan::Impossible(_) => None,
        }
    }
}

/// A target's gateways; none for other kinds.
pub(super) fn several(target: &Target) -> &[Gateway] {
    match target {
        Target::Gateways(gateways) => gateways,
        Target::Onlink { .. } | Target::Interface(_) | Target::Blackhole => &[],
    }
}

impl RouteTable {
    /// Makes the plan of every target given, and writes the next-hop objects they need.
    pub(super) async fn plan_targets(&mut self, wanted: &BTreeSet<Id>) {
        let indexes = self.ask(wanted).await;
        let mut left: Vec<Id> = wanted.iter().copied().collect();
        for _ in 0..ROUNDS {
            let mut writes = Vec::new();
            for id in left.drain(..) {
                self.plan_target(id, &indexes, &mut writes);
            }
            left = match self.write_nexthops(writes).await {
                Ok(refused) => self.take_refusals(&refused),
                Err(error) => {
                    tracing::warn!(%error, "next-hop objects can't be written");
                    self.doubt = true;
                    return;
                }
            };
            if left.is_empty() {
                return;
            }
        }
    }

    /// Forgets every plan: what it rests on may have changed.
    pub(super) fn forget_plans(&mut self) {
        for state in self.targets.extras_mut() {
            state.fallback = false;
            if let Plan::Shape(shape) = std::mem::take(&mut state.plan) {
                self.shapes.release(shape);
            }
        }
        self.located.clear();
        self.refused.clear();
    }

    /// Forgets the plan of one target.
    pub(super) fn forget_plan(&mut self, target: Id) {
        if let Some(state) = self.targets.extra_mut(target)
            && let Plan::Shape(shape) = std::mem::take(&mut state.plan)
        {
            self.shapes.release(shape);
        }
    }

    /// Writes next-hop objects, singles before groups; returns what was refused.
    pub(super) async fn write_nexthops(
        &mut self,
        mut writes: Vec<Write>,
    ) -> Result<Vec<(Write, Refusal)>, Error> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        // Stable: an object that several groups share stays before all of them.
        writes.sort_by_key(|write| match write {
            Write::Single(..) => 0,
            Write::Group(..) => 1,
            Write::Delete(_) => 2,
        });
        let mut refused = Vec::new();
        let mut rest = writes.into_iter().peekable();
        while rest.peek().is_some() {
            let mut batch = Batch::default();
            let mut sent = Vec::new();
            while let Some(write) = rest.next_if(|_| !batch.is_full()) {
                encode(&mut batch, &write);
                sent.push(write);
            }
            let answer = self.with_conn(move |conn| conn.transact(&mut batch)).await;
            let mut refusals = answer?;
            let places = sent.into_iter().enumerate();
            refused.extend(places.filter_map(|(n, write)| Some((write, refusals.remove(&n)?))));
        }
        Ok(refused)
    }

    /// The gateways of a target that can be used now, each behind its link; or why there are none.
    pub(super) fn hops(&self, gateways: &[Gateway]) -> Result<Hops, Arc<str>> {
        let (mut all, mut why) = (Hops::new(), None);
        for gateway in gateways {
            let found = self.located.get(&gateway.address);
            let link = match (gateway.link, found) {
                (Some(link), _) => link,
                (None, Some(Ok(link))) => *link,
                (None, Some(Err(reason))) => {
                    why = Some(Arc::clone(reason));
                    continue;
                }
                (None, None) => continue,
            };
            match self.refused.get(&(gateway.address, link)) {
                Some(reason) => why = Some(Arc::clone(reason)),
                None => {
                    all.entry((gateway.address, link)).or_insert(gateway.weight);
                }
            }
        }
        if all.is_empty() {
            return Err(why.unwrap_or_else(|| "no next hop".into()));
        }
        let mut up = all.clone();
        up.retain(|(address, link), _| {
            !self.down.contains(&(*address, None)) && !self.down.contains(&(*address, Some(*link)))
        });
        // With all of them down nothing is better than what there is: the RIB will say what follows.
        Ok(if up.is_empty() { all } else { up })
    }

    fn plan_target(&mut self, id: Id, indexes: &BTreeMap<String, u32>, writes: &mut Vec<Write>) {
        self.forget_plan(id);
        let Some(target) = self.targets.value(id) else {
            return;
        };
        let shape = match target {
            Target::Blackhole => Ok(Shape::Blackhole),
            Target::Interface(name) => index_of(indexes, name).map(Shape::Device),
            Target::Onlink { interface, gateway } => {
                index_of(indexes, interface).map(|link| onlink(*gateway, link))
            }
            Target::Gateways(gateways) => {
                let gateways = gateways.clone();
                self.shape_of(id, &gateways, writes)
            }
        };
        let plan = match shape {
            Ok(shape) => Plan::Shape(self.shapes.acquire(shape, Encoded::new)),
            Err(why) => Plan::Impossible(why),
        };
        if let Some(state) = self.targets.extra_mut(id) {
            state.plan = plan;
        }
    }

    /// The shape of routes by these gateways; chooses their group where there is to be one.
    pub(super) fn shape_of(
        &mut self,
        id: Id,
        gateways: &[Gateway],
        writes: &mut Vec<Write>,
    ) -> Result<Shape, Arc<str>> {
        if let Some(lost) = gateways
            .iter()
            .find(|g| g.link.is_none() && is_link_local(g.address))
        {
            return Err(format!(
                "next hop {} is link-local: its link is needed",
                lost.address
            )
            .into());
        }
        if let [only] = gateways {
            return Ok(Shape::Gateways(vec![
                Gateway::new(only.address).behind(only.link),
            ]));
        }
        let hops = self.hops(gateways)?;
        let state = self.targets.extra(id);
        let (before, fallback) = state.map_or((None, true), |s| (s.group, s.fallback));
        if !self.objects || fallback {
            let usable = |g: &&Gateway| {
                let at = |(address, link): &(IpAddr, u32)| {
                    *address == g.address && g.link.is_none_or(|wanted| wanted == *link)
                };
                hops.keys().any(at)
            };
            let mut left: Vec<Gateway> = gateways.iter().filter(usable).copied().collect();
            if let [only] = left.as_mut_slice() {
                *only = Gateway::new(only.address).behind(only.link);
            }
            return Ok(Shape::Gateways(left));
        }
        let (group, needed) = self.nexthops.plan(id, before, &hops);
        writes.extend(needed);
        if let Some(state) = self.targets.extra_mut(id) {
            state.group = Some(group);
        }
        Ok(Shape::Group(group))
    }

    /// Learns from refused next-hop objects; returns the targets that need another plan.
    fn take_refusals(&mut self, refused: &[(Write, Refusal)]) -> Vec<Id> {
        let mut again = BTreeSet::new();
        let singles = refused
            .iter()
            .any(|(write, _)| matches!(write, Write::Single(..)));
        for (write, refusal) in refused {
            if let Write::Group(group, ..) = write
                && let Some(owner) = self.nexthops.owner(*group)
            {
                again.insert(owner);
                if !singles && !refusal.is(Errno::EEXIST) {
                    tracing::debug!(group, %refusal, "no next-hop group: routes hold their gateways");
                    if let Some(state) = self.targets.extra_mut(owner) {
                        state.fallback = true;
                    }
                }
            }
            self.nexthops.handle_refusal(write);
            let Write::Single(_, hop) = write else {
                continue;
            };
            if refusal.is(Errno::EOPNOTSUPP) || refusal.is(Errno::EPERM) {
                self.objects = false;
            } else if !refusal.is(Errno::EEXIST) {
                let why = format!("next hop {}: {refusal}", hop.0);
                self.refused.insert(*hop, why.into());
            }
        }
        again.into_iter().collect()
    }

    /// Asks the kernel for the interfaces and the gateways' links that plans of these targets need.
    async fn ask(&mut self, wanted: &BTreeSet<Id>) -> BTreeMap<String, u32> {
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for target in wanted.iter().filter_map(|id| self.targets.value(*id)) {
            match target {
                Target::Interface(name)
                | Target::Onlink {
                    interface: name, ..
                } => {
                    names.insert(name.clone());
                }
                Target::Gateways(gateways) if gateways.len() > 1 => {
                    let unknown = gateways.iter().filter(|g| g.link.is_none());
                    addresses.extend(unknown.map(|g| g.address));
                }
                Target::Gateways(_) | Target::Blackhole => {}
            }
        }
        addresses.retain(|address| !self.located.contains_key(address));
        if names.is_empty() && addresses.is_empty() {
            return BTreeMap::new();
        }
        let lookup = move |conn: &mut Conn| Ok((find_all(conn, names)?, locate(conn, &addresses)?));
        match self.with_conn(lookup).await {
            Ok((indexes, located)) => {
                self.located.extend(located);
                indexes
            }
            Err(error) => {
                tracing::warn!(%error, "interfaces and next hops can't be looked up");
                BTreeMap::new()
            }
        }
    }
}

fn index_of(indexes: &BTreeMap<String, u32>, name: &str) -> Result<u32, Arc<str>> {
    let found = indexes.get(name).copied();
    found.ok_or_else(|| format!("no interface {name:?}").into())
}

/// A link-local gateway is on its link in any case, and the kernel does not say the flag of it again.
fn onlink(gateway: IpAddr, link: u32) -> Shape {
    if is_link_local(gateway) {
        return Shape::Gateways(vec![Gateway::new(gateway).on_link(link)]);
    }
    Shape::Onlink(gateway, link)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn find_all(conn: &mut Conn, names: BTreeSet<String>) -> Result<BTreeMap<String, u32>, Error> {
    let mut indexes = BTreeMap::new();
    for name in names {
        // A name that is none is found nowhere; a length beyond the kernel's would be an error for all.
        if links::check_name(&name).is_ok()
            && let Some(link) = links::find(conn, &name)?
        {
            indexes.insert(name, link.index);
        }
    }
    Ok(indexes)
}

type Located = BTreeMap<IpAddr, Result<u32, Arc<str>>>;

/// Asks behind which link each address is, as the kernel itself does for a route without one.
fn locate(conn: &mut Conn, addresses: &BTreeSet<IpAddr>) -> Result<Located, Error> {
    let mut located: Located = BTreeMap::new();
    let mut rest = addresses.iter().copied().peekable();
    while rest.peek().is_some() {
        let mut batch = Batch::default();
        let mut sent = Vec::new();
        while let Some(address) = rest.next_if(|_| !batch.is_full()) {
            wire::look_up(&mut batch, address);
            sent.push(address);
        }
        let mut links = BTreeMap::new();
        let refused = conn.converse(&mut batch, |place, header, payload| {
            if header.message_type == wire::RTM_NEWROUTE {
                links.insert(place, wire::read_on_link(payload));
            }
        })?;
        for (place, address) in sent.into_iter().enumerate() {
            let found = match (links.get(&place), refused.get(&place)) {
                (Some(Some(link)), None) => Ok(*link),
                (_, Some(refusal)) => Err(format!("next hop {address}: {refusal}").into()),
                _ => Err(format!("next hop {address} is not on-link").into()),
            };
            located.insert(address, found);
        }
    }
    Ok(located)
}

fn encode(batch: &mut Batch, write: &Write) {
    match write {
        Write::Single(id, (address, link)) => wire::install_single(batch, *id, *address, *link),
        Write::Group(id, members, fresh) => wire::install_group(batch, *id, members, *fresh),
        Write::Delete(id) => wire::remove_nexthop(batch, *id),
    }
}
