//! What each right brings about: seen of the agent that has it, and never of the one that lacks it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use cluster::ControlPlane;
use serde_json::Value;

use crate::TAINT;
use crate::agent::{Agent, Heard};
use crate::rights::Right;

/// Objects that are made once the agents are in sync, by the resource: who may not watch does not hear of them. A Secret is
/// changed instead.
pub(crate) const LATER: &[(&str, &str)] = &[
    ("bgpconfigurations", "BGPConfiguration default"),
    ("bgpfilters", "BGPFilter later"),
    ("bgpnodestatuses", "BGPNodeStatus later"),
    ("bgppeers", "BGPPeer later"),
    ("clusternetworkpolicies", "ClusterNetworkPolicy later"),
    ("endpointslices", "EndpointSlice later/later"),
    ("ipamblocks", "IPAMBlock 10-250-0-0-26"),
    ("ippools", "IPPool later"),
    ("ipreservations", "IPReservation later"),
    ("namespaces", "Namespace later"),
    ("networkpolicies", "NetworkPolicy later/later"),
    ("nodes", "Node later"),
    ("pods", "Pod later/later"),
    ("services", "Service later/later"),
];

/// The manifests of [`LATER`].
pub(crate) const LATER_OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: later}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: later, namespace: later}}
---
{apiVersion: v1, kind: Node, metadata: {name: later}}
---
apiVersion: v1
kind: Pod
metadata: {name: later, namespace: later}
spec: {serviceAccountName: later, automountServiceAccountToken: false, containers: [{name: c, image: none}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: later, namespace: later}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: later}
spec: {tier: Admin, priority: 10, subject: {namespaces: {}}}
---
{apiVersion: v1, kind: Service, metadata: {name: later, namespace: later}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: later, namespace: later}, addressType: IPv4, endpoints: []}
---
{apiVersion: portolan.io/v1alpha1, kind: BGPConfiguration, metadata: {name: default}, spec: {nodeToNodeMeshEnabled: false}}
---
{apiVersion: portolan.io/v1alpha1, kind: BGPFilter, metadata: {name: later}, spec: {importV4: [{action: Reject}]}}
---
{apiVersion: portolan.io/v1alpha1, kind: BGPNodeStatus, metadata: {name: later}, spec: {node: later}}
---
{apiVersion: portolan.io/v1alpha1, kind: BGPPeer, metadata: {name: later}, spec: {peerAddress: 192.0.2.250, asNumber: 64600}}
---
{apiVersion: portolan.io/v1alpha1, kind: IPPool, metadata: {name: later}, spec: {cidr: 10.250.0.0/24, blockSize: 26}}
---
{apiVersion: portolan.io/v1alpha1, kind: IPReservation, metadata: {name: later}, spec: {reservedCIDRs: [10.250.0.9]}}
---
{apiVersion: portolan.io/v1alpha1, kind: IPAMBlock, metadata: {name: 10-250-0-0-26}, spec: {cidr: 10.250.0.0/26, node: later}}
";

/// What is in the server, by kind and name; of Events by the name of what they are about.
pub(crate) struct Seen(BTreeMap<(String, String), Value>);

impl Seen {
    pub(crate) fn now(plane: &ControlPlane) -> Result<Self> {
        let kinds = "nodes,services,bgpnodestatuses,bgpfilters,bgppeers,ippools,ipreservations,ipamblocks,events.events.k8s.io";
        let text = plane.try_kubectl(&["get", "-A", "-o", "json", kinds])?;
        let list: Value = serde_json::from_str(&text)?;
        let mut objects = BTreeMap::new();
        for object in list["items"].as_array().context("no items")? {
            let of = match object["kind"] == "Event" {
                true => &object["regarding"]["name"],
                false => &object["metadata"]["name"],
            };
            let [kind, of] = [&object["kind"], of].map(|word| word.as_str().unwrap_or_default());
            objects.insert((kind.to_owned(), of.to_owned()), object.clone());
        }
        Ok(Self(objects))
    }

    fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.get(&(kind.to_owned(), name.to_owned()))
    }

    fn condition(&self, kind: &str, name: &str, type_: &str) -> Option<&Value> {
        let conditions = self.get(kind, name)?["status"]["conditions"].as_array()?;
        conditions
            .iter()
            .find(|condition| condition["type"] == type_)
    }
}

/// Whether it is seen that this agent has the right.
///
/// # Panics
/// When nothing is known that shows the right: each one in the files must have something.
pub(crate) fn is_seen(right: &Right, agent: &Agent, seen: &Seen) -> bool {
    let name = agent.account.name.as_str();
    let heard = agent.heard();
    let is_accepted = |kind: &str| seen.condition(kind, name, "Accepted").is_some();
    match right.words().as_str() {
        "get pods" => heard.done.contains("read a pod"),
        "patch nodes/status" => {
            let said = seen.condition("Node", name, "NetworkUnavailable");
            said.is_some_and(|said| said["status"] == "False")
        }
        "patch nodes" => seen.get("Node", name).is_some_and(|node| {
            let taints = node["spec"]["taints"].as_array();
            !taints
                .into_iter()
                .flatten()
                .any(|taint| taint["key"] == TAINT)
        }),
        "create bgpnodestatuses" | "patch bgpnodestatuses" => {
            seen.get("BGPNodeStatus", name).is_some()
        }
        "patch bgpnodestatuses/status" => seen
            .get("BGPNodeStatus", name)
            .is_some_and(|object| object["status"]["established"] == 1),
        "patch services/status" => seen
            .condition("Service", name, api::resources::ADDRESSES_ALLOCATED)
            .is_some(),
        "patch bgpfilters/status" => is_accepted("BGPFilter"),
        "patch bgppeers/status" => is_accepted("BGPPeer"),
        "patch ippools/status" => is_accepted("IPPool"),
        "patch ipreservations/status" => is_accepted("IPReservation"),
        // Who cannot take the Lease says nothing of any object.
        "create leases" | "get leases" => is_accepted("BGPPeer"),
        // Who cannot renew it says nothing more.
        "update leases" => seen
            .condition("BGPPeer", name, "Accepted")
            .is_some_and(|said| said["message"] == "two"),
        "create ipamblocks" => heard.done.contains("claimed"),
        "get ipamblocks" => heard.done.contains("claimed again"),
        "delete ipamblocks" => heard.done.contains("released"),
        "create events" => seen.get("Event", name).is_some(),
        "patch events" => seen
            .get("Event", name)
            .is_some_and(|event| event["series"]["count"] == 2),
        _ => is_read(right, name, &heard),
    }
}

/// Whether this right to read is in use.
fn is_read(right: &Right, name: &str, heard: &Heard) -> bool {
    let times = |key: &str| heard.told.get(key).copied().unwrap_or(0);
    let is_told = match right.resource.as_str() {
        // The one that was there, and its change.
        "secrets" => times(&format!("Secret {name}/tor")) == 2,
        resource => {
            let later = LATER.iter().find(|(one, _)| *one == resource);
            let (_, later) = later.unwrap_or_else(|| panic!("nothing shows {}", right.words()));
            times(later) > 0
        }
    };
    match right.verb.as_str() {
        "list" => heard.is_in_sync,
        "watch" => is_told,
        _ => panic!("nothing shows {}", right.words()),
    }
}
