//! Virtual services of IPVS and the addresses that go with them: brought to what is to be, and what is in use let end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use netfilter::Protocol;
use routes::ipvs::{
    Destination, VirtualChange, VirtualService, VirtualServiceKey, change_virtual_services,
    virtual_services,
};
use services::proxy::ipvs::{
    Actual, ActualDestination, ActualVirtual, Desired, Door, Draining, Plan, Settings, Step,
};
use tracing::{info, warn};

/// Where the kernel lists virtual services, if it has the driver loaded.
const LIST: &str = "/proc/net/ip_vs";
/// After so long it is looked whether connections have ended.
const WHILE_DRAINING: Duration = Duration::from_secs(5);
/// After so long it is looked whether another has changed something.
const AT_REST: Duration = Duration::from_secs(30);

/// What this task knows of IPVS.
#[derive(Debug)]
pub(super) struct Virtuals {
    draining: Draining,
    start: Instant,
    /// What is there, unless that is to be read.
    known: Option<Actual>,
    is_ready: bool,
    next_look: Option<Duration>,
}

impl Default for Virtuals {
    fn default() -> Self {
        Self {
            draining: Draining::default(),
            start: Instant::now(),
            known: None,
            is_ready: false,
            next_look: None,
        }
    }
}

impl Virtuals {
    /// Brings what is to be; true if something was written.
    pub(super) async fn bring(&mut self, desired: &Desired) -> Result<bool, String> {
        if self.draining.is_any() {
            // Which of them are in use is for the kernel to say.
            self.known = None;
        }
        let plan = self.plan(desired).await?;
        self.next_look = Some(match plan.draining {
            0 => AT_REST,
            _ => WHILE_DRAINING,
        });
        let foreign: Vec<String> = plan
            .foreign
            .iter()
            .map(|door| key(door).to_string())
            .collect();
        let has_written = self.carry_out(plan).await?;
        match foreign.first() {
            None => Ok(has_written),
            Some(first) => Err(format!(
                "{} virtual services of others stand where Services are to be, such as {first}: delete them (`ipvsadm -L -n`) or choose another --proxy-mode",
                foreign.len()
            )),
        }
    }

    /// Takes away all of ours, what is in use once it is not; true if something was written.
    pub(super) async fn drain(&mut self) -> Result<bool, String> {
        self.next_look = None;
        // Asking IPVS would load it.
        if !Path::new(LIST).exists() && routes::packets_taken_for().await.map_err(text)?.is_empty()
        {
            return Ok(false);
        }
        let plan = self.plan(&Desired::default()).await?;
        if plan.draining > 0 {
            self.next_look = Some(WHILE_DRAINING);
            info!(left = plan.draining, "connections by IPVS are let end");
        }
        self.carry_out(plan).await
    }

    /// What is there is to be read.
    pub(super) fn doubt(&mut self) {
        self.known = None;
    }

    /// After which time to look again.
    pub(super) fn next_look(&self) -> Option<Duration> {
        self.next_look
    }

    async fn plan(&mut self, desired: &Desired) -> Result<Plan, String> {
        let actual = match self.known.take() {
            Some(actual) => actual,
            None => read().await?,
        };
        // Another's virtual services are not ours to tune.
        if !self.is_ready && !desired.virtuals.is_empty() {
            set_switches()?;
            self.is_ready = true;
        }
        let plan = self.draining.plan(&actual, desired, self.start.elapsed());
        self.known = Some(actual);
        Ok(plan)
    }

    async fn carry_out(&mut self, plan: Plan) -> Result<bool, String> {
        let Some(mut known) = self.known.take() else {
            return Ok(false);
        };
        if plan.steps.is_empty() {
            self.known = Some(known);
            return Ok(false);
        }
        let mut steps = plan.steps.as_slice();
        let mut failed = Vec::new();
        while let Some(first) = steps.first() {
            let is_address = is_address(first);
            let count = steps
                .iter()
                .take_while(|step| is_address_like(step, is_address))
                .count();
            let (part, rest) = steps.split_at(count);
            failed.extend(match is_address {
                true if failed.is_empty() => take(part, &mut known).await?,
                true => take(&led(part, &plan.steps).await?, &mut known).await?,
                false => {
                    let changes = part.iter().filter_map(change).collect();
                    change_virtual_services(changes).await.map_err(text)?
                }
            });
            steps = rest;
        }
        for step in &plan.steps {
            follow(&mut known, step);
        }
        let Some(first) = failed.first() else {
            self.known = Some(known);
            return Ok(true);
        };
        // What is there is anybody's guess.
        failed.iter().for_each(|failure| warn!(failure, "IPVS"));
        Err(first.clone())
    }
}

/// Those of the steps whose virtual services are there: at an address without them a program of the node would answer.
async fn led(part: &[Step], all: &[Step]) -> Result<Vec<Step>, String> {
    let there = read().await?;
    let lacks = |address: &IpAddr| {
        all.iter().any(|step| match step {
            Step::Make(door, _) => {
                door.address.ip() == *address && !there.virtuals.contains_key(door)
            }
            _ => false,
        })
    };
    let is_led = |step: &&Step| !matches!(step, Step::Take(address) if lacks(address));
    Ok(part.iter().filter(is_led).cloned().collect())
}

