//! Every verb, version and error code of CNI: the real binary and a real agent, called as a runtime calls them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::agent::binaries;
use tests::cni::{self, Answer, addresses};
use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::require_root;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(10);
const ALL: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A node with an agent, and the plugin.
struct Stage {
    one: OneNode,
    program: PathBuf,
    before: Snapshot,
}

impl Stage {
    fn new(tag: &str) -> Self {
        let one = OneNode::start(tag, "", &[]).unwrap();
        let before = Snapshot::of(&one.node);
        let program = binaries().unwrap().join("portolan-cni");
        Self {
            one,
            program,
            before,
        }
    }

    fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version, "name": "portolan", "type": "portolan-cni",
            "socket": self.one.agent.cni_socket(), "stateDir": self.one.folder().join("node1/state"),
        })
    }

    fn run(&self, variables: &[(&str, &str)], config: &str) -> Answer {
        cni::run(&self.program, &self.one.node, variables, config).unwrap()
    }

    fn call(&self, verb: &str, id: &str, netns: &str, config: &Value) -> Answer {
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/nowhere"),
        ];
        self.run(&variables, &config.to_string())
    }

    /// Attaches a container in a namespace.
    fn add(&self, id: &str, pod: &Netns, version: &str) -> Value {
        let answer = self.call("ADD", id, &path(pod), &self.config(version));
        assert!(
            answer.is_success,
            "{answer:?}\n{}",
            self.one.agent.log_end()
        );
        answer.output
    }

    fn ok(&self, verb: &str, id: &str, netns: &str, config: &Value) {
        let answer = self.call(verb, id, netns, config);
        assert!(
            answer.is_success && answer.output.is_null(),
            "{verb}: {answer:?}"
        );
    }

    fn code(&self, verb: &str, id: &str, netns: &str, config: &Value) -> u64 {
        let answer = self.call(verb, id, netns, config);
        assert!(!answer.is_success, "{verb} went well");
        answer.code().unwrap()
    }

    /// Whether nothing of any attachment is left: on the node, and of its addresses.
    fn is_clean(&self, addresses: &[IpAddr]) {
        eventually(PATIENCE, "the node to be as before", || {
            let difference = self.before.difference(&Snapshot::of(&self.one.node));
            if difference.is_empty() {
                Ok(())
            } else {
                Err(difference)
            }
        })
        .unwrap();
        // A fixed address is given only where nobody holds it.
        let pod = Netns::new("free", "pod").unwrap();
        let mut config = self.config("1.0.0");
        config["runtimeConfig"] = json!({"ips": addresses});
        let answer = self.call("ADD", "again", &path(&pod), &config);
        assert!(answer.is_success, "an address is still held: {answer:?}");
        self.ok("DEL", "again", "", &self.config("1.0.0"));
    }
}

fn path(pod: &Netns) -> String {
    pod.path().to_string_lossy().into_owned()
}

#[test]
fn semantics_87_90_101_version_and_no_verb_need_neither_configuration_nor_agent() {
    require_root!();
    let mut stage = Stage::new("vrb");
    stage.one.agent.kill().unwrap();
    let versions = stage.run(&[("CNI_COMMAND", "VERSION")], "no json").output;
    assert_eq!(
        versions,
        json!({"cniVersion": "1.1.0", "supportedVersions": ALL})
    );
    let none = stage.run(&[("CNI_COMMAND", "")], "");
    assert!(none.is_success && none.output.is_null() && none.said.contains("1.1.0"));
    let unknown = stage.run(&[("CNI_COMMAND", "MOVE")], "{}");
    assert_eq!((unknown.is_success, unknown.code()), (false, Some(4)));
}

