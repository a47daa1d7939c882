//! The cluster's side of the status writer: takes what is to be said and returns; a task for each thing says it.

use std::sync::Arc;

use api::crd::{BgpNodeStatusStatus, NodeWireGuard};
use ipnet::IpNet;
use tokio::sync::watch;
use tracing::warn;

use super::bgp_status::{self, Pace};
use super::blocks::{self, Release};
use super::calls::{Calls, Retry, up_to};
use super::duties::{self, Found, now, spread, until};
use super::events::{self, Ledger, Next};
use super::node::{NodeWrites, Teller};
use crate::blocks::Claim;
use crate::kubernetes::failure::Failure;
use crate::kubernetes::{Connection, Facts};
use crate::status::bounded_events;
use crate::{
    AllocatedAddresses, Error, EventRecord, NodeHealth, ObjectCondition, Refresher, Regarding,
};

/// Writes what one node has to say; cheap to clone. Its tasks end with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    told: Arc<Told>,
    calls: Calls,
    node: String,
    facts: Facts,
}

/// What is to be said, newest only: a slow server coalesces.
#[derive(Debug)]
struct Told {
    bgp: watch::Sender<Option<BgpNodeStatusStatus>>,
    events: watch::Sender<Vec<EventRecord>>,
    conditions: watch::Sender<Vec<ObjectCondition>>,
    addresses: watch::Sender<Arc<AllocatedAddresses>>,
    /// The how manieth health this is, and it.
    health: watch::Sender<(u64, Option<NodeHealth>)>,
    health_outcome: watch::Receiver<Outcome>,
}

/// Which health was last tried to be written, and what came of it.
type Outcome = (u64, Result<(), Failure>);

impl Writer {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(
        connection: Connection,
        (facts, refresher): (Facts, Refresher),
        node_writes: NodeWrites,
    ) -> Self {
        let calls = Calls::new(connection.client.clone());
        let node = connection.node.clone();
        let (bgp, bgp_reader) = watch::channel(None);
        let (events, event_reader) = watch::channel(Vec::new());
        let (conditions, condition_reader) = watch::channel(Vec::new());
        let (addresses, address_reader) = watch::channel(Arc::default());
        let (health, health_reader) = watch::channel((0, None));
        let (outcome, health_outcome) = watch::channel((0, Ok(())));
        tokio::spawn(write_bgp(
            calls.clone(),
            node.clone(),
            facts.clone(),
            bgp_reader,
        ));
        tokio::spawn(write_events(
            calls.clone(),
            node.clone(),
            facts.clone(),
            event_reader,
        ));
        let found = Found {
            conditions: condition_reader,
            addresses: address_reader,
        };
        tokio::spawn(duties::run(connection, facts.clone(), refresher, found));
        let teller = Teller::new(calls.clone(), &node, node_writes);
        tokio::spawn(teller.run(facts.clone(), health_reader, outcome));
        Self {
            told: Arc::new(Told {
                bgp,
                events,
                conditions,
                addresses,
                health,
                health_outcome,
            }),
            calls,
            node,
            facts,
        }
    }

    /// Returns at once; what cannot be written now is tried again.
    #[expect(clippy::unused_async, reason = "as the directory's")]
    pub(crate) async fn publish_bgp(&self, status: BgpNodeStatusStatus) -> Result<(), Error> {
        self.told.bgp.send_replace(Some(status));
        Ok(())
    }

    /// Returns at once; what cannot be written now is tried again.
    #[expect(clippy::unused_async, reason = "as the directory's")]
    pub(crate) async fn publish_events(&self, events: Vec<EventRecord>) -> Result<(), Error> {
        let events = bounded_events(&self.node, events);
        self.told.events.send_if_modified(|told| {
            let is_new = *told != events;
            *told = events;
            is_new
        });
        Ok(())
    }

    /// Returns at once; what cannot be written now is tried again.
    #[expect(clippy::unused_async, reason = "as the directory's")]
    pub(crate) async fn publish_conditions(
        &self,
        conditions: Vec<ObjectCondition>,
    ) -> Result<(), Error> {
        self.told.conditions.send_if_modified(|told| {
            let is_new = *told != conditions;
            *told = conditions;
            is_new
        });
        Ok(())
    }

    /// Returns at once; whoever has the Lease writes it.
    pub(crate) fn publish_addresses(&self, allocated: Arc<AllocatedAddresses>) {
        self.told.addresses.send_replace(allocated);
    }

    /// Returns when it has been written, or could not be at the first try: then it is tried again until it is, or
    /// something else is published. Who cannot wait gives up waiting, and it is written all the same.
    pub(crate) async fn publish_node(&self, health: NodeHealth) -> Result<(), Error> {
        let mut number = 0;
        self.told.health.send_if_modified(|(told, present)| {
            let is_new = present.as_ref() != Some(&health);
            if is_new {
                *told += 1;
                *present = Some(health);
            }
            number = *told;
            is_new
        });
        let mut outcome = self.told.health_outcome.clone();
        let failed = |why: String| Error::Cluster {
            what: format!("write NetworkUnavailable of Node {}", self.node),
            why,
        };
        match outcome.wait_for(|(of, _)| *of >= number).await {
            Ok(outcome) => outcome.1.clone().map_err(|why| failed(why.to_string())),
            Err(_) => Err(failed("the agent is stopping".to_owned())),
        }
    }

