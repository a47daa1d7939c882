//! From all files in force to one state: each object once, each pod with the addresses its node gave it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use api::resources::{BgpNodeStatus, IpPool, IpamBlock, Node, Pod};
use api::{Change, Key, NamespacedName, Resource};
use ipnet::IpNet;

use crate::blocks::{self, BLOCKS_FOLDER, BlockContents};
use crate::directory::{FileRead, STATUS_FOLDER};
use crate::document::{self, Contents, Fault};
use crate::held::{Held, HeldFiles};
use crate::status::{PodStatus, StatusContents};
use crate::{Problem, accepted};

/// The permission bits that a file with a Secret must not have.
const FOR_OTHERS: u32 = 0o077;

/// Every object that is in force; one that did not change is the same allocation as before.
pub(crate) type State = BTreeMap<Key, Arc<Resource>>;

impl Held for Contents {
    fn read(file_name: &str, file: &FileRead) -> Self {
        match file.text_or_reason() {
            Ok(text) if file.mode & FOR_OTHERS == 0 => document::read(file_name, text),
            Ok(text) => document::read(file_name, text).without_secrets(file.mode),
            Err(reason) => {
                let fault = Fault {
                    line: None,
                    object: None,
                    message: reason.to_owned(),
                };
                Self {
                    objects: Vec::new(),
                    faults: vec![fault],
                }
            }
        }
    }

    fn is_broken(&self) -> bool {
        !self.faults.is_empty()
    }

    fn loses(&self, newer: &Self) -> bool {
        let kept: BTreeSet<&Key> = newer.objects.iter().map(|object| &object.key).collect();
        self.objects
            .iter()
            .any(|object| !kept.contains(&object.key))
    }

    fn with_complaints_of(self, broken: Self) -> Self {
        Self {
            objects: self.objects,
            faults: broken.faults,
        }
    }
}

/// Joins all files. The same files give the same state, in whatever order they came to be.
pub(crate) fn merge(
    directory: &Path,
    manifests: &HeldFiles<Contents>,
    statuses: &HeldFiles<StatusContents>,
    blocks: &HeldFiles<BlockContents>,
) -> (State, Vec<Problem>) {
    let mut merge = Merge {
        directory,
        state: State::new(),
        problems: Vec::new(),
    };
    merge.manifests(manifests);
    merge.forget_unnamed_secrets();
    merge.blocks(blocks);
    merge.statuses(statuses);
    merge.problems.sort();
    (merge.state, merge.problems)
}

/// What to tell someone who knows `old`: differences only, in the order of the keys.
pub(crate) fn difference(old: &State, new: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        // Side by side: on each round the lower key goes on, both if they are equal.
        let first = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some((key, _)), None) | (None, Some((key, _))) => *key,
            (Some((one, _)), Some((other, _))) => one.min(other),
        };
        let before = old
            .next_if(|(key, _)| *key == first)
            .map(|(_, value)| value);
        let after = new
            .next_if(|(key, _)| *key == first)
            .map(|(_, value)| value);
        let is_same = match (before, after) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after) || before == after,
            _ => false,
        };
        if !is_same {
            changes.push(Change {
                key: first.clone(),
                value: after.map(|value| Resource::clone(value)),
            });
        }
    }
}

struct Merge<'a> {
    directory: &'a Path,
    state: State,
    problems: Vec<Problem>,
}

