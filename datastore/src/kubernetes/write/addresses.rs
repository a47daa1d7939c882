//! Addresses of load balancers, written into the statuses of Services by the one that has the Lease: never one address to two.
//!
//! A write of the server holds one object, so that nobody else has an address must be known before it is given. It is, because
//! whoever has the Lease is the only one that gives, and knows all that was given: what earlier holders wrote, for it has read
//! anew after the last of their requests had ended, and what it wrote itself, which counts as held until the watch shows what
//! became of it. Each write bears the version that was seen: one that comes late, or was worked out for a Service that has changed
//! since, is refused (docs/design/load-balancer.md).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::resources::ADDRESSES_ALLOCATED;
use api::{Key, NamespacedName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::calls::Calls;
use super::conditions;
use super::events::{self, Warning};
use super::lease::Lease;
use super::paced::Paced;
use super::text;
use crate::kubernetes::{Balanced, Facts, ObjectFacts, Rest};
use crate::{AddressVerdict, AllocatedAddresses, ObjectCondition};

/// The most Events a minute: the condition says all, too.
const MOST_EVENTS: usize = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// After so many writes it is looked anew: what is wanted may be something else by then.
const MOST_AT_ONCE: usize = 200;

/// What is to be written, and what was.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    wanted: Arc<AllocatedAddresses>,
    under_way: BTreeMap<NamespacedName, UnderWay>,
    /// Who has an address by a status, or may have it by a write of which no more is known; as of the last look, and of all
    /// writes since.
    holders: BTreeMap<IpAddr, BTreeSet<NamespacedName>>,
    paced: Paced<NamespacedName, Essence>,
    /// For which tenure all is known that was written before.
    ready_for: Option<u64>,
    not_before: Option<Instant>,
    events: VecDeque<Instant>,
}

/// A write of which the watch has not told yet.
#[derive(Debug)]
struct UnderWay {
    /// The version that it was for: while it is the Service's, nothing has come of the write yet.
    version: String,
    addresses: BTreeSet<IpAddr>,
    /// Nobody knows whether it was carried out, or will be. Another for the same version settles it.
    is_in_doubt: bool,
}

