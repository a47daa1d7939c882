//! Chains of plugins, driven by the reference implementation's cnitool: ours alone, first, last, and with IPAM plugins.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::cni::{Answer, addresses};
use tests::cnitool::CniTool;
use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(10);

/// A node, a pod's namespace, and cnitool.
struct Stage {
    one: OneNode,
    pod: Netns,
    tool: CniTool,
    network: String,
    before: Snapshot,
}

impl Stage {
    fn new(tag: &str, version: &str, plugins: &[Value]) -> Self {
        let one = OneNode::start(tag, "", &[]).unwrap();
        let pod = Netns::new(tag, "pod").unwrap();
        let tool = CniTool::new(one.folder()).unwrap();
        let ours = json!({
            "type": "portolan-cni", "socket": one.agent.cni_socket(), "stateDir": one.folder().join("node1/state"),
        });
        let whole = |plugin: &Value| match plugin["type"].as_str() {
            None => {
                let mut plugin = plugin.clone();
                let fields = plugin.as_object_mut().unwrap();
                fields.extend(ours.as_object().unwrap().clone());
                plugin
            }
            Some(_) => plugin.clone(),
        };
        let plugins: Vec<Value> = plugins.iter().map(whole).collect();
        let network = format!("net-{tag}");
        tool.network(&network, version, &plugins).unwrap();
        let before = Snapshot::of(&one.node);
        Self {
            one,
            pod,
            tool,
            network,
            before,
        }
    }

    fn call(&self, verb: &str) -> Answer {
        self.tool
            .call(verb, &self.one.node, &self.network, &self.pod)
            .unwrap()
    }

    fn ok(&self, verb: &str) -> Value {
        let answer = self.call(verb);
        assert!(
            answer.is_success,
            "{verb}: {answer:?}\n{}",
            self.one.agent.log_end()
        );
        answer.output
    }

    fn fails(&self, verb: &str, text: &str) {
        let answer = self.call(verb);
        assert!(!answer.is_success, "{verb} went well: {answer:?}");
        assert!(answer.said.contains(text), "{verb}: {}", answer.said);
    }

    /// Takes the pod away; what is left on the node must be what was before.
    fn end(&self) {
        self.ok("del");
        self.ok("del");
        self.clean();
    }

    fn clean(&self) {
        eventually(PATIENCE, "the node to be as before", || {
            let difference = self.before.difference(&Snapshot::of(&self.one.node));
            // The reference plugins leave the chains that all containers share; a container's own have its name or address.
            let shared = |line: &&str| {
                let own = ["CNI-DN-", "10.244.", "fd00:244:"];
                line.contains("CNI-") && !own.iter().any(|text| line.contains(text))
            };
            let left: Vec<&str> = difference.lines().filter(|line| !shared(line)).collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(left.join("\n"))
            }
        })
        .unwrap();
        assert!(!self.pod.ip("-o link show").unwrap().contains("eth0"));
    }

    /// Whether the pod's server answers a host outside that asks for `to`.
    fn answers(&self, to: &str, transport: Transport) {
        let verdict = attempt(&self.one.outside, to.parse().unwrap(), transport, PATIENCE);
        assert_eq!(verdict.unwrap(), Verdict::Answered, "{to} by {transport}");
    }
}

/// Stands for ours in a list of plugins.
fn ours() -> Value {
    json!({})
}

#[test]
fn semantics_116_libcni_drives_every_verb_in_each_version_that_has_it() {
    require_root!();
    for (tag, version) in [
        ("v03", "0.3.1"),
        ("v04", "0.4.0"),
        ("v10", "1.0.0"),
        ("v11", "1.1.0"),
    ] {
        let stage = Stage::new(tag, version, &[ours()]);
        let result = stage.ok("add");
        assert_eq!(result["cniVersion"], version);
        assert_eq!(addresses(&result).len(), 2, "{result}");
        if version >= "0.4.0" {
            stage.ok("check");
        }
        if version >= "1.1.0" {
            stage.ok("status");
        }
        stage.end();
    }
}

#[test]
fn semantics_98_cnitool_gc_deletes_what_is_cached_and_ours_collects_by_a_list_alone() {
    require_root!();
    let stage = Stage::new("gct", "1.1.0", &[ours()]);
    stage.ok("add");
    // It has no list to give: libcni deletes what it has cached, and ours refuses to guess about the rest.
    stage.fails("gc", "cni.dev/valid-attachments is missing");
    stage.clean();
    // Nothing is cached of an attachment whose record was lost: with a list, ours collects it.
    let stage = Stage::new("gcl", "1.1.0", &[json!({"cni.dev/valid-attachments": []})]);
    stage.ok("add");
    std::fs::remove_dir_all(stage.one.folder().join("cni-cache/results")).unwrap();
    stage.ok("gc");
    stage.clean();
}

