//! One worker: its own pods, and what a runtime does to them, at random.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tests::cni::{Answer, addresses};
use tests::netns::Netns;
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::runtime::{Call, Runtime};

use crate::ledger::Ledger;
use crate::random_number::Random;

/// How many pods each worker has at most.
pub(crate) const SLOTS: usize = 3;
/// "Try again later" (CNI specification, "Error").
const LATER: Option<u64> = Some(11);
/// Enough for two retransmissions of a SYN on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(200);

/// A pod as its runtime knows it.
pub(crate) struct Pod {
    pub(crate) container: String,
    pub(crate) name: String,
    /// Its server ends before its namespace does, which it would keep alive.
    pub(crate) server: Option<Server>,
    pub(crate) netns: Netns,
    pub(crate) result: Value,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) host_port: Option<u16>,
    pub(crate) is_limited: bool,
}

impl Pod {
    pub(crate) fn new(container: String, name: String, netns: Netns) -> Self {
        Self {
            container,
            name,
            server: None,
            netns,
            result: Value::Null,
            addresses: Vec::new(),
            host_port: None,
            is_limited: false,
        }
    }

    /// Takes what an ADD gave.
    pub(crate) fn take(&mut self, result: Value) {
        self.addresses = addresses(&result);
        self.result = result;
    }

    /// The name of its host end.
    pub(crate) fn host_end(&self) -> &str {
        self.result["interfaces"][0]["name"].as_str().unwrap()
    }

    fn runtime_config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        if let Some(port) = self.host_port {
            let mapping = json!([{"hostPort": port, "containerPort": 8080, "protocol": "tcp"}]);
            config.insert("portMappings".to_owned(), mapping);
        }
        if self.is_limited {
            let limits = json!({"ingressRate": 100_000_000, "ingressBurst": 10_000_000,
                "egressRate": 100_000_000, "egressBurst": 10_000_000});
            config.insert("bandwidth".to_owned(), limits);
        }
        config
    }
}

/// A call about a pod, as its runtime makes it.
pub(crate) fn call(command: &'static str, pod: &Pod) -> Call {
    let mut fields = Map::new();
    fields.insert("runtimeConfig".to_owned(), pod.runtime_config().into());
    if command != "ADD" && !pod.result.is_null() {
        fields.insert("prevResult".to_owned(), pod.result.clone());
    }
    Call {
        command,
        container_id: pod.container.clone(),
        netns: pod.netns.path().to_string_lossy().into_owned(),
        pod: ("chaos".to_owned(), pod.name.clone()),
        fields,
    }
}

/// What all workers share.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) node: &'a Netns,
    pub(crate) outside: &'a Netns,
    pub(crate) runtime: &'a Runtime,
    pub(crate) ledger: &'a Ledger,
    /// The fort and the open one.
    pub(crate) fixed: &'a [Pod],
}

/// One worker.
pub(crate) struct Worker<'a> {
    number: usize,
    random: Random,
    containers: usize,
    world: World<'a>,
    slots: [Option<Pod>; SLOTS],
}

impl<'a> Worker<'a> {
    pub(crate) fn new(number: usize, seed: u64, world: World<'a>) -> Self {
        let random = Random::new(seed.wrapping_add(u64::try_from(number).unwrap() + 1));
        Self {
            number,
            random,
            containers: 0,
            world,
            slots: [const { None }; SLOTS],
        }
    }