    /// Waits for the server's answer, a minute at most.
    pub(crate) async fn publish_keys(&self, keys: NodeWireGuard) -> Result<(), Error> {
        let failed = |why: String| Error::Cluster {
            what: format!("write the WireGuard keys into BGPNodeStatus {}", self.node),
            why,
        };
        let own = self.facts.own_node();
        let uid = own
            .borrow()
            .as_ref()
            .and_then(|node| node.metadata.uid.clone());
        let uid = uid.ok_or_else(|| failed("this node's Node is not known yet".to_owned()))?;
        let written = bgp_status::write_keys(&self.calls, &self.node, &uid, &keys).await;
        written.map_err(|failure| failed(failure.to_string()))
    }

    /// Waits for the server's answer, a minute at most.
    pub(crate) async fn claim_block(&self, cidr: IpNet) -> Result<Claim, Error> {
        let claimed = blocks::claim(&self.calls, &self.node, &cidr).await;
        claimed.map_err(|failure| Error::Cluster {
            what: format!("claim the block {cidr}"),
            why: failure.to_string(),
        })
    }

    /// Waits for the server's answer, a minute at most.
    pub(crate) async fn release_block(&self, cidr: IpNet) -> Result<(), Error> {
        match blocks::release(&self.calls, &self.node, &cidr).await {
            Ok(Release::Done) => Ok(()),
            Ok(Release::NotOurs(node)) => Err(Error::NotOurs { cidr, node }),
            Err(failure) => Err(Error::Cluster {
                what: format!("give back the block {cidr}"),
                why: failure.to_string(),
            }),
        }
    }
}

/// Writes the BGPNodeStatus until its sender is gone.
async fn write_bgp(
    calls: Calls,
    node: String,
    facts: Facts,
    mut told: watch::Receiver<Option<BgpNodeStatusStatus>>,
) {
    let (mut pace, mut retry) = (Pace::default(), Retry::default());
    let (mut due, mut not_before) = (None, now());
    let mut own = facts.own_node();
    let mut owner: Option<String> = None;
    loop {
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            // It goes with a Node that is deleted; one that is registered anew needs one again.
            _ = own.changed() => {
                let uid = own.borrow_and_update().as_ref().and_then(|node| node.metadata.uid.clone());
                if owner.is_some() && uid.is_some() && owner != uid {
                    pace.forget();
                }
            }
            () = until(due) => {
                let status = told.borrow().clone().unwrap_or_default();
                let uid = own.borrow().as_ref().and_then(|node| node.metadata.uid.clone());
                let written = match uid {
                    Some(uid) => bgp_status::write(&calls, &node, &uid, &mut owner, &status).await,
                    None => Err(Failure::Unanswered("this node's Node is not known yet".to_owned())),
                };
                match written {
                    Ok(()) => {
                        retry.succeeded();
                        pace.written(now(), status);
                    }
                    Err(failure) => {
                        warn!(%failure, "cannot write this node's BGPNodeStatus; trying again");
                        not_before = now() + retry.failed(&failure);
                    }
                }
            }
        }
        let status = told.borrow_and_update();
        due = status.as_ref().and_then(|status| pace.due(now(), status));
        due = due.map(|due| due.max(not_before));
    }
}

/// Writes the Events until their sender is gone.
async fn write_events(
    calls: Calls,
    node: String,
    facts: Facts,
    mut told: watch::Receiver<Vec<EventRecord>>,
) {
    let (mut ledger, mut retry) = (Ledger::default(), Retry::default());
    let (mut next, mut due, mut not_before) = (Next::Wait(None), None, now());
    loop {
        tokio::select! {
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                let uid_of = |object: &Regarding| Some(facts.get(&object.key()?)?.uid);
                ledger.take(&told.borrow_and_update(), uid_of);
                // Many nodes have the same to say of a policy: the first makes the Event, if they do not all speak at once.
                tokio::time::sleep(up_to(spread(facts.nodes().len()))).await;
            }
            () = until(due) => {
                if let Err(failure) = write_event(&calls, &node, &mut ledger, next).await {
                    warn!(%failure, "cannot write an Event; trying again");
                    not_before = now() + retry.failed(&failure);
                } else {
                    retry.succeeded();
                }
            }
        }
        next = ledger.next(now());
        due = match &next {
            Next::Wait(at) => at.map(|at| at.max(not_before)),
            Next::New(..) | Next::Again(..) => Some(not_before),
        };
    }
}

/// Writes one; fails only where it is to be tried again.
async fn write_event(
    calls: &Calls,
    node: &str,
    ledger: &mut Ledger,
    next: Next,
) -> Result<(), Failure> {
    let (warning, count, written) = match next {
        Next::Wait(_) => return Ok(()),
        Next::New(warning, count) => {
            let written = events::create(calls, node, &warning).await;
            (warning, count, written)
        }
        Next::Again(warning, count) => {
            let written = events::repeat(calls, &warning, count).await;
            if matches!(&written, Err(failure) if failure.is_not_found()) {
                ledger.lost(now(), &warning);
                return Ok(());
            }
            (warning, count, written)
        }
    };
    match written {
        // Its namespace is going, say, and nobody will miss it; or the server has just been started.
        Err(failure) if failure.is_final() => {
            warn!(%failure, "an Event is refused; trying again later");
            ledger.refused(now(), warning, count);
        }
        outcome => {
            outcome?;
            ledger.told(now(), warning, count);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