#[test]
fn semantics_88_89_91_what_is_wrong_with_a_call_is_said_by_code_on_standard_output() {
    require_root!();
    let stage = Stage::new("cod");
    let config = stage.config("1.0.0");
    for (verb, missing) in [
        ("ADD", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"),
        ("CHECK", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"),
        ("DEL", "CNI_CONTAINERID, CNI_IFNAME, CNI_PATH"),
        ("GC", "CNI_PATH"),
        ("STATUS", "CNI_PATH"),
    ] {
        let answer = stage.run(&[("CNI_COMMAND", verb)], &config.to_string());
        assert_eq!(answer.code(), Some(4), "{answer:?}");
        assert!(
            answer.output["details"]
                .as_str()
                .unwrap()
                .ends_with(missing),
            "{answer:?}"
        );
    }
    let (pod, with) = (
        Netns::new("cod", "pod").unwrap(),
        |key: &str, value: Value| {
            let mut config = config.clone();
            config[key] = value;
            config
        },
    );
    let netns = path(&pod);
    for id in ["-a", "a/b", "a b"] {
        assert_eq!(stage.code("ADD", id, &netns, &config), 4);
    }
    let add = |config: &Value| stage.code("ADD", "c1", &netns, config);
    assert_eq!(add(&with("cniVersion", json!("1.2.0"))), 1);
    assert_eq!(add(&json!([])), 6);
    assert_eq!(add(&with("name", json!(""))), 7);
    assert_eq!(add(&with("name", json!("a/b"))), 7);
    assert_eq!(add(&with("runtimeConfig", json!({"mac": "x"}))), 7);
    assert_eq!(
        add(&with(
            "prevResult",
            json!({"cniVersion": "1.0.0", "ips": 1})
        )),
        6
    );
    let host = format!("/run/netns/{}", stage.one.node.name());
    for netns in ["/run/netns/ptl-nobody", "/proc/self/status", &host] {
        assert_eq!(stage.code("ADD", "c1", netns, &config), 8, "{netns}");
    }
    // Nothing was made on the way.
    assert_eq!(stage.before.difference(&Snapshot::of(&stage.one.node)), "");
    assert!(!pod.ip("-o link show").unwrap().contains("eth0"));
}

#[test]
fn semantics_90_92_106_107_110_add_answers_in_each_version_and_the_pod_has_what_it_says() {
    require_root!();
    let stage = Stage::new("add");
    for version in ALL {
        let pod = Netns::new("add", "pod").unwrap();
        let result = stage.add("c1", &pod, version);
        assert_eq!(result["cniVersion"], version);
        let inside = pod.ip("-o addr show dev eth0").unwrap();
        if version < "0.3.0" {
            for key in ["ip4", "ip6"] {
                let ip = result[key]["ip"].as_str().unwrap();
                assert!(inside.contains(ip.split('/').next().unwrap()), "{inside}");
                assert!(
                    result[key]["routes"][0]["dst"]
                        .as_str()
                        .unwrap()
                        .ends_with("/0")
                );
            }
            assert_eq!(result.get("interfaces"), None);
        } else {
            let of = |ip: &Value| ip["interface"].as_u64().unwrap();
            let bearer = of(&result["ips"][0]);
            assert_eq!(of(&result["ips"][1]), bearer);
            // A runtime takes the pod's addresses from the interface that this is.
            let eth0 = &result["interfaces"][usize::try_from(bearer).unwrap()];
            assert_eq!(
                (&eth0["name"], &eth0["sandbox"]),
                (&json!("eth0"), &json!(path(&pod)))
            );
            assert_eq!(eth0.get("mtu").is_some(), version >= "1.1.0", "{result}");
            let family = result["ips"][0].get("version");
            assert_eq!(family.is_some(), version < "1.0.0");
            assert!(
                addresses(&result)
                    .iter()
                    .all(|ip| inside.contains(&ip.to_string()))
            );
        }
        stage.ok("DEL", "c1", &path(&pod), &stage.config(version));
    }
    // No version means the first.
    let pod = Netns::new("add", "pod").unwrap();
    let mut config = stage.config("0.1.0");
    config.as_object_mut().unwrap().remove("cniVersion");
    let result = stage.call("ADD", "c1", &path(&pod), &config);
    assert_eq!(result.output["cniVersion"], "0.1.0", "{result:?}");
    stage.ok("DEL", "c1", "", &config);
    stage.is_clean(&[]);
}

#[test]
fn semantics_92_93_add_refuses_an_interface_of_others_and_leaks_nothing_when_repeated() {
    require_root!();
    let stage = Stage::new("dup");
    let (pod, config) = (Netns::new("dup", "pod").unwrap(), stage.config("1.0.0"));
    pod.ip("link add eth0 type veth peer name other").unwrap();
    assert!(stage.code("ADD", "c1", &path(&pod), &config) >= 100);
    assert!(
        pod.ip("-o link show").unwrap().contains("eth0@other"),
        "it was another's"
    );
    pod.ip("link del eth0").unwrap();
    let first = addresses(&stage.add("c1", &pod, "1.0.0"));
    // Another container in the same namespace finds the interface there.
    assert!(stage.code("ADD", "c2", &path(&pod), &config) >= 100);
    // The same one once more, as a runtime does after it was killed: nothing further is taken.
    let again = stage.call("ADD", "c1", &path(&pod), &config);
    if again.is_success {
        assert_eq!(addresses(&again.output), first);
    }
    stage.ok("DEL", "c1", &path(&pod), &config);
    stage.is_clean(&first);
}

#[test]
fn semantics_95_96_del_is_success_whatever_is_gone_and_frees_what_was_held() {
    require_root!();
    let mut stage = Stage::new("del");
    let config = stage.config("1.0.0");
    for netns in ["", "/run/netns/ptl-nobody", "/proc/self/status"] {
        stage.ok("DEL", "never-added", netns, &config);
    }
    // The namespace is gone, and so is the link with it.
    let pod = Netns::new("del", "pod").unwrap();
    let (netns, held) = (path(&pod), addresses(&stage.add("c1", &pod, "1.0.0")));
    drop(pod);
    stage.ok("DEL", "c1", &netns, &config);
    stage.ok("DEL", "c1", "", &config);
    stage.is_clean(&held);
    // A reboot: links and the run folder are gone, the state folder is not.
    let pod = Netns::new("del", "pod").unwrap();
    let held = addresses(&stage.add("c2", &pod, "1.0.0"));
    stage.one.agent.kill().unwrap();
    drop(pod);
    std::fs::remove_dir_all(stage.one.agent.run_dir()).unwrap();
    std::fs::create_dir(stage.one.agent.run_dir()).unwrap();
    // While nobody is there it is written down; who comes back carries it out.
    stage.ok("DEL", "c2", "", &config);
    assert_eq!(stage.code("ADD", "c3", "/proc/self/ns/net", &config), 8);
    stage.one.agent.start(&stage.one.node).unwrap();
    stage.one.agent.wait_synced().unwrap();
    let pending = stage.one.folder().join("node1/state/pending-del");
    eventually(PATIENCE, "the deletion to be carried out", || {
        let left = std::fs::read_dir(&pending).map_or(0, Iterator::count);
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} left"))
        }
    })
    .unwrap();
    stage.is_clean(&held);
}

