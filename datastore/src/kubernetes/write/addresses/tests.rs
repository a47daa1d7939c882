//! Agents that give addresses as luck has it, each by what it has seen: against an API server in memory, in virtual time.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::ServiceAddresses;
use crate::kubernetes::write::duties::{Found, run};
use crate::kubernetes::write::fake::{Fake, Fault};

const POOL: u8 = 8;
const PEER: &str = "/apis/portolan.io/v1alpha1/bgppeers/tor";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/portolan/leases/portolan-status";
const BLOCK: &str = "/apis/portolan.io/v1alpha1/ipamblocks/10-48-0-0-26";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn path(name: &str) -> String {
    format!("/api/v1/namespaces/shop/services/{name}")
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {}, "conditions": [{"type": "others", "status": "True"}]},
    })
}

fn address(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn has(addresses: &[IpAddr]) -> AddressVerdict {
    AddressVerdict::Has {
        addresses: addresses.to_vec(),
        is_whole: !addresses.is_empty(),
        reason: if addresses.is_empty() {
            "PoolExhausted"
        } else {
            "Allocated"
        },
        message: format!("{addresses:?}"),
    }
}

/// One agent's task; it is killed by being dropped.
struct Agent {
    facts: Facts,
    addresses: watch::Sender<Arc<AllocatedAddresses>>,
    conditions: watch::Sender<Vec<ObjectCondition>>,
    reads: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    watcher: usize,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts agents, in the order of their watches.
#[derive(Default)]
struct Cluster {
    server: Fake,
    started: usize,
}

impl Cluster {
    fn start(&mut self, node: &str) -> Agent {
        let watcher = self.started;
        self.started += 1;
        let (connection, facts) = self.server.connect(node);
        let (refresher, reads) = self.server.refresher(watcher);
        let (conditions_sender, conditions) = watch::channel(Vec::new());
        let (addresses_sender, addresses) = watch::channel(Arc::default());
        let found = Found {
            conditions,
            addresses,
        };
        let task = tokio::spawn(run(connection, facts.clone(), refresher, found));
        Agent {
            facts,
            addresses: addresses_sender,
            conditions: conditions_sender,
            reads,
            task,
            watcher,
        }
    }

    fn add(&self, name: &str) {
        self.server.put(&path(name), service(name));
    }

    fn addresses_of(&self, name: &str) -> Vec<String> {
        let object = self.server.object(&path(name)).unwrap_or_default();
        let points = object
            .pointer("/status/loadBalancer/ingress")
            .cloned()
            .unwrap_or_default();
        let points = points.as_array().cloned().unwrap_or_default();
        points
            .iter()
            .map(|point| point["ip"].as_str().unwrap().to_owned())
            .collect()
    }

    fn conditions(&self, name: &str) -> Vec<(String, String)> {
        let object = self.server.object(&path(name)).unwrap();
        let conditions = object["status"]["conditions"].as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        conditions
            .map(|one| (word(&one["type"]), word(&one["reason"])))
            .collect()
    }

    /// What the peer's condition says.
    fn says(&self) -> Option<String> {
        let peer = self.server.object(PEER)?;
        let message = peer.pointer("/status/conditions/0/message")?;
        message.as_str().map(str::to_owned)
    }

    /// A peer and the block of a node that is gone: what else there is to do.
    fn add_other_duties(&self) {
        let spec = json!({"peerAddress": "10.0.0.1"});
        let peer = json!({"metadata": {"name": "tor"}, "spec": spec});
        self.server.put(PEER, peer);
        let spec = json!({"cidr": "10.48.0.0/26", "node": "gone"});
        let block = json!({"metadata": {"name": "10-48-0-0-26"}, "spec": spec});
        self.server.put(BLOCK, block);
    }

    fn patches(&self) -> usize {
        self.server.asked_of(&Method::PATCH, "/status").len()
    }
}

impl Agent {
    /// Publishes this of Services as this agent has seen them.
    fn publish(&self, verdicts: &[(&str, AddressVerdict)]) {
        let mut all = AllocatedAddresses::new();
        self.facts.look_at_balanced(|name, _, known| {
            let verdict = verdicts.iter().find(|(wanted, _)| *wanted == name.name);
            if let (Some((_, verdict)), Some(print)) = (verdict, known.print) {
                all.insert(
                    name.clone(),
                    ServiceAddresses {
                        print,
                        verdict: verdict.clone(),
                    },
                );
            }
        });
        self.addresses.send_replace(Arc::new(all));
    }

    /// Has the peer's condition say this.
    fn say(&self, message: &str) {
        let condition = ObjectCondition {
            key: Key::BgpPeer("tor".to_owned()),
            type_: "Accepted".to_owned(),
            status: true,
            reason: "Valid".to_owned(),
            message: message.to_owned(),
        };
        self.conditions.send_replace(vec![condition]);
    }

    /// Who has an address keeps it, the others get some free one, as luck has it: all by what this agent has seen.
    fn publish_by_luck(&self, luck: &mut u64) {
        let mut held: BTreeMap<NamespacedName, Vec<IpAddr>> = BTreeMap::new();
        let mut prints = BTreeMap::new();
        self.facts.look_at_balanced(|name, _, known| {
            held.insert(name.clone(), known.addresses.clone());
            prints.insert(name.clone(), known.print.unwrap());
        });
        let mut free: Vec<IpAddr> = (0..POOL).map(address).collect();
        free.retain(|one| !held.values().flatten().any(|held| held == one));
        let verdicts = held.into_iter().map(|(name, mut addresses)| {
            if addresses.is_empty() && !free.is_empty() {
                let place = usize::try_from(draw(luck, free.len() as u64)).unwrap();
                addresses.push(free.swap_remove(place));
            }
            let print = prints[&name];
            (
                name,
                ServiceAddresses {
                    print,
                    verdict: has(&addresses),
                },
            )
        });
        let all = Arc::new(verdicts.collect::<AllocatedAddresses>());
        self.addresses.send_if_modified(|told| {
            let is_new = **told != *all;
            *told = all;
            is_new
        });
    }
}

/// A number below another (xorshift): the same every time.
fn draw(luck: &mut u64, below: u64) -> u64 {
    *luck ^= *luck << 13;
    *luck ^= *luck >> 7;
    *luck ^= *luck << 17;
    *luck % below
}

#[tokio::test(start_paused = true)]
async fn of_many_agents_one_writes_each_status_once_and_then_all_are_quiet() {
    let mut cluster = Cluster::default();
    for name in ["a", "b", "c"] {
        cluster.add(name);
    }
    let agents: Vec<Agent> = (0..20)
        .map(|number| cluster.start(&format!("n{number}")))
        .collect();
    for agent in &agents {
        agent.publish(&[
            ("a", has(&[address(1)])),
            ("b", has(&[address(2)])),
            ("c", has(&[])),
        ]);
    }
    sleep(seconds(60)).await;
    assert_eq!(
        (cluster.addresses_of("a"), cluster.addresses_of("b")),
        (vec!["192.0.2.1".to_owned()], vec!["192.0.2.2".to_owned()])
    );
    assert_eq!(cluster.patches(), 3);
    let ours = ADDRESSES_ALLOCATED.to_owned();
    assert_eq!(
        cluster.conditions("a"),
        [
            ("others".to_owned(), String::new()),
            (ours.clone(), "Allocated".to_owned())
        ]
    );
    assert_eq!(
        cluster.conditions("c"),
        [
            ("others".to_owned(), String::new()),
            (ours, "PoolExhausted".to_owned())
        ]
    );
    let events = cluster.server.asked_of(&Method::POST, "events");
    assert_eq!(events.len(), 1, "of the one that has none");
    assert_eq!(
        (
            events[0].body["reason"].as_str(),
            events[0].body["regarding"]["name"].as_str()
        ),
        (Some("PoolExhausted"), Some("c"))
    );
    let before = cluster.server.asked().len();
    // What it says now is a state of its own: as agents would, they find the same for it.
    for agent in &agents {
        agent.publish(&[
            ("a", has(&[address(1)])),
            ("b", has(&[address(2)])),
            ("c", has(&[])),
        ]);
    }
    sleep(seconds(3600)).await;
    assert_eq!(
        cluster.server.asked().len(),
        before,
        "nothing is to be done"
    );
    let reads: usize = agents
        .iter()
        .map(|agent| agent.reads.load(Ordering::Relaxed))
        .sum();
    assert_eq!(reads, 1, "once, by the holder of the Lease");
}

#[tokio::test(start_paused = true)]
async fn a_new_holder_reads_all_anew_before_it_gives_anything() {
    let mut cluster = Cluster::default();
    cluster.add("a");
    let first = cluster.start("n1");
    let second = cluster.start("n2");
    cluster.server.lag(second.watcher, "services/a");
    first.publish(&[("a", has(&[address(1)]))]);
    sleep(seconds(5)).await;
    assert_eq!(cluster.addresses_of("a"), ["192.0.2.1"]);
    drop(first);
    cluster.add("b");
    second.publish(&[("a", has(&[address(2)])), ("b", has(&[address(1)]))]);
    sleep(seconds(35)).await;
    assert_eq!(cluster.patches(), 1, "the Lease is the first one's still");
    sleep(seconds(60)).await;
    assert_eq!(second.reads.load(Ordering::Relaxed), 1);
    assert_eq!(cluster.addresses_of("b"), Vec::<String>::new());
    second.publish(&[("a", has(&[address(1)])), ("b", has(&[address(2)]))]);
    sleep(seconds(5)).await;
    assert_eq!(cluster.addresses_of("b"), ["192.0.2.2"]);
    assert_eq!(cluster.server.doubles(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn nothing_else_waits_for_the_read_before_addresses_are_given() {
    let mut cluster = Cluster::default();
    cluster.add("a");
    cluster.add_other_duties();
    let agent = cluster.start("n1");
    cluster.server.set_reads_take(seconds(10_000));
    agent.publish(&[("a", has(&[address(1)]))]);
    for said in 0..100 {
        agent.say(&format!("{said}"));
        sleep(seconds(3)).await;
        assert_eq!(cluster.says(), Some(format!("{said}")));
    }
    sleep(seconds(60)).await;
    assert!(cluster.server.object(BLOCK).is_none(), "it is given back");
    assert_eq!(cluster.addresses_of("a"), Vec::<String>::new());
    let asked = cluster.server.asked().len();
    sleep(seconds(3_600)).await;
    let asked = cluster.server.asked().len() - asked;
    assert!(asked <= 2 * 3_600 / 30, "{asked} requests for nothing");
}

#[tokio::test(start_paused = true)]
async fn addresses_are_given_once_the_read_has_ended() {
    let mut cluster = Cluster::default();
    cluster.add("a");
    let agent = cluster.start("n1");
    cluster.server.set_reads_take(seconds(25));
    agent.publish(&[("a", has(&[address(1)]))]);
    sleep(seconds(24)).await;
    assert_eq!(cluster.addresses_of("a"), Vec::<String>::new());
    sleep(seconds(5)).await;
    assert_eq!(cluster.addresses_of("a"), ["192.0.2.1"]);
    assert_eq!(agent.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_of_an_earlier_tenure_lets_nobody_give() {
    let mut cluster = Cluster::default();
    cluster.add("a");
    let agent = cluster.start("n1");
    cluster.server.set_reads_take(seconds(20));
    agent.publish(&[("a", has(&[address(1)]))]);
    sleep(seconds(10)).await;
    assert_eq!(agent.reads.load(Ordering::Relaxed), 0, "it is under way");
    // Another has the Lease for a while, and gives it up.
    let mut lease = cluster.server.object(LEASE).unwrap();
    lease["spec"]["holderIdentity"] = json!("n2");
    cluster.server.put(LEASE, lease.clone());
    sleep(seconds(20)).await;
    lease["spec"]["holderIdentity"] = json!("");
    cluster.server.put(LEASE, lease);
    cluster.server.lag(agent.watcher, "services/a");
    sleep(seconds(120)).await;
    assert_eq!(agent.reads.load(Ordering::Relaxed), 2);
    assert_eq!(cluster.addresses_of("a"), ["192.0.2.1"]);
}

#[tokio::test(start_paused = true)]
async fn services_that_are_slow_to_write_hold_up_no_condition() {
    let mut cluster = Cluster::default();
    cluster.add_other_duties();
    let names: Vec<String> = (0..POOL).map(|number| format!("s{number}")).collect();
    for name in &names {
        cluster.add(name);
        for _ in 0..3 {
            let end = format!("services/{name}/status");
            let is_of_it =
                move |asked: &crate::kubernetes::write::fake::Asked| asked.path.ends_with(&end);
            cluster.server.fail(is_of_it, Fault::Hang);
        }
    }
    let agent = cluster.start("n1");
    let verdicts = |from: u8| -> Vec<(&str, AddressVerdict)> {
        let numbers = (from..).map(|number| has(&[address(number)]));
        names.iter().map(String::as_str).zip(numbers).collect()
    };
    agent.publish(&verdicts(1));
    for said in 0..10 {
        agent.say(&format!("{said}"));
        sleep(seconds(8)).await;
        assert_eq!(cluster.says(), Some(format!("{said}")));
    }
    sleep(seconds(600)).await;
    for name in &names {
        assert_eq!(cluster.addresses_of(name).len(), 1, "{name}");
    }
    assert_eq!(cluster.server.doubles(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_was_worked_out_for_another_state_of_a_service_is_not_written() {
    let mut cluster = Cluster::default();
    cluster.add("a");
    let agent = cluster.start("n1");
    agent.publish(&[("a", has(&[address(1)]))]);
    let mut changed = service("a");
    changed["metadata"]["annotations"] = json!({"portolan.io/ip-addresses": "[\"192.0.2.7\"]"});
    cluster.server.put(&path("a"), changed);
    sleep(seconds(60)).await;
    assert_eq!(cluster.patches(), 0);
    agent.publish(&[("a", has(&[address(7)]))]);
    sleep(seconds(5)).await;
    assert_eq!(cluster.addresses_of("a"), ["192.0.2.7"]);
}

#[tokio::test(start_paused = true)]
async fn an_address_of_which_nobody_knows_whether_it_was_written_is_nobody_elses() {
    for fault in [Fault::AnswerLost, Fault::Late(seconds(7))] {
        let mut cluster = Cluster::default();
        cluster.add("a");
        cluster.add("b");
        let agent = cluster.start("n1");
        cluster.server.lag(agent.watcher, "services/a");
        cluster
            .server
            .fail(|asked| asked.path.ends_with("services/a/status"), fault);
        agent.publish(&[("a", has(&[address(1)]))]);
        // Its first read is over before anything is given.
        while cluster.patches() == 0 {
            sleep(Duration::from_millis(100)).await;
        }
        cluster.server.lag(agent.watcher, "services/a");
        agent.publish(&[("a", has(&[address(2)])), ("b", has(&[address(1)]))]);
        sleep(seconds(30)).await;
        assert_eq!(cluster.addresses_of("b"), Vec::<String>::new());
        cluster.server.catch_up(agent.watcher);
        let held = cluster.addresses_of("a");
        assert_eq!(held.len(), 1, "{held:?}");
        sleep(seconds(30)).await;
        let is_first = held == ["192.0.2.1"];
        assert_eq!(cluster.addresses_of("b").is_empty(), is_first, "{held:?}");
        assert_eq!(cluster.server.doubles(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_holder_waits_for_the_end_of_what_it_had_asked_for() {
    let mut cluster = Cluster::default();
    for name in ["a", "b", "c"] {
        cluster.add(name);
    }
    let first = cluster.start("n1");
    first.publish(&[("c", has(&[address(3)]))]);
    sleep(seconds(5)).await;
    let is_of_a =
        |asked: &crate::kubernetes::write::fake::Asked| asked.path.ends_with("services/a/status");
    cluster.server.fail(is_of_a, Fault::Late(seconds(6)));
    first.publish(&[("a", has(&[address(1)])), ("c", has(&[address(3)]))]);
    sleep(seconds(2)).await;
    assert_eq!(cluster.patches(), 2, "it is under way");
    drop(first);
    let second = cluster.start("n1");
    second.publish(&[
        ("b", has(&[address(1)])),
        ("a", has(&[address(2)])),
        ("c", has(&[address(3)])),
    ]);
    sleep(seconds(60)).await;
    assert_eq!(cluster.addresses_of("a"), ["192.0.2.1"]);
    assert_eq!(cluster.addresses_of("b"), Vec::<String>::new());
    assert_eq!(cluster.server.doubles(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn who_is_of_our_kind_no_more_loses_what_is_ours_and_nothing_else() {
    let mut cluster = Cluster::default();
    cluster.add("a");
    let agent = cluster.start("n1");
    agent.publish(&[("a", has(&[address(1)]))]);
    sleep(seconds(5)).await;
    let mut changed = cluster.server.object(&path("a")).unwrap();
    changed["spec"]["loadBalancerClass"] = json!("example.com/other");
    cluster.server.put(&path("a"), changed);
    agent.publish(&[("a", AddressVerdict::Nothing)]);
    sleep(seconds(5)).await;
    assert_eq!(cluster.addresses_of("a"), Vec::<String>::new());
    assert_eq!(
        cluster.conditions("a"),
        [("others".to_owned(), String::new())]
    );
    assert_eq!(cluster.patches(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_two_services_ever_have_one_address_whoever_is_killed_lags_or_is_late() {
    let (mut luck, mut given, mut changes) = (0x9e37_79b9_7f4a_7c15, 0, 0);
    for _ in 0..3 {
        let mut cluster = Cluster::default();
        let mut agents: Vec<Agent> = (0..3)
            .map(|number| cluster.start(&format!("n{number}")))
            .collect();
        for _ in 0..300 {
            let name = format!("s{}", draw(&mut luck, 10));
            match draw(&mut luck, 13) {
                0..=3 => cluster.add(&name),
                4..=5 => cluster.server.remove(&path(&name)),
                6 => {
                    let node = usize::try_from(draw(&mut luck, 3)).unwrap();
                    agents[node] = cluster.start(&format!("n{node}"));
                    changes += 1;
                }
                7 => {
                    let agent = &agents[usize::try_from(draw(&mut luck, 3)).unwrap()];
                    cluster.server.lag(agent.watcher, &path(&name));
                }
                8 => {
                    let agent = &agents[usize::try_from(draw(&mut luck, 3)).unwrap()];
                    cluster.server.catch_up(agent.watcher);
                }
                9 => {
                    let fault = match draw(&mut luck, 3) {
                        0 => Fault::AnswerLost,
                        1 => Fault::Refused(503, 0),
                        _ => Fault::Late(seconds(draw(&mut luck, 9))),
                    };
                    cluster
                        .server
                        .fail(|asked| asked.path.contains("/services/"), fault);
                }
                10 => {
                    let takes = seconds(draw(&mut luck, 40));
                    cluster.server.set_reads_take(takes);
                }
                // The Lease runs out now and then.
                11 => sleep(seconds(draw(&mut luck, 60))).await,
                _ => {}
            }
            for agent in &agents {
                agent.publish_by_luck(&mut luck);
            }
            sleep(Duration::from_millis(draw(&mut luck, 3_000))).await;
        }
        let doubles = cluster.server.doubles();
        assert_eq!(doubles, Vec::<String>::new());
        given += cluster.patches();
    }
    assert!(
        given > 100 && changes > 40,
        "{given} writes, {changes} killed"
    );
}
