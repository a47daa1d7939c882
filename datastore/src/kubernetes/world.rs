//! All kinds together: what is in force, what is to be told of it, and what is wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use api::crd::Encapsulation;
use api::resources::{IpPool, IpamBlock};
use api::{Change, Key, LabelPool, Resource};
use tokio::sync::watch;

use super::decode::Object;
use super::facts::Facts;
use super::kind::{Absence, Kind};
use super::told::Told;
use crate::{Problem, accepted};

/// The most lines of problems that are kept; one more says how many are left out.
const MOST_PROBLEMS: usize = 200;

/// Which objects are wanted of a kind that is not always read whole; none as long as what says so has not been read: of
/// Secrets, BGPPeers; of BGPNodeStatuses, IPPools.
pub(super) type Wanted = Option<Arc<Names>>;

/// Objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// All there are.
    Every,
    /// Those of these names.
    These(BTreeSet<String>),
}

impl Names {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::These(names) if names.is_empty())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Every => true,
            Self::These(names) => names.contains(name),
        }
    }

    /// Whether all that is wanted now was wanted before.
    pub(super) fn is_within(&self, before: &Self) -> bool {
        match (self, before) {
            (_, Self::Every) => true,
            (Self::Every, Self::These(_)) => false,
            (Self::These(names), Self::These(before)) => names.is_subset(before),
        }
    }
}

/// Where it is said what is wanted.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Of Secrets: those that BGPPeers mean.
    pub(super) secrets: watch::Sender<Wanted>,
    /// Of BGPNodeStatuses: all, while a pool has WireGuard.
    pub(super) node_statuses: watch::Sender<Wanted>,
}

/// What is known of the cluster.
pub(super) struct World {
    kinds: BTreeMap<Kind, Objects>,
    /// Blocks that count, as they were told.
    blocks: BTreeMap<String, IpamBlock>,
    refused_blocks: BTreeMap<Key, String>,
    blocks_are_stale: bool,
    changes: Vec<Change>,
    /// What is wrong with single objects.
    invalid: BTreeMap<Key, String>,
    problems_are_stale: bool,
    facts: Facts,
    wants: Wants,
    hasher: RandomState,
    /// Those of pods that were told.
    labels: LabelPool,
}

/// The objects of one kind.
#[derive(Default)]
struct Objects {
    known: HashMap<Box<str>, Known>,
    /// The list that was read, or is.
    list: u32,
    is_listed: bool,
    is_absent: bool,
    trouble: Option<String>,
}

struct Known {
    /// The list that it was last seen in.
    list: u32,
    told: Sent,
}

/// What was told of an object.
enum Sent {
    /// Nothing: it was never valid.
    Nothing,
    /// So much that a change of it is seen. Whole pods and nodes are with those who use them, and many.
    Print(u64),
    /// All of it.
    Whole(Box<Resource>),
}

