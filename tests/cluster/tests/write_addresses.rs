//! Addresses of load balancers on the real API server, by agents that are killed and give what luck says: a watcher sees no two
//! Services with one address, whatever happens, and each status is written as the server takes it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use api::resources::Service;
use api::{Event, Key, NamespacedName, Resource};
use cluster::{ControlPlane, Timeline};
use datastore::{
    AddressVerdict, AllocatedAddresses, ClusterSettings, NodeWrites, ServiceAddresses,
    StatusWriter, print_of, watch_kubernetes,
};
use serde_json::{Value, json};
use tests::wait::eventually;

const SOON: Duration = Duration::from_secs(60);
const AGENT: &str = "system:serviceaccount:portolan:portolan-agent";
/// So many addresses there are.
const POOL: u8 = 6;
/// So many names of Services.
const NAMES: u64 = 8;
/// So often another agent takes the Lease.
const CHANGES: usize = 3;
/// More than the waits before somebody takes the Lease.
const TURN: Duration = Duration::from_secs(45);
/// For how long nothing must happen to be settled: a write under way would have been carried out.
const QUIET: Duration = Duration::from_secs(1);

/// A number below another (xorshift).
fn draw(luck: &mut u64, below: u64) -> u64 {
    *luck ^= *luck << 13;
    *luck ^= *luck >> 7;
    *luck ^= *luck << 17;
    *luck % below
}

/// One agent, with a clock of its own; it is killed by being dropped.
struct Agent {
    _status: StatusWriter,
    timeline: Timeline,
}

impl Agent {
    fn start(plane: &ControlPlane, node: &str, mut luck: u64) -> Self {
        let settings = ClusterSettings {
            kubeconfig: Some(plane.service_account_kubeconfig("portolan", "portolan-agent")),
            node: node.to_owned(),
            namespace: "portolan".to_owned(),
            services: true,
            node_writes: NodeWrites::default(),
        };
        let timeline = Timeline::start().unwrap();
        let status = timeline.run(async move {
            let mut source = watch_kubernetes(&settings).await.unwrap();
            let mut services = BTreeMap::new();
            let mut is_in_sync = false;
            let status = source.status.clone();
            let writer = status.clone();
            tokio::spawn(async move {
                while let Some(event) = source.events.recv().await {
                    match event {
                        Event::InSync => is_in_sync = true,
                        Event::Change(change) => match (change.key, change.value) {
                            (Key::Service(name), Some(Resource::Service(service))) => {
                                services.insert(name, *service);
                            }
                            (Key::Service(name), _) => drop(services.remove(&name)),
                            _ => {}
                        },
                    }
                    if is_in_sync {
                        writer.publish_addresses(Arc::new(by_luck(&services, &mut luck)));
                    }
                }
            });
            status
        });
        Self {
            _status: status.unwrap(),
            timeline,
        }
    }
}

/// Who has an address keeps it, the others get some free one.
fn by_luck(services: &BTreeMap<NamespacedName, Service>, luck: &mut u64) -> AllocatedAddresses {
    let ours = services.iter().filter(|(name, _)| name.namespace == "shop");
    let held: BTreeSet<IpAddr> = services
        .values()
        .flat_map(|service| service.load_balancer_ips.clone())
        .collect();
    let pool = (0..POOL).map(|number| IpAddr::from([192, 0, 2, number]));
    let mut free: Vec<IpAddr> = pool.filter(|ip| !held.contains(ip)).collect();
    ours.map(|(name, service)| {
        let mut addresses = service.load_balancer_ips.clone();
        if addresses.is_empty() && !free.is_empty() {
            let place = usize::try_from(draw(luck, free.len() as u64)).unwrap();
            addresses.push(free.swap_remove(place));
        }
        let is_whole = !addresses.is_empty();
        let verdict = AddressVerdict::Has {
            message: format!("{addresses:?}"),
            addresses,
            is_whole,
            reason: if is_whole {
                "Allocated"
            } else {
                "PoolExhausted"
            },
        };
        let print = print_of(service);
        (name.clone(), ServiceAddresses { print, verdict })
    })
    .collect()
}

/// Sees every state of every Service, in the server's order.
struct Watcher {
    child: Child,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    now: BTreeMap<String, Vec<String>>,
    states: usize,
    given: usize,
    doubles: Vec<String>,
}

impl Seen {
    fn take(&mut self, event: &Value) {
        let object = &event["object"];
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.states += 1;
        if event["type"] == "DELETED" {
            self.now.remove(&name);
            return;
        }
        let points = object["status"]["loadBalancer"]["ingress"].as_array();
        let points = points.into_iter().flatten();
        let addresses: Vec<String> = points
            .map(|point| point["ip"].as_str().unwrap().to_owned())
            .collect();
        for (other, held) in &self.now {
            for address in addresses.iter().filter(|one| held.contains(one)) {
                if *other != name {
                    self.doubles.push(format!("{address}: {other} and {name}"));
                }
            }
        }
        let before = self.now.insert(name, addresses.clone()).unwrap_or_default();
        self.given += usize::from(!addresses.is_empty() && before.is_empty());
    }
}