/// What makes a write another one.
type Essence = (Vec<IpAddr>, Option<(bool, &'static str, String)>);

/// Whether addresses may be given now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// All is known.
    Yes,
    /// Requests of whoever had the Lease before may be under way.
    Wait,
    /// All is to be read anew first.
    Unread,
}

impl Addresses {
    /// Takes what is wanted now.
    pub(crate) fn set(&mut self, wanted: Arc<AllocatedAddresses>) {
        self.wanted = wanted;
    }

    /// Who is to be written now, and when others may be.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        facts: &Facts,
    ) -> (Vec<NamespacedName>, Option<Instant>) {
        if self.wanted.is_empty() && self.under_way.is_empty() {
            return (Vec::new(), None);
        }
        let is_same = |name: &NamespacedName, version: &str| {
            let known = facts.get(&Key::Service(name.clone()));
            let rest = known.as_ref().map(|known| &known.rest);
            matches!(rest, Some(Rest::Balanced(known)) if known.version == *version)
        };
        self.under_way
            .retain(|name, write| is_same(name, &write.version));
        self.holders.clear();
        facts.look_at_balanced(|name, _, known| {
            for address in &known.addresses {
                self.holders
                    .entry(*address)
                    .or_default()
                    .insert(name.clone());
            }
        });
        for (name, write) in &self.under_way {
            for address in &write.addresses {
                self.holders
                    .entry(*address)
                    .or_default()
                    .insert(name.clone());
            }
        }
        let (mut found, mut next, mut seen) = (Vec::new(), None::<Instant>, BTreeSet::new());
        facts.look_at_balanced(|name, facts, known| {
            seen.insert(name.clone());
            let Some(write) = self.write_of(name, facts, known) else {
                return;
            };
            let wait = self.paced.wait(now, name, &write.essence());
            match wait.max(self.not_before.filter(|at| *at > now)) {
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None => found.push(name.clone()),
            }
        });
        self.paced.retain(|name| seen.contains(name));
        found.truncate(MOST_AT_ONCE);
        (found, next)
    }

    /// Whether the holder of the Lease knows all that it must.
    pub(crate) fn readiness(&mut self, now: Instant, lease: &Lease, facts: &Facts) -> Ready {
        if self.ready_for == Some(lease.tenure()) {
            return Ready::Yes;
        }
        let mut is_written = false;
        facts.look_at_balanced(|_, _, known| is_written |= known.condition.is_some());
        // Where nobody has given anything yet, nobody had the Lease to do so.
        let until = lease
            .quiet_from()
            .filter(|_| is_written || !lease.is_first());
        self.not_before = until.filter(|until| *until > now);
        match self.not_before {
            Some(_) => Ready::Wait,
            None => Ready::Unread,
        }
    }

    /// Notes that all has been read anew since this tenure began.
    pub(crate) fn set_ready(&mut self, tenure: u64) {
        self.ready_for = Some(tenure);
    }

    /// Writes one Service's status, if that is to be something else; the Lease must be this node's, and all be known.
    pub(crate) async fn write(
        &mut self,
        now: Instant,
        calls: &Calls,
        node: &str,
        facts: &Facts,
        name: &NamespacedName,
    ) {
        let key = Key::Service(name.clone());
        let Some(object) = facts.get(&key) else {
            return;
        };
        let Rest::Balanced(known) = &object.rest else {
            return;
        };
        let Some(write) = self.write_of(name, &object, known) else {
            return;
        };
        let (essence, addresses) = (write.essence(), write.addresses().to_vec());
        let warning = write.warning(known);
        let patch = write.patch(object.generation, known, Timestamp::now());
        self.paced.note(now, name, essence);
        let path = format!(
            "/api/v1/namespaces/{}/services/{}/status",
            name.namespace, name.name
        );
        let before = self.begin(name, &known.version, &addresses);
        if let Err(failure) = calls.strategic_merge_once(&path, &patch).await {
            debug!(service = %name, %failure, "addresses not written");
            if failure.is_final() {
                warn!(service = %name, %failure, "cannot write the addresses of a Service; trying again");
                self.take_back(name, before);
            }
            return;
        }
        if let Some(write) = self.under_way.get_mut(name) {
            write.is_in_doubt = false;
        }
        info!(service = %name, ?addresses, "wrote the addresses of a Service");
        if let Some((reason, message)) = warning.filter(|_| self.has_room_for_an_event(now)) {
            let warning = Warning::of(&key, &object.uid, reason, &message);
            if let Err(failure) = events::create(calls, node, &warning).await {
                warn!(service = %name, %failure, "cannot write an Event");
            }
        }
    }

    /// Notes a write before it is sent; what was noted before it.
    fn begin(
        &mut self,
        name: &NamespacedName,
        version: &str,
        addresses: &[IpAddr],
    ) -> Option<BTreeSet<IpAddr>> {
        for address in addresses {
            self.holders
                .entry(*address)
                .or_default()
                .insert(name.clone());
        }
        let before = self
            .under_way
            .get(name)
            .map(|write| write.addresses.clone());
        let mut all = before.clone().unwrap_or_default();
        all.extend(addresses);
        let write = UnderWay {
            version: version.to_owned(),
            addresses: all,
            is_in_doubt: true,
        };
        self.under_way.insert(name.clone(), write);
        before
    }

    /// Of a write that was refused for good nothing comes; of an earlier one something may.
    fn take_back(&mut self, name: &NamespacedName, before: Option<BTreeSet<IpAddr>>) {
        match (before, self.under_way.get_mut(name)) {
            (Some(before), Some(write)) => write.addresses = before,
            _ => drop(self.under_way.remove(name)),
        }
    }

    /// What is to be written of a Service as it is known; nothing if that is what it says, or cannot be yet.
    fn write_of(
        &self,
        name: &NamespacedName,
        facts: &ObjectFacts,
        known: &Balanced,
    ) -> Option<Write<'_>> {
        let verdict = self.verdict(name, known)?;
        let is_awaited = |write: &UnderWay| write.version == known.version && !write.is_in_doubt;
        if self.under_way.get(name).is_some_and(is_awaited) {
            return None;
        }
        let write = Write::new(verdict, facts.generation, known)?;
        let is_new = |address: &&IpAddr| !known.addresses.contains(address);
        let mut new = write.addresses().iter().filter(is_new);
        new.all(|address| self.may_have(name, address))
            .then_some(write)
    }

    /// What was worked out for just this state of a Service.
    fn verdict(&self, name: &NamespacedName, known: &Balanced) -> Option<&AddressVerdict> {
        let wanted = self.wanted.get(name)?;
        (known.print == Some(wanted.print)).then_some(&wanted.verdict)
    }

    /// Whether nobody else has an address, or those alone who are to share it.
    fn may_have(&self, name: &NamespacedName, address: &IpAddr) -> bool {
        let shares = |other: &NamespacedName| {
            let wanted = self.wanted.get(other).map(|wanted| &wanted.verdict);
            matches!(wanted, Some(AddressVerdict::Has { addresses, .. }) if addresses.contains(address))
        };
        let holders = self.holders.get(address).into_iter().flatten();
        holders.filter(|other| *other != name).all(shares)
    }

    /// Whether an Event more may be written in this minute; then it is counted.
    fn has_room_for_an_event(&mut self, now: Instant) -> bool {
        while self.events.front().is_some_and(|at| now >= *at + MINUTE) {
            self.events.pop_front();
        }
        let has_room = self.events.len() < MOST_EVENTS;
        self.events.extend(has_room.then_some(now));
        has_room
    }
}

