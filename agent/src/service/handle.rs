//! The tasks around Services, seen from the core: told what is to be, asked how it goes.

use std::sync::Arc;
use std::time::SystemTime;

use api::resources::Leaving;
use tokio::sync::watch;

use super::health::{self, HealthChecks, HealthReport};
use super::healthz::{self, HealthzAt};
use super::in_force::InForce;
use super::latency::{self, Programmed, Waiting};
use super::report::{RefusedPort, ServicesReport};
use super::soundness::Soundness;
use crate::conntrack::Cut;
use crate::firewall;

/// What follows from Services beside rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goal {
    /// Which state of the inputs it stands for.
    pub(crate) generation: u64,
    /// What load balancers ask this node.
    pub(crate) checks: Arc<HealthChecks>,
    /// Whether this node is about to go.
    pub(crate) leaving: Option<Leaving>,
    /// When changes happened that this state is the first to hold, by the clock of who saw them.
    pub(crate) changes: Vec<SystemTime>,
}

/// The tasks; without the feature there are none.
pub(crate) struct Handle {
    checks: watch::Sender<Arc<HealthChecks>>,
    leaving: watch::Sender<Option<Leaving>>,
    waiting: watch::Sender<Waiting>,
    /// What became of health checks.
    pub(crate) health: watch::Receiver<HealthReport>,
    healthz: watch::Receiver<Option<String>>,
    healthz_at: HealthzAt,
    programmed: watch::Receiver<Programmed>,
    /// Whether this node should be sent packets.
    pub(crate) soundness: Soundness,
}

impl Handle {
    /// Starts them.
    pub(crate) fn start(
        at: HealthzAt,
        desired: watch::Receiver<firewall::Desired>,
        in_force: &InForce,
    ) -> Self {
        let (checks, wanted) = watch::channel(Arc::default());
        let (leaving, is_leaving) = watch::channel(None);
        let (waiting, changes) = watch::channel(Waiting::default());
        let (health_report, health) = watch::channel(HealthReport::default());
        let (healthz_report, healthz) = watch::channel(None);
        let (programmed_report, programmed) = watch::channel(Programmed::default());
        let soundness = Soundness {
            desired,
            in_force: in_force.clone(),
            leaving: is_leaving,
        };
        tokio::spawn(health::run_task(wanted, health_report, soundness.clone()));
        if let HealthzAt::Address(at) = at {
            tokio::spawn(healthz::run_task(at, healthz_report, soundness.clone()));
        }
        tokio::spawn(latency::run_task(
            changes,
            in_force.clone(),
            programmed_report,
        ));
        Self {
            checks,
            leaving,
            waiting,
            health,
            healthz,
            healthz_at: at,
            programmed,
            soundness,
        }
    }

    /// Tells them what is to be.
    pub(crate) fn publish(&self, goal: Goal) {
        self.checks.send_if_modified(|old| {
            let is_new = **old != *goal.checks;
            *old = goal.checks;
            is_new
        });
        self.leaving.send_if_modified(|old| {
            let is_new = *old != goal.leaving;
            *old = goal.leaving;
            is_new
        });
        if !goal.changes.is_empty() {
            let observed = self.programmed.borrow().observed;
            self.waiting
                .send_modify(|waiting| waiting.add(goal.generation, &goal.changes, observed));
        }
    }

    /// What is wrong, in words for people.
    pub(crate) fn errors(&self) -> Vec<String> {
        let mut errors: Vec<String> = self.health.borrow().refused.values().cloned().collect();
        errors.extend(self.healthz.borrow().clone());
        errors
    }

    fn ports_refused(&self) -> Vec<RefusedPort> {
        let checks = self.checks.borrow();
        let health = self.health.borrow();
        let of_services = health.refused.iter().filter_map(|(service, why)| {
            let port = checks.get(service)?.port;
            let why = why.clone();
            Some(RefusedPort { port, why })
        });
        let why = self.healthz.borrow().clone();
        let of_node = match (self.healthz_at, why) {
            (HealthzAt::Address(at), Some(why)) => Some(RefusedPort {
                port: at.port(),
                why,
            }),
            (HealthzAt::Address(_) | HealthzAt::Off, _) => None,
        };
        of_services.chain(of_node).collect()
    }

    /// Fills in what the tasks did.
    pub(crate) fn report(&self, counts: ServicesReport, cut: &Cut) -> ServicesReport {
        let health = self.health.borrow();
        let [answered_healthy, answered_unhealthy] = health.answered.counts();
        ServicesReport {
            flows_stale: cut.unanswered,
            health_ports: health.ports,
            health_ports_refused: health.refused.len(),
            answered_healthy,
            answered_unhealthy,
            programming: self.programmed.borrow().latency.clone(),
            ports_refused: self.ports_refused(),
            ..counts
        }
    }
}