/// Takes all of ours out of the kernel, with the connections that go by it.
///
/// # Errors
/// When the kernel refuses.
pub(crate) async fn remove_all() -> Result<(), routes::Error> {
    routes::take_packets_for(BTreeSet::new()).await?;
    if is_loaded() {
        routes::ipvs::delete_virtual_services().await?;
    }
    Ok(())
}

/// Whether the driver is loaded: asking it for something loads it.
pub(crate) fn is_loaded() -> bool {
    Path::new(LIST).exists()
}

/// Whether somebody's virtual services are there: three lines of the list are its heading.
pub(crate) fn is_used() -> bool {
    std::fs::read_to_string(LIST).is_ok_and(|list| list.lines().count() > 3)
}

fn text(error: routes::Error) -> String {
    error.to_string()
}

fn is_address(step: &Step) -> bool {
    matches!(step, Step::Take(_) | Step::Leave(_))
}

fn is_address_like(step: &Step, wanted: bool) -> bool {
    is_address(step) == wanted
}

fn set_switches() -> Result<(), String> {
    for outcome in routes::ipvs_sysctls() {
        let (name, wanted) = (outcome.sysctl.name, outcome.sysctl.wanted);
        match outcome.changed {
            Ok(true) => info!(name, wanted, before = outcome.before, "set for IPVS"),
            Ok(false) => {}
            Err(error) => return Err(format!("{name} can't be set to {wanted}: {error}; set it")),
        }
    }
    Ok(())
}

async fn read() -> Result<Actual, String> {
    let mut actual = Actual {
        addresses: routes::packets_taken_for().await.map_err(text)?,
        ..Actual::default()
    };
    for (key, seen) in virtual_services().await.map_err(text)? {
        let Some(door) = door(&key) else { continue };
        if !seen.is_ours {
            actual.foreign.insert(door);
            continue;
        }
        let destinations = seen.destinations.iter().map(|(to, one)| {
            let found = ActualDestination {
                weight: one.destination.weight,
                connections: one.connections,
            };
            (*to, found)
        });
        let found = ActualVirtual {
            scheduler: seen.service.scheduler,
            persistence: seen.service.persistence,
            destinations: destinations.collect(),
        };
        actual.virtuals.insert(door, found);
    }
    Ok(actual)
}

async fn take(steps: &[Step], known: &mut Actual) -> Result<Vec<String>, String> {
    let mut wanted = known.addresses.clone();
    for step in steps {
        match step {
            Step::Take(address) => drop(wanted.insert(*address)),
            Step::Leave(address) => drop(wanted.remove(address)),
            _ => {}
        }
    }
    let report = routes::take_packets_for(wanted).await.map_err(text)?;
    Ok(report.failed)
}

/// What is there once a step is done.
fn follow(known: &mut Actual, step: &Step) {
    let of_settings = |settings: &Settings, destinations| ActualVirtual {
        scheduler: settings.scheduler.name().to_owned(),
        persistence: settings.persistence,
        destinations,
    };
    match step {
        Step::Make(door, settings) => {
            let made = of_settings(settings, BTreeMap::new());
            known.virtuals.insert(*door, made);
        }
        Step::Change(door, settings) => {
            if let Some(found) = known.virtuals.get_mut(door) {
                *found = of_settings(settings, std::mem::take(&mut found.destinations));
            }
        }
        Step::Add(door, to) | Step::Weigh(door, to, _) => {
            let weight = match step {
                Step::Weigh(_, _, weight) => *weight,
                _ => 1,
            };
            if let Some(found) = known.virtuals.get_mut(door) {
                let new = ActualDestination {
                    weight,
                    connections: 0,
                };
                // How many there are is asked of the kernel before it goes.
                found.destinations.entry(*to).or_insert(new).weight = weight;
            }
        }
        Step::Remove(door, to) => {
            if let Some(found) = known.virtuals.get_mut(door) {
                found.destinations.remove(to);
            }
        }
        Step::Delete(door) => drop(known.virtuals.remove(door)),
        Step::Take(address) => drop(known.addresses.insert(*address)),
        Step::Leave(address) => drop(known.addresses.remove(address)),
    }
}

/// What the kernel knows a virtual service by.
pub(crate) fn key(door: &Door) -> VirtualServiceKey {
    VirtualServiceKey {
        protocol: door.protocol.number(),
        address: door.address,
    }
}

/// `None` for a protocol that Services have not.
fn door(key: &VirtualServiceKey) -> Option<Door> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocol = all.into_iter().find(|one| one.number() == key.protocol)?;
    Some(Door {
        protocol,
        address: key.address,
    })
}

fn change(step: &Step) -> Option<VirtualChange> {
    let service = |settings: &Settings| VirtualService {
        scheduler: settings.scheduler.name().to_owned(),
        persistence: settings.persistence,
    };
    let weight = |weight| Destination { weight };
    Some(match step {
        Step::Make(door, settings) => VirtualChange::NewService(key(door), service(settings)),
        Step::Change(door, settings) => VirtualChange::SetService(key(door), service(settings)),
        Step::Add(door, to) => VirtualChange::NewDestination(key(door), *to, weight(1)),
        Step::Weigh(door, to, share) => {
            VirtualChange::SetDestination(key(door), *to, weight(*share))
        }
        Step::Remove(door, to) => VirtualChange::DeleteDestination(key(door), *to),
        Step::Delete(door) => VirtualChange::DeleteService(key(door)),
        Step::Take(_) | Step::Leave(_) => return None,
    })
}
