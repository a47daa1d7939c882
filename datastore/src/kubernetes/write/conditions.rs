//! Conditions of our own kinds: which of them are not yet said as they should be, and how they are applied.

use std::collections::BTreeMap;

use api::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::calls::Calls;
use super::text;
use crate::ObjectCondition;
use crate::kubernetes::failure::Failure;
use crate::kubernetes::{ObjectFacts, Rest};

/// The condition of all our kinds.
const ACCEPTED: &str = "Accepted";

/// What is to be said of an object: that it cannot be understood, or else what was published of it.
pub(crate) fn of_object(
    key: &Key,
    published: Option<&Vec<ObjectCondition>>,
    facts: &ObjectFacts,
) -> Vec<ObjectCondition> {
    match &facts.problem {
        Some(problem) => vec![ObjectCondition {
            key: key.clone(),
            type_: ACCEPTED.to_owned(),
            status: false,
            reason: "Invalid".to_owned(),
            message: problem.clone(),
        }],
        None => published.cloned().unwrap_or_default(),
    }
}

/// All that is to be said of an object, by the object.
pub(crate) type Wanted = BTreeMap<Key, Vec<ObjectCondition>>;

/// Sorts what is published by its object.
pub(crate) fn by_object(conditions: Vec<ObjectCondition>) -> Wanted {
    let mut wanted = Wanted::new();
    for condition in conditions {
        wanted
            .entry(condition.key.clone())
            .or_default()
            .push(condition);
    }
    for conditions in wanted.values_mut() {
        conditions.sort();
        conditions.dedup_by(|a, b| a.type_ == b.type_);
    }
    wanted
}

/// A write of one object's conditions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Patch {
    path: String,
    object: Value,
}

/// What to write so that the object says this; `None` if it does, or is none of ours.
///
/// The patch bears the version that was seen: where the object has changed since, the server refuses it, and what is said
/// of an older generation never stands on a newer one.
pub(crate) fn patch(
    key: &Key,
    wanted: &[ObjectCondition],
    facts: &ObjectFacts,
    now: Timestamp,
) -> Option<Patch> {
    let (plural, kind, name) = place(key)?;
    let Rest::Judged {
        resource_version,
        conditions,
    } = &facts.rest
    else {
        return None;
    };
    let present = |type_: &str| conditions.iter().find(|one| one.type_ == type_);
    let conditions: Vec<Condition> = wanted
        .iter()
        .map(|wanted| condition(wanted, present(&wanted.type_), facts.generation, now))
        .collect();
    let is_said = conditions
        .iter()
        .all(|condition| present(&condition.type_) == Some(condition));
    if is_said {
        return None;
    }
    Some(Patch {
        path: format!("/apis/portolan.io/v1alpha1/{plural}/{name}/status"),
        object: json!({
            "apiVersion": "portolan.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "resourceVersion": resource_version},
            "status": {"conditions": conditions},
        }),
    })
}

/// Applies it, without force.
pub(crate) async fn apply(calls: &Calls, patch: &Patch) -> Result<(), Failure> {
    calls.apply(&patch.path, &patch.object).await
}

/// The condition as it is to stand; its transition is of now only where it flips.
pub(crate) fn condition(
    wanted: &ObjectCondition,
    present: Option<&Condition>,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let status = if wanted.status { "True" } else { "False" };
    let since = present.filter(|present| present.status == status);
    Condition {
        type_: wanted.type_.clone(),
        status: status.to_owned(),
        reason: wanted.reason.clone(),
        message: text::shortened(&wanted.message),
        observed_generation: Some(generation),
        last_transition_time: since.map_or(Time(now), |since| since.last_transition_time.clone()),
    }
}

