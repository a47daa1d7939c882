//! The overlay's part of the routing task: which routes and ranges are the overlay's now, of all kinds of tunnels together.

mod device;
mod ipip;
mod one;
mod vxlan;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use ::overlay::{Demand, Kind};
use ipnet::IpNet;
use routes::Target;
use tracing::{info, warn};

use crate::wireguard::{Settings, WireGuardState};
pub(super) use device::delete;
use one::Overlay;
pub(crate) use wireguard::Publisher;
use wireguard::WireGuard;

/// The devices that stand, each with this node's own address that its packets bear.
pub(crate) type Standing = BTreeMap<Kind, IpAddr>;

/// The devices that an earlier run left.
pub(super) async fn left_standing() -> Standing {
    let mut standing = Standing::new();
    for kind in Kind::ALL {
        match device::local(kind).await {
            Ok(local) => standing.extend(local.map(|local| (kind, local))),
            Err(error) => {
                warn!(name = kind.device(), %error, "cannot look whether a device of an earlier run stands");
            }
        }
    }
    standing
}

/// What is the overlay's in the table of routes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InForce {
    pub(super) routes: BTreeMap<IpNet, Target>,
    /// What BGP learns inside of these is not installed.
    pub(super) ranges: BTreeSet<IpNet>,
    /// But for these, which no tunnel leads to.
    pub(super) left: BTreeSet<IpNet>,
}

impl InForce {
    pub(super) fn covers(&self, prefix: &IpNet) -> bool {
        let inside = |all: &BTreeSet<IpNet>| all.iter().any(|range| range.contains(prefix));
        inside(&self.ranges) && !inside(&self.left)
    }
}

/// One overlay of each kind, and what they are together: a range is of one kind, and goes from one to another when the
/// other's device is there.
#[derive(Debug)]
pub(super) struct Overlays {
    each: BTreeMap<Kind, Overlay>,
    in_force: InForce,
}

impl Overlays {
    /// `standing` are the devices that an earlier run left.
    pub(super) fn new(standing: &Standing, settings: Settings, publisher: Publisher) -> Self {
        let each = Kind::ALL.map(|kind| (kind, Overlay::new(kind, standing.get(&kind).copied())));
        let mut each = BTreeMap::from(each);
        let wireguard = WireGuard::new(settings, publisher);
        each.insert(Kind::WireGuard, Overlay::of_wireguard(wireguard));
        Self {
            each,
            in_force: InForce::default(),
        }
    }

    pub(super) fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// The devices that stand or may stand, asked for or not: other nodes may still send to one that goes.
    pub(super) fn standing(&self) -> Standing {
        self.each.values().filter_map(Overlay::stands).collect()
    }

    /// What is wrong, each with the device that it concerns.
    pub(super) fn problems(&self) -> impl Iterator<Item = (String, String)> {
        self.each.values().flat_map(Overlay::problems)
    }

    /// Whether what is asked for waits for other nodes.
    pub(super) fn is_held(&self) -> bool {
        self.each.values().any(Overlay::is_held)
    }

    /// What the tunnels in force take of a packet, at most, in bytes.
    pub(super) fn overhead(&self) -> u32 {
        let each = self.each.values();
        each.map(Overlay::overhead).max().unwrap_or_default()
    }

    /// This node's WireGuard keys, for people.
    pub(super) fn keys(&self) -> Option<WireGuardState> {
        self.each.values().find_map(Overlay::keys)
    }

    /// When [`Self::settle`] has something to do.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.each.values().filter_map(Overlay::next_look).min()
    }

    pub(super) fn set_demands(&mut self, demands: &BTreeMap<Kind, Demand>) {
        for (kind, overlay) in &mut self.each {
            overlay.set_demand(demands.get(kind));
        }
    }

    /// Something happened to links or addresses.
    pub(super) fn look_again(&mut self) {
        self.each.values_mut().for_each(Overlay::look_again);
    }

    /// Brings the devices to what is asked for. Returns what was in force before, if that has changed. `has_other_way`
    /// says whether packets to a range have a way by BGP now.
    pub(super) async fn settle(
        &mut self,
        has_other_way: impl Fn(&BTreeSet<IpNet>) -> bool,
    ) -> Option<InForce> {
        // All at first: an overlay lets go what another has taken over in the next round, when the routes are the other's.
        let moving: Vec<_> = self.each.keys().map(|kind| self.moving(*kind)).collect();
        let ranges: Vec<_> = self.each.values().map(Overlay::ranges).collect();
        let mut changed = false;
        for (place, (overlay, moving)) in self.each.values_mut().zip(moving).enumerate() {
            overlay.keep(&moving);
            let mut others = ranges.iter().enumerate();
            let of_others = |wanted: &BTreeSet<IpNet>| {
                others.any(|(other, held)| other != place && !held.is_disjoint(wanted))
            };
            changed |= overlay.settle(&has_other_way, of_others).await;
        }
        let moving: Vec<_> = self.each.keys().map(|kind| self.moving(*kind)).collect();
        for (overlay, moving) in self.each.values_mut().zip(moving) {
            overlay.look_if_free(&moving);
        }
        if !changed {
            return None;
        }
        let new = self.together();
        if new == self.in_force {
            return None;
        }
        if new.ranges != self.in_force.ranges {
            info!(ranges = ?new.ranges, routes = new.routes.len(), "what is the overlay's: nothing that BGP learns inside of it is installed");
        }
        Some(std::mem::replace(&mut self.in_force, new))
    }

    /// The ranges that are asked of other kinds which have not begun yet.
    fn moving(&self, kind: Kind) -> BTreeSet<IpNet> {
        let others = self.each.iter().filter(|(other, _)| **other != kind);
        let waiting = others.flat_map(|(_, overlay)| overlay.not_begun());
        waiting.copied().collect()
    }

    /// Where two kinds have a way, it is the one that is asked for.
    fn together(&self) -> InForce {
        let mut all = InForce::default();
        for is_moving in [true, false] {
            for overlay in self.each.values() {
                let of = overlay.in_force();
                let routes = of.routes.iter();
                let routes = routes.filter(|(prefix, _)| overlay.is_moving(prefix) == is_moving);
                all.routes
                    .extend(routes.map(|(prefix, target)| (*prefix, target.clone())));
                all.ranges.extend(&of.ranges);
                all.left.extend(&of.left);
            }
        }
        all
    }
}
