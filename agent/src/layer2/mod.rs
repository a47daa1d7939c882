//! Answers ARP and neighbour discovery for addresses of Services: which node does is decided by `services::layer2`, here it is
//! carried out. Only this speaks by packet sockets, but for `trace`.

mod links;
mod probe;
mod report;
mod responder;
mod socket;
mod task;
mod watching;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datastore::AddressLeases;
use services::layer2::Wanted;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use probe::{Heard, ask};
pub(crate) use report::{Answering, Layer2Report};

use crate::service::InForce;

/// How long the agent's end waits for addresses to be handed over.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goal {
    /// The first generation that says so.
    pub(crate) since: u64,
    /// The addresses that are to be answered for, and by whom.
    pub(crate) wanted: Arc<BTreeMap<IpAddr, Wanted>>,
    /// The InternalIPs of the nodes that may, and of this one.
    pub(crate) nodes: BTreeMap<String, Vec<IpAddr>>,
}

impl Goal {
    fn says_the_same(&self, other: &Self) -> bool {
        self.wanted == other.wanted && self.nodes == other.nodes
    }

    /// What may be done of it before the kernel has its Services: nothing comes to `node` that did not before.
    fn held_back(&self, before: &Self, node: &str) -> Self {
        let has = |wanted: &Wanted| wanted.order.iter().any(|one| one == node);
        let of = |(address, wanted): (&IpAddr, &Wanted)| {
            let mut wanted = wanted.clone();
            if !before.wanted.get(address).is_some_and(has) {
                let others = wanted.order.iter().filter(|one| *one != node);
                wanted.order = others.cloned().collect();
            }
            (*address, wanted)
        };
        Self {
            since: self.since,
            wanted: Arc::new(self.wanted.iter().map(of).collect()),
            nodes: self.nodes.clone(),
        }
    }
}

/// What the task needs of others.
pub(crate) struct Parts {
    /// This node.
    pub(crate) node: String,
    /// Where nodes agree; in a directory nowhere.
    pub(crate) leases: Option<AddressLeases>,
    /// The speaker, once there is one.
    pub(crate) speaker: watch::Receiver<Option<bgp_speaker::Handle>>,
    /// What the kernel holds: before Services are in it, nobody is to send their packets here.
    pub(crate) in_force: InForce,
}

/// The task, seen from the core.
pub(crate) struct Handle {
    goal: watch::Sender<Goal>,
    stop: mpsc::Sender<oneshot::Sender<()>>,
    report: watch::Receiver<Layer2Report>,
}

impl Handle {
    /// Starts it.
    pub(crate) fn start(parts: Parts) -> Self {
        let (goal, goals) = watch::channel(Goal::default());
        let (stop, stops) = mpsc::channel(1);
        let (report, reports) = watch::channel(Layer2Report::default());
        tokio::spawn(task::run(parts, goals, stops, report));
        Self {
            goal,
            stop,
            report: reports,
        }
    }

    /// Tells it what is to be.
    pub(crate) fn publish(&self, goal: Goal) {
        self.goal.send_if_modified(|old| {
            let is_new = !old.says_the_same(&goal);
            if is_new {
                *old = goal;
            }
            is_new
        });
    }

    /// Gives up what this node holds, so that others take it now; returns when that is done, or has taken too long.
    pub(crate) async fn stop(&self) {
        let (done, is_done) = oneshot::channel();
        if self.stop.send(done).await.is_ok() {
            // What is not given up by then runs out.
            let _ = tokio::time::timeout(FAREWELL, is_done).await;
        }
    }

    /// Where this node stands with each address.
    pub(crate) fn report(&self) -> Layer2Report {
        self.report.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(addresses: &[(&str, &[&str])]) -> Goal {
        let of = |(address, order): &(&str, &[&str])| {
            let wanted = Wanted {
                order: order.iter().map(|node| (*node).to_owned()).collect(),
                pool: "front".to_owned(),
                interfaces: Default::default(),
            };
            (address.parse().unwrap(), wanted)
        };
        Goal {
            wanted: Arc::new(addresses.iter().map(of).collect()),
            ..Goal::default()
        }
    }

    #[test]
    fn before_the_kernel_has_its_services_a_node_gives_up_addresses_and_takes_none() {
        let before = goal(&[
            ("192.0.2.1", &["n1", "n2"]),
            ("192.0.2.2", &["n1"]),
            ("192.0.2.3", &["n2"]),
        ]);
        let after = goal(&[
            ("192.0.2.1", &["n1"]),
            ("192.0.2.3", &["n1", "n2"]),
            ("192.0.2.4", &["n2", "n1"]),
        ]);
        let held = goal(&[
            ("192.0.2.1", &["n1"]),
            ("192.0.2.3", &["n2"]),
            ("192.0.2.4", &["n2"]),
        ]);
        assert!(after.held_back(&before, "n1").says_the_same(&held));
        assert!(after.held_back(&after, "n1").says_the_same(&after));
    }
}