impl World {
    /// `kinds`: those that are read.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>, facts: Facts, wants: Wants) -> Self {
        let kinds = kinds.into_iter().map(|kind| (kind, Objects::default()));
        Self {
            kinds: kinds.collect(),
            blocks: BTreeMap::new(),
            refused_blocks: BTreeMap::new(),
            blocks_are_stale: false,
            changes: Vec::new(),
            invalid: BTreeMap::new(),
            problems_are_stale: false,
            facts,
            wants,
            hasher: RandomState::new(),
            labels: LabelPool::default(),
        }
    }

    /// Takes in what was read.
    pub(super) fn take(&mut self, told: Told) {
        match told {
            Told::Began(kind) => {
                let objects = self.kinds.entry(kind).or_default();
                objects.list = objects.list.wrapping_add(1);
            }
            Told::Is(object) => self.is(*object),
            Told::Gone(kind, name) => self.gone(kind, &name),
            Told::Listed(kind) => {
                self.sweep(kind);
                self.update_kind(kind, |objects| objects.is_absent = false);
            }
            Told::Absent(kind) => {
                self.take(Told::Began(kind));
                self.sweep(kind);
                self.update_kind(kind, |objects| objects.is_absent = true);
            }
            Told::Trouble(kind, why) => self.update_kind(kind, |objects| objects.trouble = why),
            // The one who reads the queue answers it.
            Told::Barrier(_) => {}
        }
    }

    /// What has changed since the last call.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        if mem::take(&mut self.blocks_are_stale) {
            self.judge_blocks();
        }
        mem::take(&mut self.changes)
    }

    /// What the server says of objects beside their contents.
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether every kind has been read whole once.
    pub(super) fn is_in_sync(&self) -> bool {
        self.kinds.values().all(|objects| objects.is_listed)
    }

    /// What is wrong, if that may be something else since the last call.
    pub(super) fn problems(&mut self) -> Option<Vec<Problem>> {
        if !mem::take(&mut self.problems_are_stale) {
            return None;
        }
        let problem = |object: Option<String>, message: String| Problem {
            file: PathBuf::new(),
            line: None,
            object,
            message,
        };
        let mut problems = self.troubles();
        problems.extend(self.absences());
        let blocks = self.refused_blocks.iter();
        let blocks = blocks.map(|(key, why)| (key, format!("{key}: {why}")));
        let invalid = self.invalid.iter().map(|(key, why)| (key, why.clone()));
        let of_objects = blocks.chain(invalid);
        let left_out =
            (self.invalid.len() + self.refused_blocks.len()).saturating_sub(MOST_PROBLEMS);
        let mut problems: Vec<Problem> = problems
            .drain(..)
            .map(|message| problem(None, message))
            .chain(
                of_objects
                    .take(MOST_PROBLEMS)
                    .map(|(key, message)| problem(Some(key.to_string()), message)),
            )
            .collect();
        if left_out > 0 {
            problems.push(problem(None, format!("{left_out} more objects are wrong")));
        }
        problems.sort();
        Some(problems)
    }

    /// Kinds that cannot be read for the same reason share a line.
    fn troubles(&self) -> Vec<String> {
        let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (kind, objects) in &self.kinds {
            if let Some(why) = &objects.trouble {
                kinds.entry(why).or_default().push(kind.name());
            }
        }
        let line = |(why, names): (&str, Vec<&str>)| {
            let names = names.join(", ");
            format!("cannot read {names} from the API server, the last state stays: {why}")
        };
        kinds.into_iter().map(line).collect()
    }

    fn absences(&self) -> Option<String> {
        let is_missed = |kind: &Kind| kind.absence() == Absence::Told;
        let absent = self.kinds.iter().filter(|(_, objects)| objects.is_absent);
        let names = absent.map(|(kind, _)| *kind).filter(is_missed);
        let names: Vec<&str> = names.map(Kind::name).collect();
        (!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!("the cluster does not know {names}: install Portolan's CRDs (`portolan crds | kubectl apply -f -`)")
        })
    }

    fn update_kind(&mut self, kind: Kind, update: impl FnOnce(&mut Objects)) {
        update(self.kinds.entry(kind).or_default());
        self.problems_are_stale = true;
    }

    fn is(&mut self, object: Object) {
        let Object {
            kind,
            name,
            facts,
            resource,
        } = object;
        if !self.is_wanted(kind, &name) {
            return self.gone(kind, &name);
        }
        let key = kind.key(&name);
        if kind.is_noted() {
            self.facts.set(key.clone(), Some(facts));
        }
        let hasher = &self.hasher;
        let objects = self.kinds.entry(kind).or_default();
        let list = objects.list;
        let known = objects.known.entry(name).or_insert(Known {
            list,
            told: Sent::Nothing,
        });
        known.list = list;
        match resource {
            Ok(mut resource) => {
                if self.invalid.remove(&key).is_some() {
                    self.problems_are_stale = true;
                }
                if known.told.differs(&resource, hasher) {
                    known.told = Sent::new(&resource, hasher);
                    if let Resource::Pod(pod) = &mut resource {
                        self.labels.share(&mut pod.labels);
                    }
                    self.tell(kind, key, Some(resource));
                }
            }
            Err(error) => {
                let fate = match known.told {
                    Sent::Nothing => "it is ignored until it is right",
                    _ => "its last valid state stays in force",
                };
                let why = format!("{error}; {fate}");
                if self.invalid.get(&key) != Some(&why) {
                    self.invalid.insert(key, why);
                    self.problems_are_stale = true;
                }
            }
        }
    }

    fn gone(&mut self, kind: Kind, name: &str) {
        let objects = self.kinds.entry(kind).or_default();
        let Some(known) = objects.known.remove(name) else {
            return;
        };
        let key = kind.key(name);
        if kind.is_noted() {
            self.facts.set(key.clone(), None);
        }
        if self.invalid.remove(&key).is_some() {
            self.problems_are_stale = true;
        }
        if !matches!(known.told, Sent::Nothing) {
            self.tell(kind, key, None);
        }
    }

    /// A list is whole: what was not in it is gone.
    fn sweep(&mut self, kind: Kind) {
        let objects = self.kinds.entry(kind).or_default();
        objects.is_listed = true;
        let list = objects.list;
        let unseen = objects.known.iter().filter(|(_, known)| known.list != list);
        let mut unseen: Vec<Box<str>> = unseen.map(|(name, _)| name.clone()).collect();
        unseen.sort();
        for name in unseen {
            self.gone(kind, &name);
        }
        self.kinds.entry(kind).or_default().known.shrink_to(0);
        match kind {
            Kind::BgpPeer => self.want_secrets(),
            Kind::IpPool => self.want_node_statuses(),
            _ => {}
        }
    }

    fn tell(&mut self, kind: Kind, key: Key, value: Option<Resource>) {
        match kind {
            Kind::IpamBlock => return self.blocks_are_stale = true,
            Kind::IpPool => self.blocks_are_stale = true,
            _ => {}
        }
        self.changes.push(Change { key, value });
        match kind {
            Kind::BgpPeer => self.want_secrets(),
            Kind::IpPool => self.want_node_statuses(),
            _ => {}
        }
    }

    /// Says which Secrets are meant, and forgets those that are not any more.
    fn want_secrets(&mut self) {
        let Some(peers) = self
            .kinds
            .get(&Kind::BgpPeer)
            .filter(|peers| peers.is_listed)
        else {
            return;
        };
        let names: BTreeSet<String> = peers
            .whole()
            .filter_map(|resource| match resource {
                Resource::BgpPeer(peer) => Some(peer.password.as_ref()?.secret.clone()),
                _ => None,
            })
            .collect();
        want(&self.wants.secrets, Names::These(names));
        self.forget_unwanted(Kind::Secret);
    }

    /// Says whether the nodes' keys are of use to anybody.
    fn want_node_statuses(&mut self) {
        let pools = self.kinds.get(&Kind::IpPool);
        let Some(pools) = pools.filter(|pools| pools.is_listed) else {
            return;
        };
        let is_asked_for = pools.whole().any(|resource| {
            matches!(resource, Resource::IpPool(pool) if pool.encapsulation == Encapsulation::WireGuard)
        });
        let names = match is_asked_for {
            true => Names::Every,
            false => Names::These(BTreeSet::new()),
        };
        want(&self.wants.node_statuses, names);
        self.forget_unwanted(Kind::BgpNodeStatus);
    }

    fn forget_unwanted(&mut self, kind: Kind) {
        let objects = self.kinds.get(&kind);
        let known = objects.into_iter().flat_map(|objects| objects.known.keys());
        let mut unwanted: Vec<Box<str>> = known
            .filter(|name| !self.is_wanted(kind, name))
            .cloned()
            .collect();
        unwanted.sort();
        for name in unwanted {
            self.gone(kind, &name);
        }
    }

    fn is_wanted(&self, kind: Kind, name: &str) -> bool {
        let wanted = match kind {
            Kind::Secret => self.wants.secrets.borrow(),
            Kind::BgpNodeStatus => self.wants.node_statuses.borrow(),
            _ => return true,
        };
        let name = name.split_once('/').map_or(name, |(_, name)| name);
        wanted.as_ref().is_some_and(|wanted| wanted.contains(name))
    }

    /// Which blocks count hangs on all of them, and on the pools.
    fn judge_blocks(&mut self) {
        let whole = |kind| self.kinds.get(&kind).into_iter().flat_map(Objects::whole);
        let found = whole(Kind::IpamBlock).filter_map(|resource| match resource {
            Resource::IpamBlock(block) => Some(block),
            _ => None,
        });
        let pools = whole(Kind::IpPool).filter_map(|resource| match resource {
            Resource::IpPool(pool) => Some::<&IpPool>(pool),
            _ => None,
        });
        let judged = accepted::blocks(found, pools);
        let refused = judged.refused.iter();
        let refused = refused.map(|(block, why)| (Key::IpamBlock(block.name()), why.clone()));
        self.refused_blocks = refused.collect();
        self.problems_are_stale = true;
        let named = judged.accepted.iter();
        let accepted: BTreeMap<String, IpamBlock> = named
            .map(|block| (block.name(), IpamBlock::clone(block)))
            .collect();
        // What goes makes room for what comes.
        for name in self
            .blocks
            .keys()
            .filter(|name| !accepted.contains_key(*name))
        {
            let key = Key::IpamBlock(name.clone());
            self.changes.push(Change { key, value: None });
        }
        for (name, block) in &accepted {
            if self.blocks.get(name) != Some(block) {
                let key = Key::IpamBlock(name.clone());
                let value = Some(Resource::IpamBlock(block.clone()));
                self.changes.push(Change { key, value });
            }
        }
        self.blocks = accepted;
    }
}

