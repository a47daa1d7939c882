//! The task that owns our routes in the kernel: pods and Pod CIDRs of this node, tunnels to others, and what BGP has learned.

mod overlay;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::overlay::{Demand, Kind};
use bgp_proto::rib::NextHop;
use bgp_speaker::{RouteEvent, RouteEvents};
use ipnet::IpNet;
use routes::{Gateway, Monitor, Notice, RouteTable, Sweep, Target};
use tokio::sync::{oneshot, watch};
use tracing::{debug, info, warn};

use crate::cli::TunnelChecksums;
use crate::nexthops::Routers;
use crate::wireguard;
use overlay::{InForce, Overlays};
pub(crate) use overlay::{Publisher, Standing};

/// How often the whole table is compared although no notice came.
const DRIFT_CHECK: Duration = Duration::from_secs(60);

/// So many clashes are named in the log; more are counted.
const NAMED: usize = 8;

/// The routes that follow from this node's own state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Local {
    /// Grows with every publication; 0 means nothing published yet.
    pub(crate) generation: u64,
    /// Pod addresses and Pod CIDRs.
    pub(crate) routes: BTreeMap<IpNet, Target>,
    /// False for a pure route reflector: what BGP learns stays out of the kernel.
    pub(crate) install_learned: bool,
    /// What is asked of tunnels to other nodes, by kind.
    pub(crate) overlays: Arc<BTreeMap<Kind, Demand>>,
}

/// What the task reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    /// The newest generation of local routes that was written.
    pub(crate) generation: u64,
    /// Routes that should be in the kernel, and that are.
    pub(crate) desired: usize,
    /// Routes of ours in the kernel.
    pub(crate) in_kernel: usize,
    /// What could not be written and why.
    pub(crate) failed: Vec<(String, String)>,
    /// The speaker has heard all that its peers had to say.
    pub(crate) initial_sync: bool,
    /// Grows whenever links changed, so that others look again.
    pub(crate) links: u64,
    /// Grows whenever the way out of this node may be another: links, their MTU, routes of ours or of others.
    pub(crate) ways: u64,
    /// Learned routes seen so far.
    pub(crate) learned: usize,
    /// Routes in whose place another's route is.
    pub(crate) clashes: usize,
    /// How many learned routes are kept out of the kernel because tunnels own what is inside of a range.
    pub(crate) kept_out: BTreeMap<IpNet, usize>,
    /// Gateways that BFD lost, since the start.
    pub(crate) gateway_downs: u64,
    /// This node's WireGuard keys, where a pool has it.
    pub(crate) wireguard: Option<wireguard::WireGuardState>,
    /// What the tunnels in force take of a packet, at most, in bytes.
    pub(crate) overhead: u32,
    /// Devices of tunnels that stand, asked for or not.
    pub(crate) standing: Standing,
}

/// Everything the task waits for.
enum Input {
    Local,
    Learned(RouteEvent),
    Resolved,
    Notice(Notice),
    Retry,
    Closed,
}

struct Routing {
    table: RouteTable,
    local: Local,
    /// As BGP gave them: a gateway may be behind a router.
    learned: HashMap<IpNet, Vec<Gateway>>,
    overlays: Overlays,
    /// [`Applied::kept_out`], unless that has to be counted again.
    kept_out: Option<BTreeMap<IpNet, usize>>,
    /// This node's own subnets: a router's route there would take packets to neighbours from their link.
    subnets: BTreeSet<IpNet>,
    /// Whether checksums of what is in tunnels are left to the device below; if nothing is said, they stay as they are.
    checksums: Option<TunnelChecksums>,
    routers: Arc<Routers>,
    initial_sync: bool,
    links: u64,
    ways: u64,
    gateway_downs: u64,
}

