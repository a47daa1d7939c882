//! What is to be said on objects of our kinds: whether each is accepted. A function of the objects alone, so that every node
//! would say the same.

use std::collections::BTreeMap;

use api::resources::{BgpFilter, IpPool, IpamBlock, Secret};
use api::{Key, Resource};
use datastore::{ObjectCondition, Problem};

use super::{Core, pools};
use crate::speaker;

/// The type of all of them.
const ACCEPTED: &str = "Accepted";

/// Whether a condition may hang on it.
pub(super) fn are_of(key: &Key) -> bool {
    // By the order of kinds: all that come before namespaces.
    *key < Key::Namespace(String::new())
}

impl Core {
    /// All conditions, if they may be others than at the last call. `problems` are what the source finds wrong: objects that
    /// it cannot read are told by them.
    pub(crate) fn conditions(&mut self, problems: &[Problem]) -> Option<Vec<ObjectCondition>> {
        let is_stale = std::mem::take(&mut self.are_conditions_stale);
        if !self.in_sync || !(is_stale || self.problems_of_conditions != problems) {
            return None;
        }
        self.problems_of_conditions = problems.to_vec();
        let few = self.store.range(..Key::Namespace(String::new()));
        let mut conditions = of_objects(few);
        for (key, message) in unreadable(problems) {
            conditions.insert(key, ("Invalid", message));
        }
        let conditions = conditions.into_iter();
        let conditions = conditions.map(|(key, (reason, message))| ObjectCondition {
            key,
            type_: ACCEPTED.to_owned(),
            status: reason == VALID,
            reason: reason.to_owned(),
            message,
        });
        Some(conditions.collect())
    }
}

/// The reason of those that are accepted.
const VALID: &str = "Valid";

/// By object: reason and message.
type Said = BTreeMap<Key, (&'static str, String)>;

fn of_objects<'a>(objects: impl Iterator<Item = (&'a Key, &'a Resource)> + Clone) -> Said {
    let mut filters: BTreeMap<&str, &BgpFilter> = BTreeMap::new();
    let mut secrets: BTreeMap<&str, &Secret> = BTreeMap::new();
    let (mut pools, mut blocks): (Vec<&IpPool>, Vec<&IpamBlock>) = (Vec::new(), Vec::new());
    for (_, resource) in objects.clone() {
        match resource {
            Resource::BgpFilter(filter) => drop(filters.insert(&filter.name, filter)),
            Resource::Secret(secret) => drop(secrets.insert(&secret.name.name, secret)),
            Resource::IpPool(pool) => pools.push(pool),
            Resource::IpamBlock(block) => blocks.push(block),
            _ => {}
        }
    }
    let refused = pools::refused(&pools, &blocks);
    let valid = |message: &str| (VALID, message.to_owned());
    let said = objects.filter_map(|(key, resource)| {
        let said = match resource {
            Resource::BgpConfiguration(_) => valid("it holds for every node"),
            Resource::BgpFilter(_) => valid("peers may name it"),
            Resource::BgpPeer(peer) => {
                speaker::refusal(&filters, &secrets, peer).unwrap_or_else(|| {
                    valid("BGPNodeStatus of the nodes it selects shows its sessions")
                })
            }
            Resource::IpPool(pool) => match refused.get(pool.name.as_str()) {
                Some((reason, why)) => (*reason, why.clone()),
                None => valid("nodes may take blocks of it"),
            },
            _ => return None,
        };
        Some((key.clone(), said))
    });
    said.collect()
}

/// Objects of our kinds that the source cannot read, and why.
fn unreadable(problems: &[Problem]) -> impl Iterator<Item = (Key, String)> {
    problems.iter().filter_map(|problem| {
        let (kind, name) = problem.object.as_deref()?.split_once(' ')?;
        let name = name.to_owned();
        let key = match kind {
            "BGPConfiguration" => Key::BgpConfiguration(name),
            "BGPFilter" => Key::BgpFilter(name),
            "BGPPeer" => Key::BgpPeer(name),
            "IPPool" => Key::IpPool(name),
            _ => return None,
        };
        Some((key, problem.message.clone()))
    })
}
