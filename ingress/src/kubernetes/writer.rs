//! Writes our addresses into the statuses of Ingresses, and Events of what cannot be served: one replica at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::NamespacedName;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::jiff::Timestamp;
use kube_client::api::{Patch, PatchParams, PostParams};
use kube_client::{Api, Client, Error};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::Settings;
use super::election::EVERY;
use super::events::{Reporter, event};
use super::lease::Holder;
use super::ledger::Ledger;
use super::publish::{Facts, Publish, due, status};
use super::seen::Note;
use crate::objects::Key;
use crate::problem::Problem;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(4);
/// How long changes are gathered before anything is written about them: a Service that comes a moment after its Ingress makes no
/// Event.
const SETTLE: Duration = Duration::from_millis(500);
/// How long after a write the watch may take to show it, before it is done once more.
const ECHO: Duration = Duration::from_secs(5);
/// How many writes are made between two looks at what has changed.
const PASS: usize = 50;
/// How long all may take that is done at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What came of a compilation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The Ingresses of which something is served: they get our addresses.
    pub served: BTreeSet<NamespacedName>,
    /// What is not served as it is written.
    pub problems: Vec<Problem>,
}

pub(super) struct Writer {
    client: Client,
    manager: String,
    reporter: Reporter,
    holder: Holder,
    publishes: bool,
    addresses: Vec<String>,
    ingresses: BTreeMap<NamespacedName, Facts>,
    classes: BTreeMap<String, String>,
    /// What was written lately, and when: the watch may not have shown it yet.
    written: BTreeMap<NamespacedName, (Vec<String>, Instant)>,
    ledger: Ledger,
    notes: mpsc::Receiver<Note>,
    verdicts: watch::Receiver<Option<Arc<Verdict>>>,
}

impl Writer {
    pub(super) fn new(
        client: Client,
        settings: &Settings,
        notes: mpsc::Receiver<Note>,
        verdicts: watch::Receiver<Option<Arc<Verdict>>>,
    ) -> Self {
        let addresses = match &settings.publish {
            Publish::Addresses(addresses) => addresses.clone(),
            Publish::Service(_) | Publish::Nothing => Vec::new(),
        };
        Self {
            holder: Holder::new(client.clone(), settings),
            client,
            manager: settings.lease.clone(),
            reporter: Reporter {
                controller: settings.controller.clone(),
                instance: settings.identity.clone(),
            },
            publishes: settings.publish != Publish::Nothing,
            addresses,
            ingresses: BTreeMap::new(),
            classes: BTreeMap::new(),
            written: BTreeMap::new(),
            ledger: Ledger::new(Instant::now()),
            notes,
            verdicts,
        }
    }

    /// Until it is stopped; then the Lease is given back.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut looks = interval(EVERY);
        let mut passes = interval(SETTLE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notes = Vec::new();
        loop {
            tokio::select! {
                biased;
                // One that is gone asks for the end, too.
                _ = stopped.changed() => break,
                _ = looks.tick() => self.holder.look().await,
                count = self.notes.recv_many(&mut notes, super::NOTES) => {
                    if count == 0 {
                        // The watches have ended, and with them all that could be written.
                        let _ = stopped.changed().await;
                        break;
                    }
                    notes.drain(..).for_each(|note| self.take(note));
                }
                _ = passes.tick() => self.pass().await,
            }
        }
        let _ = timeout(FAREWELL, self.holder.release()).await;
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Ingress(name, facts) => _ = self.ingresses.insert(name, facts),
            Note::NoIngress(name) => {
                self.ingresses.remove(&name);
                self.written.remove(&name);
            }
            Note::Class(name, uid) => _ = self.classes.insert(name, uid),
            Note::NoClass(name) => _ = self.classes.remove(&name),
            Note::Published(addresses) => self.addresses = addresses,
        }
    }

    /// Writes what is due, if it is this replica's turn and something has been compiled.
    async fn pass(&mut self) {
        let Some(verdict) = self.verdicts.borrow().clone() else {
            return;
        };
        // Told by whoever leads later, if it still is so then.
        self.ledger
            .handle_problems(&verdict.problems, Instant::now());
        if !self.holder.is_leader() {
            return;
        }
        self.write_statuses(&verdict).await;
        self.write_events().await;
    }

    async fn write_statuses(&mut self, verdict: &Verdict) {
        if !self.publishes {
            return;
        }
        let all = due(&self.ingresses, &verdict.served, &self.addresses);
        let now = Instant::now();
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < ECHO;
        self.written.retain(|_, (_, at)| is_fresh(*at));
        for (name, addresses) in all {
            let known = self.written.get(&name);
            if known.is_some_and(|(written, _)| *written == addresses) {
                continue;
            }
            if self.written.len() > PASS || !self.holder.is_leader() {
                break;
            }
            let body = Patch::Apply(status(&name, &addresses));
            let how = PatchParams::apply(&self.manager).force();
            let api: Api<Ingress> = Api::namespaced(self.client.clone(), &name.namespace);
            match timeout(REQUEST, api.patch_status(&name.name, &how, &body)).await {
                Ok(Ok(_)) => debug!("Ingress {name}: addresses {addresses:?}"),
                Ok(Err(Error::Api(answer))) if answer.is_not_found() => {}
                Ok(Err(error)) => warn!("the status of Ingress {name} is not written: {error}"),
                Err(_) => warn!("the status of Ingress {name}: no answer within {REQUEST:?}"),
            }
            // One that failed waits as long.
            self.written.insert(name, (addresses, Instant::now()));
        }
    }

    async fn write_events(&mut self) {
        for _ in 0..PASS {
            let now = Instant::now();
            let Some(problem) = self.ledger.poll(now) else {
                return;
            };
            if !self.holder.is_leader() {
                return;
            }
            if self.tell(&problem).await {
                self.ledger.handle_told(problem, now);
            } else {
                return;
            }
        }
    }

    /// Whether it need not be tried again.
    async fn tell(&self, problem: &Problem) -> bool {
        let uid = match &problem.object {
            Key::Ingress(name) => self.ingresses.get(name).map(|facts| facts.uid.as_str()),
            Key::IngressClass(name) => self.classes.get(name).map(String::as_str),
            _ => Some(""),
        };
        // It is gone, or comes with the next notes.
        let Some(uid) = uid else { return true };
        let event = event(problem, uid, &self.reporter, Timestamp::now());
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        match timeout(REQUEST, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => true,
            Ok(Err(Error::Api(answer))) if answer.is_already_exists() => true,
            Ok(Err(Error::Api(answer)))
                if (400..500).contains(&answer.code) && answer.code != 429 =>
            {
                // A namespace that ends takes none; nor does a server that refuses: another try is refused, too.
                warn!("an Event of {} is refused: {answer}", problem.object);
                true
            }
            Ok(Err(error)) => {
                debug!("an Event of {} is not written: {error}", problem.object);
                false
            }
            Err(_) => false,
        }
    }
}
