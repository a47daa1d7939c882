//! The overlay's part of the routing task: the tunnel's device, and which routes and ranges are the overlay's now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ::overlay::{Demand, Plan, Route};
use ipnet::IpNet;
use routes::{Gateway, TUNNEL, Target, Tunnel, TunnelPeer, Ways};
use tracing::{info, warn};

/// How often the device and its entries are compared although no notice came: nobody is told of changed entries.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// From the device's making to the first route by it, where packets have another way until then: other nodes get
/// their devices meanwhile, and an end that is not there yet drops what comes.
const HOLD: Duration = Duration::from_secs(1);
/// How long the device outlives the last route by it: other nodes may still send.
const LINGER: Duration = Duration::from_secs(10);
/// Of so many nodes the way is looked up for its MTU.
const LOOKED_UP: usize = 256;
/// What is taken for the underlay's MTU in bytes while nothing leads out.
const USUAL_MTU: u32 = 1500;

/// What is the overlay's in the table of routes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InForce {
    pub(super) routes: BTreeMap<IpNet, Target>,
    /// What BGP learns inside of these is not installed.
    pub(super) ranges: BTreeSet<IpNet>,
}

impl InForce {
    pub(super) fn covers(&self, prefix: &IpNet) -> bool {
        self.ranges.iter().any(|range| range.contains(prefix))
    }
}

/// What is asked for, and how far it is carried out.
#[derive(Debug)]
pub(super) struct Overlay {
    demand: Option<Demand>,
    in_force: InForce,
    /// What is wrong with the device.
    problems: Vec<String>,
    /// When the device is to be looked at again; at once if that is past.
    look_at: Option<Instant>,
    /// Until when new routes wait.
    hold: Option<Instant>,
    /// When a device that nothing asks for goes; at the start there may be one of an earlier run.
    linger: Option<Instant>,
}

impl Overlay {
    pub(super) fn new() -> Self {
        Self {
            demand: None,
            in_force: InForce::default(),
            problems: Vec::new(),
            look_at: None,
            hold: None,
            linger: Some(Instant::now() + LINGER),
        }
    }

    pub(super) fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// What is wrong, each with what it concerns.
    pub(super) fn problems(&self) -> impl Iterator<Item = (String, String)> {
        let problems = self.problems.iter().cloned();
        problems.map(|why| (TUNNEL.to_owned(), why))
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
        if self.demand.is_some() {
            self.linger = None;
        }
    }

    /// Something happened to links or addresses.
    pub(super) fn look_again(&mut self) {
        if self.demand.is_some() {
            self.look_at = Some(Instant::now());
        }
    }

    /// Brings the device to what is asked for. Returns what was in force before, if that has changed. `has_other_way`
    /// says whether packets to a range have another way now.
    pub(super) async fn settle(
        &mut self,
        has_other_way: impl Fn(&BTreeSet<IpNet>) -> bool,
    ) -> Option<InForce> {
        let now = Instant::now();
        if self.linger.is_some_and(|at| at <= now) && self.demand.is_none() {
            self.linger = None;
            match routes::delete_tunnel().await {
                Ok(true) => info!("the tunnel's device is gone: no pool asks for it"),
                Ok(false) => {}
                Err(error) => warn!(%error, "the tunnel's device stays"),
            }
        }
        if self.next_look().is_none_or(|at| at > now) {
            return None;
        }
        let Some(demand) = self.demand.clone() else {
            return self.end(now);
        };
        self.look_at = Some(now + LOOK_AGAIN);
        let (plan, made) = match carry_out(&demand).await {
            Ok((plan, report)) => {
                self.tell(report.failed);
                (plan, report.made)
            }
            Err(error) => {
                // What was in force stays: other ways are taken away only for one that is there.
                self.tell(vec![error.to_string()]);
                return None;
            }
        };
        if made && self.in_force.ranges.is_empty() && has_other_way(&demand.ranges) {
            self.hold = Some(now + HOLD);
        }
        if self.hold.is_some_and(|until| until > now) {
            return None;
        }
        self.hold = None;
        self.put(InForce {
            routes: plan
                .routes
                .iter()
                .map(|(prefix, route)| (*prefix, target(*route)))
                .collect(),
            ranges: demand.ranges,
        })
    }

    /// Routes go at once, the device later.
    fn end(&mut self, now: Instant) -> Option<InForce> {
        (self.look_at, self.hold) = (None, None);
        self.problems.clear();
        if self.linger.is_none() {
            self.linger = Some(now + LINGER);
        }
        self.put(InForce::default())
    }

    fn put(&mut self, new: InForce) -> Option<InForce> {
        if new == self.in_force {
            return None;
        }
        if new.ranges != self.in_force.ranges {
            info!(ranges = ?new.ranges, routes = new.routes.len(), "what is the overlay's: nothing that BGP learns inside of it is installed");
        }
        Some(std::mem::replace(&mut self.in_force, new))
    }

    fn tell(&mut self, problems: Vec<String>) {
        for problem in problems.iter().filter(|one| !self.problems.contains(one)) {
            warn!("{problem}");
        }
        self.problems = problems;
    }
}

/// Makes the plan from the node's present subnets, and the device and its entries what the plan says.
async fn carry_out(demand: &Demand) -> Result<(Plan, routes::TunnelReport), routes::Error> {
    let plan = demand.plan(&routes::subnets_of(&demand.local).await?);
    let underlays = plan.peers.values().map(|peer| peer.underlay);
    let ways = Ways {
        own: BTreeSet::from([demand.local]),
        to: underlays.take(LOOKED_UP).collect(),
        interfaces: BTreeSet::new(),
    };
    let path = routes::path_mtu(&ways).await?;
    let mtu = path.map_or(USUAL_MTU, |path| path.mtu);
    let peers = plan.peers.iter().map(|(mac, peer)| {
        let peer = TunnelPeer {
            underlay: peer.underlay,
            neighbours: peer.neighbours.clone(),
        };
        (*mac, peer)
    });
    let report = routes::apply_tunnel(&Tunnel {
        local: demand.local,
        mac: demand.mac,
        mtu: mtu.saturating_sub(demand.overhead()),
        addresses: plan.addresses.clone(),
        peers: peers.collect(),
    })
    .await?;
    if report.made {
        info!(local = %demand.local, mtu, "the tunnel's device is made");
    } else if report.written + report.deleted > 0 {
        info!(
            report.written,
            report.deleted, "the tunnel's entries follow"
        );
    }
    Ok((plan, report))
}

fn target(route: Route) -> Target {
    match route {
        Route::Direct(address) => Target::Gateways(vec![Gateway::new(address)]),
        Route::Tunnel(gateway) => Target::Onlink {
            interface: TUNNEL.to_owned(),
            gateway,
        },
    }
}