/// Runs until the local routes' sender is gone.
///
/// # Errors
/// If the netlink sockets cannot be opened.
pub(crate) async fn run_task(
    (mut local, mut speaker, mut routers): (
        watch::Receiver<Local>,
        oneshot::Receiver<RouteEvents>,
        watch::Receiver<Arc<Routers>>,
    ),
    applied: watch::Sender<Applied>,
    (settings, publisher): (wireguard::Settings, Publisher),
    checksums: Option<TunnelChecksums>,
) -> Result<(), routes::Error> {
    let table = RouteTable::open().await?;
    let mut monitor = Monitor::open(&table)?;
    let mut routing = Routing {
        table,
        local: Local::default(),
        learned: HashMap::new(),
        overlays: Overlays::new(&overlay::left_standing().await, settings, publisher),
        kept_out: None,
        checksums,
        subnets: BTreeSet::new(),
        routers: Arc::default(),
        initial_sync: false,
        links: 0,
        ways: 0,
        gateway_downs: 0,
    };
    let mut drift = tokio::time::interval(DRIFT_CHECK);
    let mut events: Option<RouteEvents> = None;
    let mut speaker_expected = true;
    loop {
        let retry = routing.next_retry();
        let input = tokio::select! {
            changed = local.changed() => if changed.is_ok() { Input::Local } else { Input::Closed },
            started = &mut speaker, if speaker_expected => {
                speaker_expected = false;
                match started {
                    Ok(started) => { events = Some(started); continue }
                    // BGP is left out: what it learned in an earlier run is nobody's.
                    Err(_) => Input::Learned(RouteEvent::InitialSync),
                }
            }
            event = next_event(&mut events) => match event {
                Some(event) => Input::Learned(event),
                None => { events = None; continue }
            },
            Ok(()) = routers.changed() => Input::Resolved,
            notice = monitor.next() => Input::Notice(notice),
            _ = drift.tick() => Input::Notice(Notice::Overrun),
            () = until(retry) => Input::Retry,
        };
        match input {
            Input::Closed => return Ok(()),
            Input::Local => {
                routing.set_local(local.borrow_and_update().clone());
            }
            Input::Learned(event) => routing.set_learned(event).await,
            Input::Resolved => routing.set_routers(routers.borrow_and_update().clone()),
            Input::Notice(notice) => routing.look_again(&notice).await,
            Input::Retry => {}
        }
        routing.write(&applied).await;
    }
}

/// Devices of tunnels that an earlier run left: before anything is published.
pub(crate) async fn left_standing() -> Standing {
    overlay::left_standing().await
}

/// Takes the devices of all tunnels away.
///
/// # Errors
/// When the kernel refuses.
pub(crate) async fn delete_tunnels() -> Result<(), routes::Error> {
    for kind in Kind::ALL {
        overlay::delete(kind).await?;
    }
    Ok(())
}

fn gateway(hop: NextHop) -> Gateway {
    Gateway {
        address: hop.address,
        link: hop.link,
        weight: NonZeroU8::new(hop.weight).unwrap_or(NonZeroU8::MIN),
    }
}

/// The kernel takes gateways on its links only: one behind a router becomes that router. Two behind the same one
/// become one of both weights.
fn resolve(gateways: &[Gateway], routers: &Routers) -> Vec<Gateway> {
    let mut resolved: Vec<Gateway> = Vec::with_capacity(gateways.len());
    for gateway in gateways {
        let router = routers.get(&gateway.address);
        let (address, link) = match router.filter(|_| gateway.link.is_none()) {
            Some((router, link)) => (*router, link.filter(|_| is_link_local(*router))),
            None => (gateway.address, gateway.link),
        };
        let same = |held: &&mut Gateway| (held.address, held.link) == (address, link);
        match resolved.iter_mut().find(same) {
            Some(held) => held.weight = held.weight.saturating_add(gateway.weight.get()),
            None => resolved.push(Gateway {
                address,
                link,
                weight: gateway.weight,
            }),
        }
    }
    resolved
}

