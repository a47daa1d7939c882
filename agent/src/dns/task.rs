//! The task that takes held answers from the kernel and lets each go when its addresses are in force.

use std::sync::Arc;
use std::time::Duration;

use policy::DnsAnswer;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::counts::{Counts, Outcome};
use super::domains::Names;
use super::streams::{Connection, Streams, Turn};
use crate::firewall;
use crate::message::Message;
use crate::nfnetlink::{Held, Packet, Queue, Verdicts};

/// So many answers wait in the kernel at most; any more go on unheld.
const QUEUE_LENGTH: u32 = 1_024;
/// So many wait for the firewall.
const HELD: usize = 256;
/// For so long at most: a resolver's client asks again after some seconds.
const PATIENCE: Duration = Duration::from_secs(2);
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
        let mut streams = Streams::default();
        let mut overruns = 0;
        loop {
            let held = match queue.next().await {
                Ok(held) => held,
                Err(error) => return error,
            };
            self.counts.add_overruns(queue.overruns() - overruns);
            overruns = queue.overruns();
            if let Err(error) = self.take(held, &verdicts, &room, &mut streams) {
                return error;
            }
        }
    }

    fn take(
        &self,
        held: Held,
        verdicts: &Verdicts,
        room: &Arc<Semaphore>,
        streams: &mut Streams,
    ) -> std::io::Result<()> {
        let (answers, turn) = self.read(&held.octets, streams);
        if answers.is_empty() && turn.is_free() {
            return verdicts.accept(held.id);
        }
        let goals: Vec<_> = answers.into_iter().map(question).collect();
        let permit = match Arc::clone(room).try_acquire_owned() {
            _ if goals.is_empty() => None,
            Ok(permit) => Some(permit),
            Err(_) => {
                self.tell_unheld(goals);
                if turn.is_free() {
                    return verdicts.accept(held.id);
                }
                tokio::spawn(go_on(turn, verdicts.clone(), held.id));
                return Ok(());
            }
        };
        let (task, verdicts) = (self.clone(), verdicts.clone());
        tokio::spawn(async move {
            if permit.is_some() {
                let in_force = tokio::time::timeout(PATIENCE, task.in_force(goals));
                let in_time = in_force.await.unwrap_or(false);
                task.counts.add(if in_time {
                    Outcome::Held
                } else {
                    Outcome::Late
                });
            }
            go_on(turn, verdicts, held.id).await;
            drop(permit);
        });
        Ok(())
    }

    /// The answers in a held packet that are wanted, and when it may go on. They come from port 53.
    fn read(&self, octets: &[u8], streams: &mut Streams) -> (Vec<DnsAnswer>, Turn) {
        let packet = Packet::read(octets).filter(|packet| {
            let ports = packet.ports();
            ports.is_none_or(|(source, _)| source == DNS)
        });
        let Some(packet) = packet else {
            self.counts.add(Outcome::Malformed);
            return (Vec::new(), Turn::default());
        };
        if let (Some((_, port)), Some(segment)) = (packet.ports(), packet.segment()) {
            let connection = Connection {
                resolver: packet.source,
                pod: packet.destination,
                port,
            };
            let brought = streams.take(connection, &segment);
            if brought.unread {
                self.counts.add(Outcome::Unfollowed);
            }
            let messages = brought.messages.iter();
            let wanted = messages.filter_map(|message| self.wanted(message));
            return (wanted.collect(), streams.line_up(connection));
        }
        let message = packet.datagram().unwrap_or_default();
        (self.wanted(message).into_iter().collect(), Turn::default())
    }

    /// The answer in a message, if it is of use.
    fn wanted(&self, message: &[u8]) -> Option<DnsAnswer> {
        match DnsAnswer::read(message) {
            Ok(Some(answer)) if self.is_wanted(&answer) => {
                if answer.truncated {
                    // The pod asks again by TCP.
                    self.counts.add_truncated();
                }
                return Some(answer);
            }
            Ok(_) => self.counts.add(Outcome::Passed),
            Err(_) => self.counts.add(Outcome::Malformed),
        }
        None
    }

    /// There is no room to hold what these answers are in.
    fn tell_unheld(&self, goals: Vec<Goal>) {
        for (message, _) in goals {
            let taken = self.core.try_send(message).is_ok();
            self.counts.add(if taken {
                Outcome::Unheld
            } else {
                Outcome::Unread
            });
        }
    }

    fn is_wanted(&self, answer: &DnsAnswer) -> bool {
        match &*self.names.borrow() {
            // The policies are not known yet: the core keeps it for them.
            None => !answer.records.is_empty(),
            Some(names) => names.iter().any(|name| name.matches(&answer.question)),
        }
    }

    /// Waits until the kernel holds what the answers say.
    async fn in_force(&self, goals: Vec<Goal>) -> bool {
        let mut applied = self.applied.clone();
        for (message, generation) in goals {
            if self.core.send(message).await.is_err() {
                return false;
            }
            let Ok(goal) = generation.await else {
                return false;
            };
            let settled =
                |state: &firewall::Applied| state.generation >= goal || state.error.is_some();
            // Where the firewall fails, waiting would only make the DNS slow.
            if !applied
                .wait_for(settled)
                .await
                .is_ok_and(|state| state.generation >= goal)
            {
                return false;
            }
        }
        true
    }
}

/// What the core is told, and the generation that it answers with.
type Goal = (Message, oneshot::Receiver<u64>);

fn question(answer: DnsAnswer) -> Goal {
    let (reply, generation) = oneshot::channel();
    (Message::DnsAnswer { answer, reply }, generation)
}

/// Lets a packet go on when its turn has come.
async fn go_on(mut turn: Turn, verdicts: Verdicts, id: u32) {
    turn.wait().await;
    if let Err(error) = verdicts.accept(id) {
        debug!(%error, "a held answer cannot be let go; its queue has ended");
    }
}

#[cfg(test)]
mod tests;