/// A change of a Service's status.
struct Write<'a> {
    verdict: &'a AddressVerdict,
    /// Whether the addresses are others than now; if not, what else stands beside them stays.
    moves: bool,
}

impl<'a> Write<'a> {
    fn new(verdict: &'a AddressVerdict, generation: i64, known: &Balanced) -> Option<Self> {
        match verdict {
            AddressVerdict::Nothing => {
                let moves = !known.addresses.is_empty() || known.has_others;
                known.condition.as_ref().map(|_| Self { verdict, moves })
            }
            AddressVerdict::Has {
                addresses,
                is_whole,
                reason,
                message,
            } => {
                let moves = known.has_others || known.addresses != *addresses;
                let is_said = known.condition.as_ref().is_some_and(|said| {
                    let status = if *is_whole { "True" } else { "False" };
                    (said.status.as_str(), said.reason.as_str()) == (status, reason)
                        && said.message == text::shortened(message)
                        && said.observed_generation == observed(generation)
                });
                (moves || !is_said).then_some(Self { verdict, moves })
            }
        }
    }

    fn addresses(&self) -> &[IpAddr] {
        match self.verdict {
            AddressVerdict::Has { addresses, .. } => addresses,
            AddressVerdict::Nothing => &[],
        }
    }

    fn essence(&self) -> Essence {
        let said = match self.verdict {
            AddressVerdict::Has {
                is_whole,
                reason,
                message,
                ..
            } => Some((*is_whole, *reason, message.clone())),
            AddressVerdict::Nothing => None,
        };
        (self.addresses().to_vec(), said)
    }

    /// Why it has less than it should have, if it has not said so before.
    fn warning(&self, known: &Balanced) -> Option<(&'static str, String)> {
        let AddressVerdict::Has {
            is_whole: false,
            reason,
            message,
            ..
        } = self.verdict
        else {
            return None;
        };
        let said = known.condition.as_ref();
        let is_said = said
            .is_some_and(|said| said.reason == *reason && said.message == text::shortened(message));
        (!is_said).then(|| (*reason, message.clone()))
    }

    /// A strategic merge patch: other conditions are others'.
    fn patch(&self, generation: i64, known: &Balanced, clock: Timestamp) -> Value {
        let condition = self.condition(generation, known, clock);
        let mut status = json!({"conditions": [condition]});
        if self.moves {
            let addresses = self.addresses().iter();
            let points: Vec<Value> = addresses.map(|ip| json!({"ip": ip})).collect();
            let points = Some(points).filter(|points| !points.is_empty());
            let balancer = json!({"ingress": points});
            status = json!({"conditions": [condition], "loadBalancer": balancer});
        }
        json!({"metadata": {"resourceVersion": known.version}, "status": status})
    }

    fn condition(&self, generation: i64, known: &Balanced, clock: Timestamp) -> Value {
        let AddressVerdict::Has {
            is_whole,
            reason,
            message,
            ..
        } = self.verdict
        else {
            return json!({"$patch": "delete", "type": ADDRESSES_ALLOCATED});
        };
        let wanted = ObjectCondition {
            key: Key::Service(NamespacedName::new("", "")),
            type_: ADDRESSES_ALLOCATED.to_owned(),
            status: *is_whole,
            reason: (*reason).to_owned(),
            message: message.clone(),
        };
        let condition = conditions::condition(&wanted, known.condition.as_ref(), generation, clock);
        json!(Condition {
            observed_generation: observed(generation),
            ..condition
        })
    }
}

/// Servers that count no generations of Services leave it out.
fn observed(generation: i64) -> Option<i64> {
    (generation > 0).then_some(generation)
}

#[cfg(test)]
mod tests;