#[test]
fn ours_first_everything_behind_it_works_and_is_taken_down() {
    require_root!();
    let mut stage = Stage::new(
        "fst",
        "1.0.0",
        &[
            ours(),
            json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}),
            json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
            json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "517"}}),
            json!({"type": "firewall", "backend": "iptables"}),
        ],
    );
    stage.tool.set_capabilities(json!({
        "portMappings": [
            {"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"},
            {"hostPort": 18080, "containerPort": 8080, "protocol": "udp"},
        ],
        "bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 80_000_000, "egressBurst": 8_000_000},
    }));
    let result = stage.ok("add");
    let _server = Server::start(&stage.pod).unwrap();
    for address in addresses(&result) {
        stage.answers(&server_at(address).to_string(), Transport::Tcp);
    }
    for transport in [Transport::Tcp, Transport::Udp] {
        stage.answers("192.0.2.1:18080", transport);
    }
    let somaxconn = stage
        .pod
        .run("cat", &["/proc/sys/net/core/somaxconn"])
        .unwrap();
    assert_eq!(somaxconn.trim(), "517");
    // The plugin for bandwidth took our host end for the container's, which the result's interfaces say.
    let host_end = result["interfaces"][0]["name"].as_str().unwrap();
    let shaped = stage
        .one
        .node
        .run("tc", &["qdisc", "show", "dev", host_end])
        .unwrap();
    assert!(
        shaped.contains("tbf") && shaped.contains("ingress"),
        "{shaped}"
    );
    stage.end();
}

#[test]
fn semantics_97_check_allows_what_later_plugins_changed_and_sees_what_is_missing() {
    require_root!();
    // Not portmap: its own CHECK of 1.1.1 looks for IPv4 rules in the IPv6 table.
    for (tag, version) in [("chk4", "0.4.0"), ("chk1", "1.0.0")] {
        let stage = Stage::new(
            tag,
            version,
            &[
                ours(),
                json!({"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 8_000_000}),
                json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "517"}, "promisc": true}),
                json!({"type": "firewall", "backend": "iptables"}),
            ],
        );
        let result = stage.ok("add");
        stage.ok("check");
        let own = addresses(&result)[0];
        stage
            .pod
            .ip(&format!("addr del {own}/32 dev eth0"))
            .unwrap();
        stage.fails("check", &own.to_string());
        stage.end();
    }
}

#[test]
fn ours_last_passes_the_others_results_through_and_adds_its_own() {
    require_root!();
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    let tuning = json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "517"}});
    let firewall = json!({"type": "firewall", "backend": "iptables"});
    // Of 1.1.1, the firewall plugin knows 0.4.0 and later; its CHECK misses rules for what came after it, and
    // bandwidth's panics without limits.
    for (tag, version, before, is_checked) in [
        ("lst3", "0.3.1", vec![&portmap, &bandwidth, &tuning], false),
        (
            "lst4",
            "0.4.0",
            vec![&portmap, &bandwidth, &tuning, &firewall],
            false,
        ),
        ("lst1", "1.0.0", vec![&portmap, &tuning], true),
    ] {
        let mut plugins = vec![json!({"type": "loopback"})];
        plugins.extend(before.into_iter().cloned());
        plugins.push(ours());
        let stage = Stage::new(tag, version, &plugins);
        let result = stage.ok("add");
        let names: Vec<&str> = result["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(names[0], "lo", "{result}");
        assert!(
            names[1].starts_with("ptl") && names[2] == "eth0",
            "{result}"
        );
        let of_eth0 = |ip: &&Value| ip["interface"] == 2;
        let ips = result["ips"].as_array().unwrap();
        assert!(
            ips.len() > 2,
            "loopback's addresses are passed through: {result}"
        );
        assert_eq!(ips.iter().filter(of_eth0).count(), 2, "{result}");
        let _server = Server::start(&stage.pod).unwrap();
        let own = ips.iter().find(of_eth0).unwrap()["address"]
            .as_str()
            .unwrap();
        let own: IpAddr = own.split('/').next().unwrap().parse().unwrap();
        stage.answers(&server_at(own).to_string(), Transport::Tcp);
        if is_checked {
            stage.ok("check");
            stage
                .pod
                .ip(&format!("addr del {own}/32 dev eth0"))
                .unwrap();
            stage.fails("check", &own.to_string());
        }
        stage.end();
    }
}

#[test]
fn semantics_92_behind_a_plugin_that_made_the_interface_ours_refuses_and_leaves_it_alone() {
    require_root!();
    let stage = Stage::new(
        "brg",
        "1.0.0",
        &[
            json!({"type": "bridge", "bridge": "br-test", "ipam": {
                "type": "host-local", "subnet": "10.88.0.0/24", "dataDir": "/run/ptl-cni-chain-brg",
            }}),
            ours(),
        ],
    );
    stage.fails(
        "add",
        "eth0 is in the container's network namespace already",
    );
    let links = stage.pod.ip("-o addr show dev eth0").unwrap();
    assert!(links.contains("10.88.0."), "{links}");
    assert!(!stage.one.node.ip("-o link show").unwrap().contains(": ptl"));
    stage.ok("del");
    std::fs::remove_dir_all("/run/ptl-cni-chain-brg").unwrap();
}
