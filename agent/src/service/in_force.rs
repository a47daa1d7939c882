//! Which state of the inputs the kernel holds: all rules of iptables, and what serves Services without them.

use tokio::sync::watch;

use crate::{firewall, service_proxy};

/// Both tasks that write it.
#[derive(Clone)]
pub(crate) struct InForce {
    pub(crate) firewall: watch::Receiver<firewall::Applied>,
    pub(crate) proxy: watch::Receiver<service_proxy::Applied>,
}

/// Why the tasks are gone: the agent is stopping.
pub(crate) type Stopping = watch::error::RecvError;

impl InForce {
    /// Waits until one of them reports something.
    ///
    /// # Errors
    /// If one is gone.
    pub(crate) async fn changed(&mut self) -> Result<(), Stopping> {
        tokio::select! {
            changed = self.firewall.changed() => changed,
            changed = self.proxy.changed() => changed,
        }
    }

    /// The generation whose policy is in the kernel, and the one whose Services are: none while they are another proxy's.
    /// What was reported so far is seen.
    pub(crate) fn look(&mut self) -> (u64, Option<u64>) {
        let firewall = self.firewall.borrow_and_update();
        let served = firewall
            .generation
            .min(self.proxy.borrow_and_update().generation);
        let is_ours = firewall.other_proxy.is_none();
        (firewall.generation, is_ours.then_some(served))
    }
}