/// Where an object of our kinds stands. A BGPConfiguration has no status, and of an IPAMBlock nothing is to be judged.
fn place(key: &Key) -> Option<(&'static str, &'static str, &str)> {
    match key {
        Key::BgpFilter(name) => Some(("bgpfilters", "BGPFilter", name)),
        Key::BgpPeer(name) => Some(("bgppeers", "BGPPeer", name)),
        Key::IpPool(name) => Some(("ippools", "IPPool", name)),
        Key::IpReservation(name) => Some(("ipreservations", "IPReservation", name)),
        Key::BgpConfiguration(_)
        | Key::BgpNodeStatus(_)
        | Key::IpamBlock(_)
        | Key::Secret(_)
        | Key::Namespace(_)
        | Key::Node(_)
        | Key::Pod(_)
        | Key::NetworkPolicy(_)
        | Key::ClusterNetworkPolicy(_)
        | Key::Service(_)
        | Key::EndpointSlice(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn wanted(status: bool, message: &str) -> ObjectCondition {
        ObjectCondition {
            key: Key::BgpPeer("tor".to_owned()),
            type_: "Accepted".to_owned(),
            status,
            reason: "Valid".to_owned(),
            message: message.to_owned(),
        }
    }

    /// The object after the patch.
    fn after(facts: &ObjectFacts, wanted: ObjectCondition, now: i64) -> ObjectFacts {
        let key = wanted.key.clone();
        let patch = patch(&key, &[wanted], facts, at(now)).expect("a patch");
        let conditions = patch.object["status"]["conditions"].clone();
        judged(
            facts.generation,
            serde_json::from_value(conditions).expect("conditions"),
        )
    }

    fn judged(generation: i64, conditions: Vec<Condition>) -> ObjectFacts {
        ObjectFacts {
            uid: "u".to_owned(),
            generation,
            problem: None,
            rest: Rest::Judged {
                resource_version: "7".to_owned(),
                conditions,
            },
        }
    }

    fn said(facts: &ObjectFacts) -> &Condition {
        match &facts.rest {
            Rest::Judged { conditions, .. } => &conditions[0],
            _ => panic!("it bears conditions"),
        }
    }

    #[test]
    fn a_condition_is_written_when_it_differs_and_its_transition_only_when_it_flips() {
        let first = after(&judged(1, Vec::new()), wanted(true, "fine"), 1);
        let one = said(&first);
        assert_eq!(
            (one.status.as_str(), one.observed_generation),
            ("True", Some(1))
        );
        assert_eq!(one.last_transition_time, Time(at(1)));
        let key = Key::BgpPeer("tor".to_owned());
        assert_eq!(patch(&key, &[wanted(true, "fine")], &first, at(2)), None);

        let newer = ObjectFacts {
            generation: 2,
            ..first
        };
        let newer = after(&newer, wanted(true, "fine"), 3);
        assert_eq!(said(&newer).observed_generation, Some(2));
        assert_eq!(said(&newer).last_transition_time, Time(at(1)));
        let flipped = after(&newer, wanted(false, "wrong"), 4);
        assert_eq!(said(&flipped).last_transition_time, Time(at(4)));
    }

    #[test]
    fn of_an_object_that_cannot_be_understood_that_is_said_whatever_was_published() {
        let mut facts = judged(1, Vec::new());
        let key = Key::BgpPeer("tor".to_owned());
        let published = vec![wanted(true, "fine")];
        assert_eq!(of_object(&key, Some(&published), &facts), published);
        facts.problem = Some("BGPPeer tor: no".to_owned());
        let [said] = &of_object(&key, Some(&published), &facts)[..] else {
            panic!("one condition");
        };
        assert_eq!((said.status, said.reason.as_str()), (false, "Invalid"));
        assert_eq!(said.message, "BGPPeer tor: no");
    }

    #[test]
    fn a_patch_holds_for_the_version_that_was_seen_and_touches_the_status_alone() {
        let facts = judged(1, Vec::new());
        let key = Key::BgpPeer("tor".to_owned());
        let patch = patch(&key, &[wanted(true, "")], &facts, at(1)).expect("a patch");
        assert_eq!(patch.path, "/apis/portolan.io/v1alpha1/bgppeers/tor/status");
        let metadata = json!({"name": "tor", "resourceVersion": "7"});
        assert_eq!(patch.object["metadata"], metadata);
        assert!(patch.object.get("spec").is_none());
    }

    #[test]
    fn objects_of_others_get_no_conditions() {
        let key = Key::Node("n1".to_owned());
        let facts = ObjectFacts::default();
        assert_eq!(patch(&key, &[wanted(true, "")], &facts, at(1)), None);
    }
}