fn want(wanted: &watch::Sender<Wanted>, names: Names) {
    wanted.send_if_modified(|wanted| {
        let is_new = wanted.as_deref() != Some(&names);
        if is_new {
            *wanted = Some(Arc::new(names));
        }
        is_new
    });
}

impl Objects {
    /// Those that are kept whole.
    fn whole(&self) -> impl Iterator<Item = &Resource> {
        self.known.values().filter_map(|known| match &known.told {
            Sent::Whole(resource) => Some(&**resource),
            _ => None,
        })
    }
}

impl Sent {
    fn new(resource: &Resource, hasher: &RandomState) -> Self {
        match print_of(resource, hasher) {
            Some(print) => Self::Print(print),
            None => Self::Whole(Box::new(resource.clone())),
        }
    }

    fn differs(&self, resource: &Resource, hasher: &RandomState) -> bool {
        match self {
            Self::Nothing => true,
            Self::Print(print) => print_of(resource, hasher) != Some(*print),
            Self::Whole(before) => **before != *resource,
        }
    }
}

/// Of kinds that there are many of. The hash's keys are this process's own: that two states of an object have the same
/// one is left to chance, 1 in 2⁶⁴.
fn print_of(resource: &Resource, hasher: &RandomState) -> Option<u64> {
    match resource {
        Resource::Pod(pod) => Some(hasher.hash_one(pod)),
        Resource::Node(node) => Some(hasher.hash_one(node)),
        Resource::Namespace(namespace) => Some(hasher.hash_one(namespace)),
        Resource::Service(service) => Some(hasher.hash_one(service)),
        Resource::EndpointSlice(slice) => Some(hasher.hash_one(slice)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
