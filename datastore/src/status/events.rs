//! What a node has to say of objects that it cannot carry out as written: records shaped after Kubernetes' Events.

use api::{Key, NamespacedName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

/// The most records that are published; one more says how many are left out.
pub(super) const MOST_EVENTS: usize = 1000;

/// The longest note that events.k8s.io takes, in octets.
const LONGEST_MESSAGE: usize = 1024;

/// One record. In a cluster it is an Event of events.k8s.io/v1: `message` its `note`, `count` and `lastTimestamp` its
/// `series`, the agent its `reportingController` and the node its `reportingInstance`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// The object.
    pub regarding: Regarding,
    /// Why, in one word for programs: `PolicyNotEnforced`, say.
    pub reason: String,
    /// Whether someone should look.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// What is wrong, for people; what exceeds 1024 octets is not published.
    pub message: String,
    /// How often it was seen.
    pub count: u32,
    /// When it was first seen, by the caller's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_timestamp: Option<Time>,
    /// When it was last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_timestamp: Option<Time>,
}

/// `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum EventType {
    /// For information.
    Normal,
    /// Something is not as its author wants it.
    Warning,
}

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Regarding {
    /// Its group and version.
    pub api_version: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl From<&Key> for Regarding {
    fn from(key: &Key) -> Self {
        let ours = "portolan.io/v1alpha1";
        match key {
            Key::BgpConfiguration(name) => Self::cluster(ours, "BGPConfiguration", name),
            Key::BgpFilter(name) => Self::cluster(ours, "BGPFilter", name),
            Key::BgpNodeStatus(name) => Self::cluster(ours, "BGPNodeStatus", name),
            Key::BgpPeer(name) => Self::cluster(ours, "BGPPeer", name),
            Key::IpamBlock(name) => Self::cluster(ours, "IPAMBlock", name),
            Key::IpPool(name) => Self::cluster(ours, "IPPool", name),
            Key::IpReservation(name) => Self::cluster(ours, "IPReservation", name),
            Key::Secret(name) => Self::namespaced("v1", "Secret", name),
            Key::Namespace(name) => Self::cluster("v1", "Namespace", name),
            Key::Node(name) => Self::cluster("v1", "Node", name),
            Key::Pod(name) => Self::namespaced("v1", "Pod", name),
            Key::NetworkPolicy(name) => {
                Self::namespaced("networking.k8s.io/v1", "NetworkPolicy", name)
            }
            Key::ClusterNetworkPolicy(name) => Self::cluster(
                "policy.networking.k8s.io/v1alpha2",
                "ClusterNetworkPolicy",
                name,
            ),
            Key::Service(name) => Self::namespaced("v1", "Service", name),
            Key::EndpointSlice(name) => {
                Self::namespaced("discovery.k8s.io/v1", "EndpointSlice", name)
            }
        }
    }
}

impl Regarding {
    /// The object's key, if it is of a kind that is read.
    pub(crate) fn key(&self) -> Option<Key> {
        let name = self.name.clone();
        let namespaced = || NamespacedName::new(self.namespace.clone().unwrap_or_default(), &name);
        Some(match self.kind {
            "BGPConfiguration" => Key::BgpConfiguration(name),
            "BGPFilter" => Key::BgpFilter(name),
            "BGPNodeStatus" => Key::BgpNodeStatus(name),
            "BGPPeer" => Key::BgpPeer(name),
            "IPAMBlock" => Key::IpamBlock(name),
            "IPPool" => Key::IpPool(name),
            "IPReservation" => Key::IpReservation(name),
            "Secret" => Key::Secret(namespaced()),
            "Namespace" => Key::Namespace(name),
            "Node" => Key::Node(name),
            "Pod" => Key::Pod(namespaced()),
            "NetworkPolicy" => Key::NetworkPolicy(namespaced()),
            "ClusterNetworkPolicy" => Key::ClusterNetworkPolicy(name),
            "Service" => Key::Service(namespaced()),
            "EndpointSlice" => Key::EndpointSlice(namespaced()),
            _ => return None,
        })
    }

    fn cluster(api_version: &'static str, kind: &'static str, name: &str) -> Self {
        Self {
            api_version,
            kind,
            namespace: None,
            name: name.to_owned(),
        }
    }

    fn namespaced(api_version: &'static str, kind: &'static str, name: &NamespacedName) -> Self {
        Self {
            namespace: Some(name.namespace.clone()),
            ..Self::cluster(api_version, kind, &name.name)
        }
    }
}

/// The file of one node.
#[derive(Debug, Serialize)]
pub(super) struct EventsFile<'a> {
    pub(super) node: &'a str,
    pub(super) events: Vec<EventRecord>,
}

/// What is published of them.
pub(crate) fn bounded_events(node: &str, events: Vec<EventRecord>) -> Vec<EventRecord> {
    bounded(node, events).events
}

/// Sorted, so that the same records make the same file, and no more than people read.
pub(super) fn bounded(node: &str, mut events: Vec<EventRecord>) -> EventsFile<'_> {
    events.sort_by(|a, b| {
        let key = |event: &EventRecord| (event.event_type, event.count);
        (&a.regarding, &a.reason, &a.message)
            .cmp(&(&b.regarding, &b.reason, &b.message))
            .then(key(a).cmp(&key(b)))
    });
    let left_out = events.len().saturating_sub(MOST_EVENTS);
    events.truncate(MOST_EVENTS);
    for event in &mut events {
        shorten(&mut event.message);
    }
    if left_out > 0 {
        events.push(EventRecord {
            regarding: Regarding::cluster("v1", "Node", node),
            reason: "TooManyEvents".to_owned(),
            event_type: EventType::Warning,
            message: format!("{left_out} more are not shown"),
            count: 1,
            first_timestamp: None,
            last_timestamp: None,
        });
    }
    EventsFile { node, events }
}

fn shorten(message: &mut String) {
    if message.len() > LONGEST_MESSAGE {
        let end = message.floor_char_boundary(LONGEST_MESSAGE - '…'.len_utf8());
        message.truncate(end);
        message.push('…');
    }
}
