//! One kind of tunnel: when its device is made, when routes go by it, and when it goes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ::overlay::{Demand, Kind};
use ipnet::IpNet;
use tracing::{info, warn};

use super::device::{self, Carried};
use super::wireguard::{self, WireGuard};
use super::{InForce, WireGuardState};

/// How often the device and its entries are compared although no notice came: nobody is told of changed entries.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// From the device's making to the first route by it, where packets have another way until then: other nodes get
/// their devices meanwhile, and an end that is not there yet drops what comes.
const HOLD: Duration = Duration::from_secs(1);
/// The same for nodes that have to hear of each other's keys first. Those that have published none by then get nothing:
/// what is asked for is not to go in the clear.
const KEYS_HOLD: Duration = Duration::from_secs(30);
/// How long the device outlives the last route by it: other nodes may still send.
const LINGER: Duration = Duration::from_secs(10);

/// What is asked for of one kind, and how far it is carried out.
#[derive(Debug)]
pub(super) struct Overlay {
    kind: Kind,
    /// Keys, if it is of that kind.
    wireguard: Option<WireGuard>,
    demand: Option<Demand>,
    /// Ranges asked of another kind that has not begun: what was carried out for them goes on.
    moving: BTreeSet<IpNet>,
    /// What was carried out at last.
    carried: Option<Demand>,
    in_force: InForce,
    /// What is wrong with the device.
    problems: Vec<String>,
    /// When the device is to be looked at again; at once if that is past.
    look_at: Option<Instant>,
    /// Until when new routes wait.
    hold: Option<Instant>,
    /// This node's own address by which a device stands, asked for or not.
    stands: Option<IpAddr>,
    /// When a device that nothing asks for goes; at the start there may be one of an earlier run.
    linger: Option<Instant>,
}

impl Overlay {
    /// `stands` is the local address of a device that an earlier run left.
    pub(super) fn new(kind: Kind, stands: Option<IpAddr>) -> Self {
        Self {
            kind,
            wireguard: None,
            demand: None,
            moving: BTreeSet::new(),
            carried: None,
            in_force: InForce::default(),
            problems: Vec::new(),
            look_at: None,
            hold: None,
            stands,
            linger: Some(Instant::now() + LINGER),
        }
    }

    pub(super) fn of_wireguard(wireguard: WireGuard) -> Self {
        Self {
            wireguard: Some(wireguard),
            ..Self::new(Kind::WireGuard, None)
        }
    }

    /// Its keys, for people.
    pub(super) fn keys(&self) -> Option<WireGuardState> {
        self.wireguard.as_ref()?.state()
    }

    pub(super) fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// The kind and this node's own address by which a device stands or may stand, asked for or not.
    pub(super) fn stands(&self) -> Option<(Kind, IpAddr)> {
        Some((self.kind, self.stands?))
    }

    /// The ranges in force.
    pub(super) fn ranges(&self) -> BTreeSet<IpNet> {
        self.in_force.ranges.clone()
    }

    /// Whether a prefix is in a range that goes to another kind.
    pub(super) fn is_moving(&self, prefix: &IpNet) -> bool {
        self.moving.iter().any(|range| range.contains(prefix))
    }

    /// The ranges asked for that are not in force.
    pub(super) fn not_begun(&self) -> impl Iterator<Item = &IpNet> {
        let asked = self.demand.iter().flat_map(|demand| &demand.ranges);
        asked.filter(|range| !self.in_force.ranges.contains(range))
    }

    /// What it takes of a packet in bytes, as long as routes lead through it.
    pub(super) fn overhead(&self) -> u32 {
        let carried = self.carried.as_ref();
        carried.map_or(0, Demand::overhead)
    }

    /// What is wrong, each with what it concerns.
    pub(super) fn problems(&self) -> impl Iterator<Item = (String, String)> {
        let problems = self.problems.iter().cloned();
        problems.map(|why| (self.kind.device().to_owned(), why))
    }

