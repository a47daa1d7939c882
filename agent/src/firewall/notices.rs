//! Notices that somebody may have changed what is ours in the kernel.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often the kernel is looked at for damage.
const POLL: Duration = Duration::from_secs(1);

/// Where notices come from.
pub(crate) struct Notices {
    ticks: Interval,
}

impl Notices {
    pub(crate) fn new() -> Self {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks }
    }

    /// Waits for the next notice; a wait that is given up loses none.
    pub(crate) async fn next(&mut self) {
        self.ticks.tick().await;
    }
}
