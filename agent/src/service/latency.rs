//! How long a change of endpoints takes from the moment it happened until it is in this node's kernel (semantics 173).

use std::time::SystemTime;

use tokio::sync::watch;

use super::in_force::InForce;
use crate::firewall::Histogram;

/// So many changes wait at most; of more, the oldest tell enough.
const MOST: usize = 10_000;

/// Changes that may not be in the kernel yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    /// With the first generation that holds each.
    changes: Vec<(u64, SystemTime)>,
}

impl Waiting {
    /// Takes those that a generation is the first to hold; forgets those up to the one that was observed.
    pub(super) fn add(&mut self, generation: u64, changes: &[SystemTime], observed: u64) {
        self.changes.retain(|(of, _)| *of > observed);
        let room = MOST.saturating_sub(self.changes.len());
        let new = changes.iter().take(room).map(|at| (generation, *at));
        self.changes.extend(new);
    }
}

/// What the task reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programmed {
    /// Up to which generation changes were observed.
    pub(super) observed: u64,
    pub(super) latency: Histogram,
}

impl Programmed {
    /// A generation is in the kernel. What a clock that goes ahead of ours says happened later is not counted.
    fn observe(&mut self, generation: u64, waiting: &Waiting, now: SystemTime) {
        for (of, at) in &waiting.changes {
            if *of > self.observed
                && *of <= generation
                && let Ok(time) = now.duration_since(*at)
            {
                self.latency.observe(time);
            }
        }
        self.observed = self.observed.max(generation);
    }
}

/// Observes until the senders are gone.
pub(super) async fn run_task(
    mut waiting: watch::Receiver<Waiting>,
    mut in_force: InForce,
    report: watch::Sender<Programmed>,
) {
    loop {
        let (_, served) = in_force.look();
        if let Some(generation) = served
            && generation > report.borrow().observed
        {
            let waiting = waiting.borrow_and_update().clone();
            report.send_modify(|state| state.observe(generation, &waiting, SystemTime::now()));
        }
        tokio::select! {
            changed = in_force.changed() => if changed.is_err() { return },
            changed = waiting.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn rule_173_a_change_counts_once_when_its_generation_is_in_the_kernel_and_never_from_the_future()
     {
        let (mut waiting, mut programmed) = (Waiting::default(), Programmed::default());
        waiting.add(1, &[at(100), at(101)], 0);
        waiting.add(3, &[at(110)], 0);
        programmed.observe(2, &waiting, at(103));
        assert_eq!(programmed.latency.count(), 2);
        programmed.observe(2, &waiting, at(104));
        assert_eq!(programmed.latency.count(), 2, "once");
        programmed.observe(3, &waiting, at(109));
        assert_eq!(programmed.latency.count(), 2, "its clock goes ahead");
        waiting.add(4, &[at(120)], programmed.observed);
        assert_eq!(waiting.changes, [(4, at(120))]);
        waiting.add(5, &vec![at(121); 2 * MOST], 0);
        assert_eq!(waiting.changes.len(), MOST);
    }
}
