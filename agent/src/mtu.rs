//! The MTU of pods: what the node's way out takes, followed by new pods and by those that run.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use api::resources::Node;
use bgp_speaker::Target;
use routes::Ways;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::{AgentArgs, Feature};
use crate::routing;
use crate::speaker::Compiled;

/// After a look at the way out there is none for this long: links and routes come in swarms.
const GAP: Duration = Duration::from_millis(250);
/// How often it is looked at although nothing was noticed, and pods that could not follow are tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Of so many other nodes the way is looked up: nearly always they share the first one's.
const OTHER_NODES: usize = 256;
const RANGE: std::ops::RangeInclusive<u32> = 68..=65_535;

/// Where the MTU comes from: the flag `--mtu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuChoice {
    /// The least on the way to other nodes, peers and the default route.
    #[default]
    Auto,
    /// Always this one, in bytes.
    Fixed(u32),
}

impl FromStr for MtuChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse() {
            Ok(mtu) if RANGE.contains(&mtu) => Ok(Self::Fixed(mtu)),
            _ => Err("it should be auto, or a number of bytes from 68 to 65535".to_owned()),
        }
    }
}

/// What pods get, and which of those that run could not follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodMtus {
    path: Option<u32>,
    kept: BTreeSet<String>,
}

impl PodMtus {
    /// What a new pod's link gets; `None` leaves it to the kernel, while nothing leads out of the node.
    pub(crate) fn of_new(&self, has_v6: bool) -> Option<u32> {
        self.path.map(|path| routes::pod_mtu(path, has_v6))
    }

    /// What a running pod's link should have; `None` if it kept what it had.
    pub(crate) fn of_running(&self, interface: &str, has_v6: bool) -> Option<u32> {
        self.of_new(has_v6)
            .filter(|_| !self.kept.contains(interface))
    }
}

/// What the node's way out must lead to.
pub(crate) fn ways<'a>(
    own: Option<&Node>,
    nodes: impl Iterator<Item = &'a Node>,
    speaker: Option<&Compiled>,
) -> Ways {
    let mut ways = Ways::default();
    if let Some(own) = own {
        ways.own.extend(own.internal_ips.iter().copied());
    }
    let others = nodes.filter(|node| own.is_none_or(|own| own.name != node.name));
    let addresses = others.flat_map(|node| node.internal_ips.iter().copied());
    ways.to.extend(addresses.take(OTHER_NODES));
    for peer in speaker
        .iter()
        .flat_map(|compiled| compiled.config.peers.values())
    {
        match &peer.target {
            Target::Address(address) => drop(ways.to.insert(address.ip())),
            Target::Interface { name, .. } => drop(ways.interfaces.insert(name.clone())),
            // Who dials in is on the way to nodes or everywhere.
            Target::Range { .. } => {}
        }
    }
    ways
}

/// The task, as others see it.
pub(crate) struct Handle {
    ways: watch::Sender<(Ways, u32)>,
    /// What pods get.
    pub(crate) pods: watch::Receiver<PodMtus>,
}

impl Handle {
    /// Starts it where pods are attached.
    pub(crate) fn start(args: &AgentArgs, applied: &watch::Receiver<routing::Applied>) -> Self {
        let (ways, known) = watch::channel(<(Ways, u32)>::default());
        let (report, pods) = watch::channel(PodMtus::default());
        if args.has(Feature::Cni) {
            let task = Task {
                choice: args.mtu,
                ways: known,
                applied: applied.clone(),
                report,
            };
            tokio::spawn(task.run());
        }
        Self { ways, pods }
    }

    /// Says what the way out must lead to, and what tunnels take of each packet in bytes.
    pub(crate) fn set_ways(&self, ways: Ways, overhead: u32) {
        let ways = (ways, overhead);
        self.ways.send_if_modified(|old| {
            let changed = *old != ways;
            *old = ways;
            changed
        });
    }
}