/// Learned routes that tunnels own, by the range that says so.
fn kept_out<'a>(
    learned: impl Iterator<Item = &'a IpNet>,
    overlay: &InForce,
) -> BTreeMap<IpNet, usize> {
    let mut kept = BTreeMap::new();
    if overlay.ranges.is_empty() {
        return kept;
    }
    for prefix in learned.filter(|prefix| overlay.covers(prefix)) {
        let mut ranges = overlay.ranges.iter();
        if let Some(range) = ranges.find(|range| range.contains(prefix)) {
            *kept.entry(*range).or_default() += 1;
        }
    }
    kept
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The next event of the speaker; never, as long as there is none.
async fn next_event(events: &mut Option<RouteEvents>) -> Option<RouteEvent> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Returns at that time; never, if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

impl Routing {
    /// When something that failed is due again; nothing is, before anything may be written.
    fn next_retry(&self) -> Option<Instant> {
        let again = [self.table.next_retry(), self.overlays.next_look()];
        let again = again.into_iter().flatten().min();
        again.filter(|_| self.local.generation > 0)
    }

    fn set_local(&mut self, new: Local) {
        for (prefix, target) in &new.routes {
            self.table.set(*prefix, Some(target.clone()));
        }
        let old = std::mem::replace(&mut self.local, new);
        self.kept_out = None;
        for prefix in old.routes.keys() {
            if !self.local.routes.contains_key(prefix) {
                self.table.set(*prefix, self.target(prefix));
            }
        }
        self.overlays.set_demands(&self.local.overlays);
        if old.install_learned != self.local.install_learned {
            let prefixes: Vec<_> = self.learned.keys().copied().collect();
            for prefix in prefixes {
                self.place_learned(prefix);
            }
        }
        if self.local.generation > 0 {
            self.table.permit_sweep(Sweep::Local);
        }
    }

    async fn set_learned(&mut self, event: RouteEvent) {
        match event {
            RouteEvent::GatewayDown(gateway) => {
                let done = self
                    .table
                    .handle_gateway_down(gateway.address, gateway.link)
                    .await;
                self.gateway_downs += 1;
                info!(gateway = %gateway.address, groups = done.groups, "packets no longer go to this gateway: BFD lost it, or all its routes go");
            }
            RouteEvent::GatewayUp(gateway) => {
                self.table
                    .handle_gateway_up(gateway.address, gateway.link)
                    .await;
            }
            RouteEvent::Changes(changes) => {
                debug!(count = changes.len(), "routes learned or withdrawn");
                self.ways += 1;
                self.kept_out = None;
                for change in changes {
                    if change.next_hops.is_empty() {
                        self.learned.remove(&change.prefix);
                    } else {
                        let gateways = change.next_hops.into_iter().map(gateway);
                        self.learned.insert(change.prefix, gateways.collect());
                    }
                    self.place_learned(change.prefix);
                }
            }
            RouteEvent::InitialSync => {
                info!(
                    learned = self.learned.len(),
                    "peers have sent what they had; stale routes of an earlier run go now"
                );
                self.initial_sync = true;
                self.table.permit_sweep(Sweep::Learned);
            }
        }
    }

    fn place_learned(&mut self, prefix: IpNet) {
        if !self.local.routes.contains_key(&prefix) {
            self.table.set(prefix, self.target(&prefix));
        }
    }

    /// The one owner of a prefix: this node itself; or the overlay, whose ranges nothing learned gets into; or BGP.
    fn target(&self, prefix: &IpNet) -> Option<Target> {
        let overlay = self.overlays.in_force();
        let own = self.local.routes.get(prefix);
        if let Some(target) = own.or_else(|| overlay.routes.get(prefix)) {
            return Some(target.clone());
        }
        self.learned_target(prefix)
            .filter(|_| !overlay.covers(prefix))
    }

    /// The overlay's routes and ranges are others now than `old`.
    fn follow_overlay(&mut self, old: &InForce) {
        let new = self.overlays.in_force();
        let routes = old.routes.keys().chain(new.routes.keys());
        let mut concerned: Vec<IpNet> = routes.copied().collect();
        if (&old.ranges, &old.left) != (&new.ranges, &new.left) {
            let inside = |prefix: &&IpNet| old.covers(prefix) || new.covers(prefix);
            concerned.extend(self.learned.keys().filter(inside));
        }
        self.ways += 1;
        self.kept_out = None;
        for prefix in concerned {
            self.place_learned(prefix);
        }
    }

    fn learned_target(&self, prefix: &IpNet) -> Option<Target> {
        let gateways = self.learned.get(prefix)?;
        let wanted = self.local.install_learned && !self.subnets.contains(prefix);
        wanted.then(|| Target::Gateways(resolve(gateways, &self.routers)))
    }

    /// Interfaces have other subnets now, as far as the last reading of the kernel knows.
    fn follow_subnets(&mut self) {
        let new = self.table.subnets();
        if *new == self.subnets {
            return;
        }
        let old = std::mem::replace(&mut self.subnets, new.clone());
        let concerned: Vec<IpNet> = old.symmetric_difference(&self.subnets).copied().collect();
        for prefix in concerned {
            self.place_learned(prefix);
        }
    }

    /// Next hops are behind other routers now: what goes by way of them is written anew.
    fn set_routers(&mut self, routers: Arc<Routers>) {
        let before = std::mem::replace(&mut self.routers, routers);
        let moved =
            |gateway: &Gateway| before.get(&gateway.address) != self.routers.get(&gateway.address);
        let concerned = self.learned.iter();
        let concerned = concerned.filter(|(_, gateways)| gateways.iter().any(moved));
        let prefixes: Vec<IpNet> = concerned.map(|(prefix, _)| *prefix).collect();
        for prefix in prefixes {
            self.place_learned(prefix);
        }
    }

    /// A device that was made anew has the kernel's default. Returns what could not be changed, and why.
    async fn settle_checksums(&self) -> Vec<(String, String)> {
        let mut failed = Vec::new();
        let Some(by) = self.checksums else {
            return failed;
        };
        for device in [Kind::Vxlan, Kind::Ipip].map(Kind::device) {
            let is_left = by == TunnelChecksums::Nic;
            match routes::leave_checksums_to_device(device, is_left).await {
                Ok(false) => {}
                Ok(true) => info!(
                    device,
                    ?by,
                    "who computes the checksums of what is in the tunnel"
                ),
                Err(error) => failed.push((device.to_owned(), error.to_string())),
            }
        }
        failed
    }

    async fn look_again(&mut self, notice: &Notice) {
        self.ways += 1;
        self.overlays.look_again();
        match notice {
            Notice::Mtu => return,
            Notice::Routes => {}
            Notice::Links | Notice::Overrun => self.links += 1,
        }
        self.table.resync().await;
    }

    async fn write(&mut self, applied: &watch::Sender<Applied>) {
        // Before the first local state nothing is written: what is there keeps forwarding.
        if self.local.generation == 0 {
            return;
        }
        let learned = &self.learned;
        let has_other_way = |ranges: &BTreeSet<IpNet>| {
            let mut learned = learned.keys();
            learned.any(|prefix| ranges.iter().any(|range| range.contains(prefix)))
        };
        if let Some(old) = self.overlays.settle(has_other_way).await {
            self.follow_overlay(&old);
        }
        let checksums = self.settle_checksums().await;
        self.follow_subnets();
        let report = self.table.apply().await;
        for clash in report.clashes.iter().take(NAMED) {
            warn!(prefix = %clash.prefix, protocol = clash.protocol, "a route of someone else is in the way; it is left alone");
        }
        if report.clashes.len() > NAMED {
            warn!(
                count = report.clashes.len() - NAMED,
                "more routes of someone else are in the way"
            );
        }
        let status = self.table.status();
        let problems = self.table.problems().into_iter();
        let failed = problems.map(|(prefix, why)| (prefix.to_string(), why.to_string()));
        let failed = failed
            .chain(self.overlays.problems())
            .chain(checksums)
            .collect();
        let kept_out = self.kept_out.take().unwrap_or_else(|| {
            let own = &self.local.routes;
            let learned = self.learned.keys();
            let learned = learned.filter(|prefix| !own.contains_key(prefix));
            kept_out(learned, self.overlays.in_force())
        });
        self.kept_out = Some(kept_out.clone());
        let (is_held, overhead) = (self.overlays.is_held(), self.overlays.overhead());
        let wireguard = self.overlays.keys();
        if applied.borrow().overhead != overhead {
            self.ways += 1;
        }
        applied.send_modify(|state| {
            *state = Applied {
                generation: if is_held {
                    state.generation
                } else {
                    self.local.generation
                },
                desired: status.desired,
                in_kernel: status.in_kernel,
                failed,
                initial_sync: self.initial_sync,
                links: self.links,
                ways: self.ways,
                learned: self.learned.len(),
                clashes: status.clashes,
                kept_out,
                gateway_downs: self.gateway_downs,
                overhead,
                standing: self.overlays.standing(),
                wireguard,
            };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(last: u8, weight: u8) -> Gateway {
        Gateway {
            address: [10, 0, 0, last].into(),
            link: None,
            weight: NonZeroU8::new(weight).unwrap(),
        }
    }

    #[test]
    fn what_tunnels_own_of_what_bgp_learned_is_counted_by_their_ranges() {
        let nets = |all: &[&str]| -> BTreeSet<IpNet> {
            all.iter().map(|net| net.parse().unwrap()).collect()
        };
        let learned = nets(&[
            "10.47.0.0/26",
            "10.48.0.0/26",
            "10.48.1.0/26",
            "10.48.2.0/26",
            "fd48::/122",
        ]);
        let mut overlay = InForce::default();
        assert_eq!(kept_out(learned.iter(), &overlay), BTreeMap::new());
        overlay.ranges = nets(&["10.48.0.0/16", "fd48::/112", "10.49.0.0/16"]);
        overlay.left = nets(&["10.48.2.0/26"]);
        let counted: Vec<(String, usize)> = kept_out(learned.iter(), &overlay)
            .into_iter()
            .map(|(range, count)| (range.to_string(), count))
            .collect();
        assert_eq!(
            counted,
            [("10.48.0.0/16".to_owned(), 2), ("fd48::/112".to_owned(), 1)]
        );
    }

    #[test]
    fn a_next_hop_behind_a_router_becomes_that_router_and_a_neighbour_stays() {
        let router: IpAddr = [10, 0, 0, 1].into();
        let local: IpAddr = "fe80::1".parse().unwrap();
        let routers = Routers::from([
            ([10, 0, 0, 8].into(), (router, Some(3))),
            ([10, 0, 0, 9].into(), (router, Some(3))),
            ([10, 0, 0, 7].into(), (local, Some(4))),
        ]);
        let both = resolve(&[gateway(8, 2), gateway(2, 1), gateway(9, 3)], &routers);
        assert_eq!(both, [gateway(1, 5), gateway(2, 1)]);
        let on_link = resolve(&[gateway(7, 1)], &routers);
        assert_eq!((on_link[0].address, on_link[0].link), (local, Some(4)));
        let unnumbered = Gateway {
            link: Some(9),
            ..gateway(8, 1)
        };
        assert_eq!(resolve(&[unnumbered], &routers), [unnumbered]);
    }
}
