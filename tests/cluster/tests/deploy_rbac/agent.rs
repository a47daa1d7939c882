//! One account's agent: a source and a writer on a node of its own, and what came of all that it tried.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use api::crd::BgpNodeStatusStatus;
use api::{Change, Event, Key, NamespacedName, Resource};
use datastore::{
    AddressVerdict, Claim, ClusterSettings, EventRecord, EventType, NodeHealth, NodeWrites,
    ObjectCondition, PodReader, ServiceAddresses, StatusWriter, print_of, watch_kubernetes,
};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::TAINT;
use crate::rights::Account;

/// What an agent was told, and what it got done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) is_in_sync: bool,
    /// How often it was told of each object.
    pub(crate) told: BTreeMap<String, usize>,
    pub(crate) done: BTreeSet<&'static str>,
    pub(crate) problems: String,
}

/// A running one.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) account: Account,
    heard: Arc<Mutex<Heard>>,
    status: StatusWriter,
    pods: PodReader,
    problems: tokio::sync::watch::Receiver<Vec<datastore::Problem>>,
}

/// The block that an account claims.
fn block(account: &Account) -> IpNet {
    format!("10.{}.0.0/26", account.number).parse().unwrap()
}

/// What an account's agent has to read and to judge.
pub(crate) fn objects(account: &Account) -> Vec<Value> {
    let name = &account.name;
    let number = account.number;
    let ours = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "portolan.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
        })
    };
    let password = json!({"secretKeyRef": {"name": "tor", "key": "password"}});
    let peer = format!("192.0.2.{}", number + 1);
    vec![
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": name},
            "spec": {
                "nodeName": name, "serviceAccountName": name, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "none"}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tor", "namespace": name},
            "stringData": {"password": "first"},
        }),
        ours(
            "BGPPeer",
            json!({"peerAddress": peer, "asNumber": 64_600, "password": password}),
        ),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": name},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        }),
        ours("BGPFilter", json!({"importV4": [{"action": "Reject"}]})),
        ours(
            "IPPool",
            // With it other nodes' keys are read.
            json!({
                "cidr": format!("10.{number}.0.0/24"), "blockSize": 26, "encapsulation": "WireGuard",
            }),
        ),
        ours(
            "IPReservation",
            json!({"reservedCIDRs": [format!("10.{number}.0.9")]}),
        ),
    ]
}

/// Says which address this account's own Service is to have.
fn give(status: &StatusWriter, own: &str, change: &Change) {
    let Some(Resource::Service(service)) = &change.value else {
        return;
    };
    if service.name.namespace == own {
        let found = ServiceAddresses {
            print: print_of(service),
            verdict: AddressVerdict::Has {
                addresses: Vec::new(),
                // Else an Event would say so.
                is_whole: true,
                reason: "Allocated",
                message: "it needs none".to_owned(),
            },
        };
        let all = [(service.name.clone(), found)].into();
        status.publish_addresses(Arc::new(all));
    }
}

impl Agent {
    pub(crate) async fn start(account: Account, kubeconfig: PathBuf) -> Self {
        let settings = ClusterSettings {
            kubeconfig: Some(kubeconfig),
            node: account.name.clone(),
            namespace: account.name.clone(),
            services: true,
            node_writes: NodeWrites {
                condition: true,
                remove_taints: vec![TAINT.to_owned()],
            },
        };
        let mut source = watch_kubernetes(&settings).await.unwrap();
        let agent = Self {
            account,
            heard: Arc::default(),
            status: source.status.clone(),
            pods: source.pods.clone().unwrap(),
            problems: source.problems.clone(),
        };
        let heard = Arc::clone(&agent.heard);
        let (status, own) = (agent.status.clone(), agent.account.name.clone());
        tokio::spawn(async move {
            while let Some(event) = source.events.recv().await {
                let mut heard = heard.lock().unwrap();
                match event {
                    Event::InSync => heard.is_in_sync = true,
                    Event::Change(change) => {
                        give(&status, &own, &change);
                        *heard.told.entry(change.key.to_string()).or_default() += 1;
                    }
                }
            }
        });
        agent
    }

    pub(crate) fn heard(&self) -> Heard {
        let problems = self.problems.borrow().clone();
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Heard {
            problems: problems.join("\n"),
            ..self.heard.lock().unwrap().clone()
        }
    }

    /// Says all that an agent has to say, and takes and gives back a block.
    pub(crate) async fn work(self) {
        // Whether it was refused is seen by what is missing then.
        let _ = self.status.publish_node(NodeHealth::Up).await;
        let established = BgpNodeStatusStatus {
            established: 1,
            ..BgpNodeStatusStatus::default()
        };
        self.status.publish_bgp(established).await.unwrap();
        self.say("one", 1).await;
        let pod = NamespacedName::new(&self.account.name, "pod");
        self.note(
            "read a pod",
            matches!(self.pods.get(&pod).await, Ok(Some(_))),
        );
        let block = block(&self.account);
        for what in ["claimed", "claimed again"] {
            let claimed = self.status.claim_block(block).await;
            self.note(what, matches!(claimed, Ok(Claim::Ours)));
        }
        self.note("released", self.status.release_block(block).await.is_ok());
        self.note("worked", true);
    }

    /// Publishes the conditions of all its objects, and a warning that has come so often.
    pub(crate) async fn say(&self, message: &str, count: u32) {
        let name = || self.account.name.clone();
        let keys = [
            Key::BgpFilter(name()),
            Key::BgpPeer(name()),
            Key::IpPool(name()),
            Key::IpReservation(name()),
        ];
        let warning = EventRecord {
            regarding: (&keys[1]).into(),
            reason: "PeerRefused".to_owned(),
            event_type: EventType::Warning,
            message: "the peer is in another AS".to_owned(),
            count,
            first_timestamp: None,
            last_timestamp: None,
        };
        let conditions = keys.into_iter().map(|key| ObjectCondition {
            key,
            type_: "Accepted".to_owned(),
            status: true,
            reason: "Valid".to_owned(),
            message: message.to_owned(),
        });
        let conditions = conditions.collect();
        self.status.publish_conditions(conditions).await.unwrap();
        self.status.publish_events(vec![warning]).await.unwrap();
    }

    fn note(&self, what: &'static str, is_done: bool) {
        if is_done {
            self.heard.lock().unwrap().done.insert(what);
        }
    }
}