/// Keeps pods' MTU at what the way out takes.
struct Task {
    choice: MtuChoice,
    ways: watch::Receiver<(Ways, u32)>,
    applied: watch::Receiver<routing::Applied>,
    report: watch::Sender<PodMtus>,
}

impl Task {
    /// Runs until the core is gone.
    async fn run(mut self) {
        let mut again = tokio::time::interval(LOOK_AGAIN);
        let (mut noticed, mut followed) = (0, None);
        loop {
            tokio::select! {
                changed = self.ways.changed() => if changed.is_err() { return },
                changed = self.applied.changed() => {
                    let Ok(()) = changed else { return };
                    let now = self.applied.borrow_and_update().ways;
                    if std::mem::replace(&mut noticed, now) == now && followed.is_some() {
                        continue;
                    }
                }
                // Those that could not follow may do so by now.
                _ = again.tick() => followed = None,
            }
            let path = self.look().await;
            // Like everything else, running pods are left as they are until the sources are in sync.
            let in_sync = self.applied.borrow().generation > 0;
            if in_sync && path.is_some() && path != followed {
                self.follow(path).await;
                followed = path;
            }
            tokio::time::sleep(GAP).await;
        }
    }

    /// Finds what pods get from now on. While nothing leads out, what was known holds.
    async fn look(&mut self) -> Option<u32> {
        let (ways, asked) = self.ways.borrow_and_update().clone();
        // Routes by a tunnel that takes more may still be there.
        let overhead = asked.max(self.applied.borrow().overhead);
        let (path, by) = match self.choice {
            MtuChoice::Fixed(mtu) => (Some(mtu), "--mtu".to_owned()),
            MtuChoice::Auto => match routes::path_mtu(&ways).await {
                Ok(Some(path)) => (Some(path.mtu.saturating_sub(overhead)), path.interface),
                Ok(None) => (None, String::new()),
                Err(error) => {
                    warn!(%error, "cannot look at the way out of this node; pods keep their MTU");
                    (None, String::new())
                }
            },
        };
        let Some(mtu) = path else {
            return self.report.borrow().path;
        };
        let before = self.report.borrow().path;
        if before != Some(mtu) {
            info!(mtu, by, before, "the MTU of pods");
            self.report.send_modify(|state| state.path = Some(mtu));
        }
        Some(mtu)
    }

    async fn follow(&self, path: Option<u32>) {
        let Some(path) = path else { return };
        let outcomes = match routes::set_pod_mtus(path).await {
            Ok(outcomes) => outcomes,
            Err(error) => return warn!(%error, "running pods keep their MTU"),
        };
        let mut kept = BTreeSet::new();
        let known = self.report.borrow().kept.clone();
        for one in outcomes {
            let interface = one.host_interface;
            match one.outcome {
                Ok(mtu) => info!(interface, mtu, "a running pod has another MTU"),
                Err(error) => {
                    if !known.contains(&interface) {
                        warn!(interface, %error, "a running pod keeps its MTU; what is too big for the way out is answered so");
                    }
                    kept.insert(interface);
                }
            }
        }
        self.report.send_if_modified(|state| {
            let changed = state.kept != kept;
            state.kept = kept;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_takes_auto_and_what_a_link_can_have() {
        assert_eq!("auto".parse(), Ok(MtuChoice::Auto));
        assert_eq!("1400".parse(), Ok(MtuChoice::Fixed(1400)));
        for wrong in ["", "67", "65536", "-1", "big"] {
            assert!(wrong.parse::<MtuChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pod_with_ipv6_gets_no_less_than_ipv6_needs_and_one_that_could_not_follow_is_not_held_to_it()
     {
        let state = PodMtus {
            path: Some(1000),
            kept: BTreeSet::from(["ptl1".to_owned()]),
        };
        assert_eq!(state.of_new(false), Some(1000));
        assert_eq!(state.of_new(true), Some(1280));
        assert_eq!(state.of_running("ptl1", true), None);
        assert_eq!(state.of_running("ptl2", true), Some(1280));
        assert_eq!(PodMtus::default().of_new(true), None);
    }
}