impl Watcher {
    fn start(plane: &ControlPlane) -> Self {
        let mut command = plane.kubectl_command(plane.admin_kubeconfig());
        let words = [
            "get",
            "services",
            "-n",
            "shop",
            "-w",
            "--output-watch-events",
            "-o",
        ];
        command.args(words).arg("jsonpath={@}{\"\\n\"}");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        let state = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap();
                state.lock().unwrap().take(&event);
            }
        });
        Self { child, seen }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plane() -> ControlPlane {
    let plane = ControlPlane::start(cluster::Options::default());
    plane.install_crds();
    plane.apply(include_str!("../../../deploy/kubernetes/namespace.yaml"));
    plane.apply(include_str!("../../../deploy/kubernetes/rbac.yaml"));
    cluster::agents::grant_load_balancers(&plane).unwrap();
    plane.kubectl(&["create", "namespace", "shop"]);
    plane
}

fn make(plane: &ControlPlane, name: &str) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    });
    plane.apply(&service.to_string());
}

/// Writes of statuses that the server has taken, and those that it would not have.
fn writes(plane: &ControlPlane) -> (usize, Vec<u16>) {
    let requests = plane.requests().into_iter();
    let ours = requests.filter(|one| {
        one.user == AGENT && one.verb == "patch" && one.resource == "services/status"
    });
    let codes: Vec<u16> = ours.map(|one| one.code).collect();
    let refused = codes.iter().filter(|code| **code != 200).copied().collect();
    (codes.iter().filter(|code| **code == 200).count(), refused)
}

fn service(plane: &ControlPlane, name: &str) -> Value {
    let text = plane.kubectl(&["get", "service", "-n", "shop", name, "-o", "json"]);
    serde_json::from_str(&text).unwrap()
}

fn holder_of_the_lease(plane: &ControlPlane) -> Result<String> {
    let words = [
        "get",
        "lease",
        "-n",
        "portolan",
        "portolan-status",
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ];
    plane.try_kubectl(&words)
}

/// Services come and go.
fn churn(plane: &ControlPlane, luck: &mut u64, times: usize) {
    for _ in 0..times {
        let name = format!("s{}", draw(luck, NAMES));
        if draw(luck, 8) < 5 {
            make(plane, &name);
        } else {
            let words = [
                "delete",
                "service",
                "-n",
                "shop",
                &name,
                "--ignore-not-found",
                "--wait=false",
            ];
            plane.kubectl(&words);
        }
    }
}

/// Waits until all have addresses, as far as there are some, and nothing is under way.
fn settle(watcher: &Watcher) {
    let mut before = (0, Instant::now());
    eventually(SOON, "an address for as many as there are", || {
        let seen = watcher.seen.lock().unwrap();
        if before.0 != seen.states {
            before = (seen.states, Instant::now());
        }
        let served = seen.now.values().filter(|held| held.len() == 1).count();
        ensure!(served == seen.now.len().min(usize::from(POOL)), "{seen:?}");
        ensure!(before.1.elapsed() > QUIET, "it is not quiet");
        Ok(())
    })
    .unwrap();
}

/// Kills the one that has the Lease; the other takes it, as its clock runs ahead, and the first comes back.
fn change_holder(plane: &ControlPlane, agents: &mut [Option<Agent>; 2], luck: &mut u64) {
    let holder = holder_of_the_lease(plane).unwrap();
    let place = usize::from(holder == "n2");
    let other = ["n2", "n1"][place];
    drop(agents[place].take());
    churn(plane, luck, 3);
    // There is something to do, whatever came and went.
    let late = format!("late{}", draw(luck, 1_000_000));
    make(plane, &late);
    eventually(2 * SOON, "another holder", || {
        // Nobody else is there who could have renewed it: this is as good as waiting.
        let survivor = agents[1 - place].as_ref().unwrap();
        survivor.timeline.forward(TURN)?;
        eventually(Duration::from_secs(6), "the Lease", || {
            let holder = holder_of_the_lease(plane)?;
            ensure!(holder == other, "{holder} has it");
            Ok(())
        })
    })
    .unwrap();
    agents[place] = Some(Agent::start(plane, &holder, draw(luck, 1_000) + 1));
    plane.kubectl(&["delete", "service", "-n", "shop", &late, "--wait=false"]);
}

#[test]
fn no_two_services_ever_have_one_address_while_services_and_agents_come_and_go() {
    let plane = plane();
    let watcher = Watcher::start(&plane);
    make(&plane, "first");
    let mut agents =
        [1, 2].map(|number| Some(Agent::start(&plane, &format!("n{number}"), number + 7)));
    settle(&watcher);
    assert_eq!(writes(&plane), (1, Vec::new()), "once");
    status_is_as_the_server_has_it(&plane);

    let mut luck = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..CHANGES {
        churn(&plane, &mut luck, 12);
        settle(&watcher);
        change_holder(&plane, &mut agents, &mut luck);
        churn(&plane, &mut luck, 6);
    }
    settle(&watcher);
    let seen = watcher.seen.lock().unwrap();
    assert_eq!(seen.doubles, Vec::<String>::new());
    let (taken, refused) = writes(&plane);
    eprintln!(
        "{} states seen, {} addresses given, {taken} statuses written, refused: {refused:?}",
        seen.states, seen.given
    );
    assert!(seen.given >= 10, "{} given", seen.given);
    assert!(
        taken >= seen.given && refused.iter().all(|code| [404, 409].contains(code)),
        "{refused:?}"
    );
}

fn status_is_as_the_server_has_it(plane: &ControlPlane) {
    let status = service(plane, "first")["status"].clone();
    let point = &status["loadBalancer"]["ingress"][0];
    assert_eq!(point["ipMode"], "VIP", "{status}");
    let said = &status["conditions"][0];
    assert_eq!(
        (&said["type"], &said["status"], &said["reason"]),
        (
            &json!("portolan.io/AddressesAllocated"),
            &json!("True"),
            &json!("Allocated")
        )
    );
}