    /// Works until the time is up.
    pub(crate) fn work(&mut self, end: Instant) {
        while Instant::now() < end {
            let slot = self.random.below(SLOTS);
            if self.random.chance(2) {
                self.collect(false);
                continue;
            }
            let guard = self.world.ledger.requests.read().unwrap();
            match self.slots[slot].take() {
                None => self.begin(slot),
                Some(pod) => self.go_on(slot, pod),
            }
            drop(guard);
        }
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &Pod> {
        self.slots.iter().flatten()
    }

    /// CHECK of every pod, with an agent that is there.
    pub(crate) fn check_all(&mut self) {
        for pod in self.slots.iter().flatten() {
            let checked = self
                .world
                .runtime
                .call(self.world.node, &call("CHECK", pod))
                .unwrap();
            assert!(
                checked.is_success,
                "CHECK of {}: {checked:?}",
                pod.container
            );
        }
    }

    pub(crate) fn delete_all(&mut self) {
        for slot in 0..SLOTS {
            if let Some(pod) = self.slots[slot].take() {
                self.delete(pod);
            }
        }
    }

    /// GC with the exact list of all workers' pods, while no other request runs.
    pub(crate) fn collect(&mut self, must: bool) {
        let _guard = self.world.ledger.requests.write().unwrap();
        let fixed = self.world.fixed.iter().map(|pod| pod.container.clone());
        let valid: Vec<Value> = fixed
            .chain(self.world.ledger.living())
            .map(|container| json!({"containerID": container, "ifname": "eth0"}))
            .collect();
        let mut all = call("GC", &self.world.fixed[0]);
        all.fields = Map::from_iter([("cni.dev/valid-attachments".to_owned(), valid.into())]);
        let answer = self.world.runtime.call(self.world.node, &all).unwrap();
        assert!(
            answer.is_success || (!must && answer.code() == LATER),
            "GC: {answer:?}"
        );
        if answer.is_success {
            self.world.ledger.count("collected");
        }
    }

    /// An empty slot gets a pod, or nearly.
    fn begin(&mut self, slot: usize) {
        self.containers += 1;
        let container = format!(
            "c{}-{slot}-{}-{}",
            self.number,
            self.containers,
            std::process::id()
        );
        let name = format!("w{}-{slot}", self.number);
        let netns = Netns::new("chs", &name).unwrap();
        let mut pod = Pod::new(container, name, netns);
        let port = 20_000 + self.number * 100 + slot;
        pod.host_port = self.random.chance(25).then(|| u16::try_from(port).unwrap());
        pod.is_limited = self.random.chance(25);
        match self.random.below(100) {
            0..60 => self.add(slot, pod),
            60..80 => self.add_killed(slot, pod),
            80..95 => self.add_twice_at_once(slot, pod),
            // Of a container that was never attached.
            _ => self.delete(pod),
        }
    }

    /// Something happens to a pod that lives.
    fn go_on(&mut self, slot: usize, pod: Pod) {
        match self.random.below(100) {
            0..40 => {
                self.probe(slot, &pod);
                self.slots[slot] = Some(pod);
            }
            40..47 => self.add_again(slot, pod),
            47..60 => self.check(slot, pod),
            60..70 => self.delete(pod),
            70..76 => self.delete_without_namespace(pod),
            76..84 => self.delete_after_namespace(pod),
            84..92 => self.delete_killed(pod),
            92..95 => self.at_once(pod, ["ADD", "DEL"]),
            95..98 => self.at_once(pod, ["DEL", "DEL"]),
            _ => self.forget(pod),
        }
    }

    fn ask(&self, command: &'static str, pod: &Pod) -> Answer {
        self.world
            .runtime
            .call(self.world.node, &call(command, pod))
            .unwrap()
    }

    fn add(&mut self, slot: usize, pod: Pod) {
        let answer = self.ask("ADD", &pod);
        self.added(slot, pod, answer);
    }

    /// Takes the answer of an ADD: the pod lives, or its runtime takes it down.
    fn added(&mut self, slot: usize, mut pod: Pod, answer: Answer) {
        if !answer.is_success {
            assert_eq!(answer.code(), LATER, "ADD of {}: {answer:?}", pod.container);
            self.world.ledger.count("ADD while the agent was away");
            return self.delete(pod);
        }
        let had = pod.addresses.clone();
        pod.take(answer.output);
        assert!(
            had.is_empty() || had == pod.addresses,
            "{had:?} became {:?}",
            pod.addresses
        );
        self.world.ledger.hold(&pod.container, &pod.addresses);
        self.world.ledger.count("added");
        if pod.server.is_none() {
            pod.server = Some(Server::start(&pod.netns).unwrap());
        }
        self.probe(slot, &pod);
        self.slots[slot] = Some(pod);
    }

    fn add_again(&mut self, slot: usize, pod: Pod) {
        let answer = self.ask("ADD", &pod);
        self.world.ledger.count("added again");
        self.added(slot, pod, answer);
    }

    /// Starts a call and kills the plugin at some instant.
    fn cut(&mut self, command: &'static str, pod: &Pod) {
        let running = self
            .world
            .runtime
            .start(self.world.node, &call(command, pod))
            .unwrap();
        let instant = u64::try_from(self.random.below(25_000)).unwrap();
        std::thread::sleep(Duration::from_micros(instant));
        if running.kill().unwrap() {
            self.world.ledger.count("plugin killed");
        }
    }

    fn add_killed(&mut self, slot: usize, pod: Pod) {
        self.cut("ADD", &pod);
        if self.random.chance(50) {
            // A runtime that was killed with it and does not know.
            return self.add(slot, pod);
        }
        self.delete(pod);
    }

    fn add_twice_at_once(&mut self, slot: usize, mut pod: Pod) {
        self.world.ledger.count("two at once");
        let both = [(); 2].map(|()| {
            self.world
                .runtime
                .start(self.world.node, &call("ADD", &pod))
                .unwrap()
        });
        let [one, two] = both.map(|running| running.finish().unwrap());
        if one.is_success && two.is_success {
            pod.addresses = addresses(&one.output);
            return self.added(slot, pod, two);
        }
        let failed = if one.is_success { two } else { one };
        self.added(slot, pod, failed);
    }

    /// Two requests for a pod that lives, of which it must not survive.
    fn at_once(&mut self, pod: Pod, commands: [&'static str; 2]) {
        self.world.ledger.count("two at once");
        self.world.ledger.free(&pod.container);
        let both = commands.map(|command| {
            (
                command,
                self.world
                    .runtime
                    .start(self.world.node, &call(command, &pod))
                    .unwrap(),
            )
        });
        for (command, running) in both {
            let answer = running.finish().unwrap();
            let may_fail = command == "ADD" && answer.code() == LATER;
            assert!(
                answer.is_success || may_fail,
                "{command} of {}: {answer:?}",
                pod.container
            );
        }
        self.delete(pod);
    }

    fn check(&mut self, slot: usize, pod: Pod) {
        let answer = self.ask("CHECK", &pod);
        assert!(
            answer.is_success || answer.code() == LATER,
            "CHECK of {}: {answer:?}",
            pod.container
        );
        if answer.is_success {
            self.world.ledger.count("checked");
        }
        self.slots[slot] = Some(pod);
    }

    /// A DEL that is let run to its end succeeds, whatever there is and whoever is there.
    fn delete(&mut self, pod: Pod) {
        self.delete_by(&pod, call("DEL", &pod));
    }

    fn delete_by(&mut self, pod: &Pod, del: Call) {
        self.world.ledger.free(&pod.container);
        for _ in 0..=usize::from(self.random.chance(20)) {
            let answer = self.world.runtime.call(self.world.node, &del).unwrap();
            assert!(answer.is_success, "DEL of {}: {answer:?}", pod.container);
            self.world.ledger.count("deleted");
        }
    }

    fn delete_without_namespace(&mut self, pod: Pod) {
        let mut del = call("DEL", &pod);
        del.netns.clear();
        self.delete_by(&pod, del);
    }

    fn delete_after_namespace(&mut self, mut pod: Pod) {
        self.world.ledger.free(&pod.container);
        pod.server = None;
        tests::netns::remove(pod.netns.name()).unwrap();
        self.world.ledger.count("namespace gone before DEL");
        self.delete(pod);
    }

    fn delete_killed(&mut self, pod: Pod) {
        self.world.ledger.free(&pod.container);
        self.cut("DEL", &pod);
        self.delete(pod);
    }

    /// The runtime loses a pod: GC is to find it.
    fn forget(&mut self, pod: Pod) {
        self.world.ledger.free(&pod.container);
        self.world.ledger.count("forgotten");
        drop(pod);
    }

    /// Who may enter the fort does, who may not does not; anybody reaches the open pod and is reached by its host port.
    fn probe(&mut self, slot: usize, pod: &Pod) {
        let is_ipv6 = self.random.chance(50);
        let address = |of: &Pod| {
            *of.addresses
                .iter()
                .find(|ip| ip.is_ipv6() == is_ipv6)
                .unwrap()
        };
        let (fort, open) = (
            server_at(address(&self.world.fixed[0])),
            server_at(address(&self.world.fixed[1])),
        );
        let may_enter = slot.is_multiple_of(2);
        let roll = self.random.below(100);
        let (from, to, is_allowed) = match roll {
            0..50 => (&pod.netns, fort, may_enter),
            50..70 => (&pod.netns, open, true),
            70..80 => (self.world.node, server_at(address(pod)), true),
            _ => match pod.host_port {
                Some(port) => (
                    self.world.outside,
                    SocketAddr::new("192.0.2.1".parse().unwrap(), port),
                    true,
                ),
                None => (&self.world.fixed[1].netns, server_at(address(pod)), true),
            },
        };
        let patience = if is_allowed { PATIENCE } else { SILENCE };
        let verdict = attempt(from, to, Transport::Tcp, patience).unwrap();
        let told = || {
            format!(
                "{} ({:?}): {} to {to}",
                pod.container,
                pod.addresses,
                from.name()
            )
        };
        if is_allowed {
            assert_eq!(verdict, Verdict::Answered, "{}", told());
            self.world.ledger.count("reached");
        } else {
            assert_ne!(verdict, Verdict::Answered, "{}", told());
            self.world.ledger.count("denied");
        }
    }
}