    /// Whether what is asked for waits for other nodes.
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// When [`Self::settle`] has something to do.
    pub(super) fn next_look(&self) -> Option<Instant> {
        [self.look_at, self.hold, self.linger]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn set_demand(&mut self, demand: Option<&Demand>) {
        if self.demand.as_ref() == demand {
            return;
        }
        self.demand = demand.cloned();
        self.look_at = Some(Instant::now());
    }

    /// Says which ranges another kind is to have, and has not yet.
    pub(super) fn keep(&mut self, asked_of_others: &BTreeSet<IpNet>) {
        let moving = self.kept(asked_of_others);
        if moving != self.moving {
            self.moving = moving;
            self.look_at = Some(Instant::now());
        }
    }

    /// Has it looked at again at once, if what it keeps is to change.
    pub(super) fn look_if_free(&mut self, asked_of_others: &BTreeSet<IpNet>) {
        if self.kept(asked_of_others) != self.moving {
            self.look_at = Some(Instant::now());
        }
    }

    fn kept(&self, asked_of_others: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
        let carried = self.carried.iter().flat_map(|carried| &carried.ranges);
        let kept = carried.filter(|range| asked_of_others.contains(range));
        kept.copied().collect()
    }

    /// Something happened to links or addresses.
    pub(super) fn look_again(&mut self) {
        if self.is_wanted() {
            self.look_at = Some(Instant::now());
        }
    }

    fn is_wanted(&self) -> bool {
        self.demand.is_some() || !self.moving.is_empty()
    }

    /// What is to be carried out: what is asked for, and what goes on until another kind has begun.
    fn goal(&self) -> Option<Demand> {
        let carried = self.carried.as_ref();
        let rest = carried.and_then(|carried| carried.within(&self.moving));
        match (self.demand.clone(), rest) {
            (Some(demand), Some(rest)) => Some(demand.and(rest)),
            (demand, rest) => demand.or(rest),
        }
    }

    /// Brings the device to what is asked for; whether something else is in force now. The two functions say whether
    /// packets to a range have a way by BGP now, or by another kind.
    pub(super) async fn settle(
        &mut self,
        by_bgp: impl Fn(&BTreeSet<IpNet>) -> bool,
        by_other: impl FnOnce(&BTreeSet<IpNet>) -> bool,
    ) -> bool {
        let now = Instant::now();
        if self.linger.is_some_and(|at| at <= now) && !self.is_wanted() {
            self.linger = None;
            let name = self.kind.device();
            if let Some(wireguard) = &mut self.wireguard {
                wireguard.end();
            }
            match device::delete(self.kind).await {
                Ok(is_ours) => {
                    self.stands = None;
                    if is_ours {
                        info!(name, "the tunnel's device is gone: no pool asks for it");
                    }
                }
                Err(error) => warn!(name, %error, "the tunnel's device stays"),
            }
        }
        if self.is_wanted() {
            self.linger = None;
        }
        if self.next_look().is_none_or(|at| at > now) {
            return false;
        }
        let Some(goal) = self.goal() else {
            return self.end(now);
        };
        self.look_at = Some(now + LOOK_AGAIN);
        // Even if it is made in part only.
        self.stands = Some(goal.local);
        let carried = match self.carry_out(&goal).await {
            Ok(carried) => carried,
            Err(error) => {
                // What was in force stays: other ways are taken away only for one that is there.
                self.tell(vec![error]);
                return self.wireguard.is_some() && self.close(&goal);
            }
        };
        if let Some(pause) = carried.again {
            self.look_at = Some(now + pause);
        }
        let is_first = carried.report.made && self.in_force.ranges.is_empty();
        self.tell(carried.report.failed);
        if is_first && (by_bgp(&goal.ranges) || by_other(&goal.ranges)) {
            let hold = self.wireguard.as_ref().map_or(HOLD, |_| KEYS_HOLD);
            self.hold = Some(now + hold);
        }
        if self.hold.is_some_and(|until| until > now) && !carried.is_ready {
            return false;
        }
        self.hold = None;
        let new = InForce {
            routes: carried.routes,
            ranges: goal.ranges.clone(),
            left: goal.left.clone(),
        };
        self.carried = Some(goal);
        self.put(new)
    }

    async fn carry_out(&mut self, goal: &Demand) -> Result<Carried, String> {
        match &mut self.wireguard {
            Some(wireguard) => wireguard.carry_out(goal).await,
            None => device::carry_out(goal)
                .await
                .map_err(|error| error.to_string()),
        }
    }

    /// What was to be encrypted and can't be goes nowhere, unless it has its way already.
    fn close(&mut self, goal: &Demand) -> bool {
        if goal.ranges.is_subset(&self.in_force.ranges) {
            return false;
        }
        let mut routes = wireguard::closed(&goal.ranges);
        routes.extend(std::mem::take(&mut self.in_force.routes));
        self.put(InForce {
            routes,
            ranges: goal.ranges.clone(),
            left: BTreeSet::new(),
        })
    }

    /// Routes go at once, the device later.
    fn end(&mut self, now: Instant) -> bool {
        (self.look_at, self.hold, self.carried) = (None, None, None);
        self.problems.clear();
        if self.linger.is_none() {
            self.linger = Some(now + LINGER);
        }
        self.put(InForce::default())
    }

    fn put(&mut self, new: InForce) -> bool {
        let changed = new != self.in_force;
        self.in_force = new;
        changed
    }

    fn tell(&mut self, problems: Vec<String>) {
        for problem in problems.iter().filter(|one| !self.problems.contains(one)) {
            warn!("{problem}");
        }
        self.problems = problems;
    }
}