#[test]
fn semantics_97_check_needs_its_version_and_the_result_and_compares() {
    require_root!();
    let stage = Stage::new("chk");
    let pod = Netns::new("chk", "pod").unwrap();
    let netns = path(&pod);
    let result = stage.add("c1", &pod, "0.4.0");
    let with = |version: &str, previous: &Value| {
        let mut config = stage.config(version);
        config["prevResult"] = previous.clone();
        config
    };
    assert_eq!(
        stage.code("CHECK", "c1", &netns, &with("0.3.1", &result)),
        1
    );
    assert_eq!(stage.code("CHECK", "c1", &netns, &stage.config("0.4.0")), 7);
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        stage.ok("CHECK", "c1", &netns, &with(version, &result));
    }
    let mut other = result.clone();
    other["ips"][0]["address"] = json!("10.244.1.250/32");
    assert!(stage.code("CHECK", "c1", &netns, &with("1.0.0", &other)) >= 100);
    for harm in [
        "route del default",
        "-6 route del default",
        "link set eth0 down",
    ] {
        pod.ip(harm).unwrap();
        assert!(
            stage.code("CHECK", "c1", &netns, &with("1.0.0", &result)) >= 100,
            "{harm}"
        );
    }
    stage.ok("DEL", "c1", &netns, &with("1.0.0", &result));
    assert_eq!(
        stage.code("CHECK", "c1", &netns, &with("1.0.0", &result)),
        3
    );
}

