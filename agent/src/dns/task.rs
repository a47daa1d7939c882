//! The task that takes held answers from the kernel and lets each go when its addresses are in force.

use std::sync::Arc;
use std::time::Duration;

use policy::DnsAnswer;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::counts::{Counts, Outcome};
use super::domains::Names;
use crate::firewall;
use crate::message::Message;
use crate::nfnetlink::{Held, Packet, Queue, Verdicts};

/// So many answers wait in the kernel at most; any more go on unheld.
const QUEUE_LENGTH: u32 = 1_024;
/// So many wait for the firewall.
const HELD: usize = 256;
/// For so long at most: a resolver's client asks again after some seconds.
const PATIENCE: Duration = Duration::from_millis(500);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
const DNS: u16 = 53;

/// What the task needs.
#[derive(Clone)]
pub(crate) struct Task {
    /// The NFQUEUE.
    pub(crate) queue: u16,
    /// Which names answers are held for.
    pub(crate) names: watch::Receiver<Names>,
    /// The core, which learns.
    pub(crate) core: mpsc::Sender<Message>,
    /// What the kernel holds.
    pub(crate) applied: watch::Receiver<firewall::Applied>,
    /// What is counted.
    pub(crate) counts: Arc<Counts>,
}

/// Runs while there is a core. Without the queue the kernel lets answers go on by itself (`--queue-bypass`).
pub(crate) async fn run_task(task: Task) {
    let mut retry = FIRST_RETRY;
    while !task.core.is_closed() {
        match Queue::open(task.queue, QUEUE_LENGTH).await {
            Ok(queue) => {
                retry = FIRST_RETRY;
                info!(
                    queue = task.queue,
                    "answers of the DNS are held for policies with domain names"
                );
                let error = task.serve(queue).await;
                warn!(%error, "the queue of DNS answers is lost; opening it again");
            }
            Err(error) => warn!(
                %error, queue = task.queue,
                "cannot hold DNS answers: domain names in policies stay without new addresses"
            ),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

impl Task {
    /// Serves until the queue is of no use any more.
    async fn serve(&self, mut queue: Queue) -> std::io::Error {
        let verdicts = queue.verdicts();
        let room = Arc::new(Semaphore::new(HELD));
        let mut overruns = 0;
        loop {
            let held = match queue.next().await {
                Ok(held) => held,
                Err(error) => return error,
            };
            self.counts.add_overruns(queue.overruns() - overruns);
            overruns = queue.overruns();
            if let Err(error) = self.take(held, &verdicts, &room) {
                return error;
            }
        }
    }

    fn take(&self, held: Held, verdicts: &Verdicts, room: &Arc<Semaphore>) -> std::io::Result<()> {
        let answer = match read(&held.octets) {
            Ok(Some(answer)) if self.is_wanted(&answer) => answer,
            Ok(_) => {
                self.counts.add(Outcome::Passed);
                return verdicts.accept(held.id);
            }
            Err(_) => {
                self.counts.add(Outcome::Malformed);
                return verdicts.accept(held.id);
            }
        };
        if answer.truncated {
            // The pod asks again by TCP, which is not seen: what is in here is all that can be learned.
            self.counts.add_truncated();
        }
        let (reply, generation) = oneshot::channel();
        let message = Message::DnsAnswer { answer, reply };
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
            let taken = self.core.try_send(message).is_ok();
            self.counts.add(if taken {
                Outcome::Unheld
            } else {
                Outcome::Unread
            });
            return verdicts.accept(held.id);
        };
        let (task, verdicts) = (self.clone(), verdicts.clone());
        tokio::spawn(async move {
            let in_force = tokio::time::timeout(PATIENCE, task.in_force(message, generation));
            let in_time = in_force.await.unwrap_or(false);
            task.counts.add(if in_time {
                Outcome::Held
            } else {
                Outcome::Late
            });
            if let Err(error) = verdicts.accept(held.id) {
                debug!(%error, "a held answer cannot be let go; its queue has ended");
            }
            drop(permit);
        });
        Ok(())
    }

    fn is_wanted(&self, answer: &DnsAnswer) -> bool {
        match &*self.names.borrow() {
            // The policies are not known yet: the core keeps it for them.
            None => !answer.records.is_empty(),
            Some(names) => names.iter().any(|name| name.matches(&answer.question)),
        }
    }

    /// Waits until the kernel holds what the answer says.
    async fn in_force(&self, message: Message, generation: oneshot::Receiver<u64>) -> bool {
        if self.core.send(message).await.is_err() {
            return false;
        }
        let Ok(goal) = generation.await else {
            return false;
        };
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|state| state.generation >= goal).await;
        reached.is_ok()
    }
}

/// Reads a held packet: an answer comes by UDP from port 53.
fn read(octets: &[u8]) -> Result<Option<DnsAnswer>, policy::MalformedAnswer> {
    let packet = Packet::read(octets).ok_or(policy::MalformedAnswer)?;
    match (packet.ports(), packet.datagram()) {
        (Some((DNS, _)), Some(message)) => DnsAnswer::read(message),
        (Some((DNS, _)), None) => Err(policy::MalformedAnswer),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