impl Merge<'_> {
    fn manifests(&mut self, files: &HeldFiles<Contents>) {
        let mut first_places: BTreeMap<Key, String> = BTreeMap::new();
        for (name, contents) in files.iter() {
            self.complain(&self.directory.join(name), &contents.faults);
            for object in &contents.objects {
                if matches!(object.key, Key::IpamBlock(_)) {
                    let why = "nodes claim blocks by themselves, in .status/blocks: take it out of the manifests";
                    self.blame(&self.directory.join(name), &object.key, why);
                    continue;
                }
                match self.state.entry(object.key.clone()) {
                    Entry::Vacant(place) => {
                        place.insert(Arc::clone(&object.resource));
                        first_places.insert(object.key.clone(), format!("{name}:{}", object.line));
                    }
                    Entry::Occupied(_) => {
                        let first = first_places.get(&object.key).map_or("", String::as_str);
                        self.problems.push(Problem {
                            file: self.directory.join(name),
                            line: Some(object.line),
                            object: Some(object.key.to_string()),
                            message: format!("{}: is already in {first}, which counts", object.key),
                        });
                    }
                }
            }
        }
    }

    /// A Secret is kept only while a BGPPeer names it.
    fn forget_unnamed_secrets(&mut self) {
        let passwords = self
            .state
            .values()
            .filter_map(|resource| match &**resource {
                Resource::BgpPeer(peer) => peer.password.as_ref(),
                _ => None,
            });
        let named: BTreeSet<String> = passwords.map(|one| one.secret.clone()).collect();
        self.state.retain(|key, _| match key {
            Key::Secret(secret) => named.contains(&secret.name),
            _ => true,
        });
    }

    /// Blocks of pools: what lies in no pool, or overlaps another block, is nobody's.
    fn blocks(&mut self, files: &HeldFiles<BlockContents>) {
        let folder = self.directory.join(STATUS_FOLDER).join(BLOCKS_FOLDER);
        for (name, contents) in files.iter() {
            self.complain(&folder.join(name), &contents.faults);
        }
        let found = files.iter().filter_map(|(_, file)| file.block.as_ref());
        let judged = accepted::blocks(found, self.pools());
        let path = |block: &IpamBlock| folder.join(blocks::file_name_of(&block.cidr));
        for (block, why) in judged.refused {
            self.blame(&path(block), &Key::IpamBlock(block.name()), &why);
        }
        for block in judged.accepted {
            let (key, node) = (Key::IpamBlock(block.name()), &block.node);
            if !self.state.contains_key(&Key::Node(node.clone())) {
                let why = format!(
                    "is held by node {node}, which has no manifest: remove the file if the node is gone for good"
                );
                self.blame(&path(block), &key, &why);
            }
            self.state
                .insert(key, Arc::new(Resource::IpamBlock(block.clone())));
        }
    }

    fn pools(&self) -> impl Iterator<Item = &IpPool> {
        self.state
            .values()
            .filter_map(|resource| match &**resource {
                Resource::IpPool(pool) => Some(pool),
                _ => None,
            })
    }

    /// Where addresses of pods may be.
    fn ranges(&self) -> Ranges {
        let cidrs = self
            .state
            .values()
            .filter_map(|resource| match &**resource {
                Resource::Node(node) => Some(node.pod_cidrs.clone()),
                _ => None,
            });
        Ranges {
            pools: self.pools().map(|pool| pool.cidr).collect(),
            pod_cidrs: cidrs.flatten().collect(),
        }
    }

    fn blame(&mut self, file: &Path, key: &Key, why: &str) {
        self.problems.push(Problem {
            file: file.to_owned(),
            line: None,
            object: Some(key.to_string()),
            message: format!("{key}: {why}"),
        });
    }

    fn statuses(&mut self, files: &HeldFiles<StatusContents>) {
        let ranges = self.ranges();
        for (name, contents) in files.iter() {
            let path = self.directory.join(STATUS_FOLDER).join(name);
            self.complain(&path, &contents.faults);
            // A node without a manifest says nothing that counts.
            let node = name
                .strip_suffix(".json")
                .map(|node| Key::Node(node.to_owned()));
            let Some(found) = node.and_then(|key| self.state.get(&key)).cloned() else {
                continue;
            };
            let Resource::Node(node) = &*found else {
                continue;
            };
            if let Some(keys) = contents.keys {
                let key = Key::BgpNodeStatus(node.name.clone());
                let status = BgpNodeStatus {
                    node: node.name.clone(),
                    wire_guard: keys,
                };
                let status = Arc::new(Resource::BgpNodeStatus(status));
                self.state.insert(key, status);
            }
            let mut taken = BTreeSet::new();
            for entry in &contents.pods {
                self.pod_status(&path, (node, &ranges), entry, &mut taken);
            }
        }
    }

    fn pod_status(
        &mut self,
        path: &Path,
        (node, ranges): (&Node, &Ranges),
        entry: &PodStatus,
        taken: &mut BTreeSet<IpAddr>,
    ) {
        let key = Key::Pod(NamespacedName::new(&entry.namespace, &entry.name));
        let Some(place) = self.state.get_mut(&key) else {
            return;
        };
        let Resource::Pod(pod) = &**place else {
            return;
        };
        if !is_of(pod, node, entry) {
            return;
        }
        let mut accepted = Vec::new();
        for address in &entry.pod_ips {
            let why = if !ranges.allow(node, pod, address) {
                format!(
                    "is outside the Pod CIDRs of node {} and of all IPPools",
                    node.name
                )
            } else if !taken.insert(*address) {
                "is another pod's".to_owned()
            } else {
                accepted.push(*address);
                continue;
            };
            self.problems.push(Problem {
                file: path.to_owned(),
                line: None,
                object: Some(key.to_string()),
                message: format!("{key}: address {address} {why}"),
            });
        }
        if let Resource::Pod(pod) = Arc::make_mut(place) {
            pod.pod_ips = accepted;
        }
    }

    fn complain(&mut self, file: &Path, faults: &[Fault]) {
        self.problems.extend(faults.iter().map(|fault| Problem {
            file: file.to_owned(),
            line: fault.line,
            object: fault.object.clone(),
            message: fault.message.clone(),
        }));
    }
}

/// Where addresses of pods may be.
struct Ranges {
    pools: Vec<IpNet>,
    /// Of all nodes.
    pod_cidrs: Vec<IpNet>,
}

impl Ranges {
    /// Of another node's Pod CIDR a pod has what its manifest asks for and nothing else.
    fn allow(&self, node: &Node, pod: &Pod, address: &IpAddr) -> bool {
        let holds = |cidrs: &[IpNet]| cidrs.iter().any(|cidr| cidr.contains(address));
        let is_asked_for = || pod.fixed_ips.contains(address) && holds(&self.pod_cidrs);
        holds(&node.pod_cidrs) || holds(&self.pools) || is_asked_for()
    }
}

/// Whether the entry can be about this pod: on that node, not its host's network, not an older pod of the name.
fn is_of(pod: &Pod, node: &Node, entry: &PodStatus) -> bool {
    let other_uid = !pod.uid.is_empty() && !entry.uid.is_empty() && pod.uid != entry.uid;
    pod.node_name.as_deref() == Some(&node.name) && !pod.host_network && !other_uid
}