#[test]
fn semantics_98_gc_keeps_exactly_what_is_named() {
    require_root!();
    let stage = Stage::new("gcs");
    let pods: Vec<Netns> = (0..3).map(|_| Netns::new("gcs", "pod").unwrap()).collect();
    let held: Vec<Vec<IpAddr>> = (0..3)
        .map(|n| addresses(&stage.add(&format!("c{n}"), &pods[n], "1.1.0")))
        .collect();
    let links = || {
        let links = stage.one.node.ip("-o link show").unwrap();
        links.lines().filter(|line| line.contains(": ptl")).count()
    };
    let gc = |list: Value| {
        let mut config = stage.config("1.1.0");
        config["cni.dev/valid-attachments"] = list;
        config
    };
    assert_eq!(stage.code("GC", "", "", &stage.config("1.0.0")), 1);
    assert_eq!(stage.code("GC", "", "", &stage.config("1.1.0")), 7);
    assert_eq!(links(), 3, "GC without a list takes nothing");
    stage.ok("GC", "", "", &gc(json!([
        {"containerID": "c0", "ifname": "eth0"}, {"containerID": "c1", "ifname": "eth1"}, {"containerID": "c2", "ifname": "eth0"},
    ])));
    assert_eq!(links(), 2);
    stage.ok("GC", "", "", &gc(json!([])));
    assert_eq!(links(), 0);
    // What GC has taken, DEL takes without a word.
    stage.ok("DEL", "c0", &path(&pods[0]), &stage.config("1.1.0"));
    stage.is_clean(&held[1]);
}

#[test]
fn semantics_99_adds_and_dels_of_different_containers_run_at_once() {
    require_root!();
    let stage = Stage::new("par");
    let pods: Vec<Netns> = (0..12).map(|_| Netns::new("par", "pod").unwrap()).collect();
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let given: Vec<Vec<IpAddr>> = std::thread::scope(|scope| {
            let stage = &stage;
            let add = |(n, pod)| {
                scope.spawn(move || addresses(&stage.add(&format!("c{n}"), pod, "1.0.0")))
            };
            let threads: Vec<_> = pods.iter().enumerate().map(add).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let unique: BTreeSet<&IpAddr> = given.iter().flatten().collect();
        assert_eq!(unique.len(), 24, "{given:?}");
        seen.extend(given.into_iter().flatten());
        std::thread::scope(|scope| {
            for n in 0..pods.len() {
                let stage = &stage;
                scope.spawn(move || stage.ok("DEL", &format!("c{n}"), "", &stage.config("1.0.0")));
            }
        });
    }
    let one = seen.iter().copied().find(IpAddr::is_ipv4).unwrap();
    stage.is_clean(&[one]);
}

#[test]
fn semantics_100_status_says_at_once_whether_an_add_would_work() {
    require_root!();
    let mut stage = Stage::new("sts");
    let config = stage.config("1.1.0");
    assert_eq!(stage.code("STATUS", "", "", &stage.config("1.0.0")), 1);
    stage.ok("STATUS", "", "", &config);
    stage.one.agent.kill().unwrap();
    let started = Instant::now();
    assert_eq!(stage.code("STATUS", "", "", &config), 50);
    assert!(started.elapsed() < Duration::from_secs(2));
    let mut gc = config;
    gc["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(stage.code("GC", "", "", &gc), 11);
}
