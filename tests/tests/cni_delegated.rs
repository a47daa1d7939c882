//! Addresses of other IPAM plugins: the reference ones, and one that leases from a daemon that comes and goes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::binaries;
use tests::cni::{self, Answer, addresses};
use tests::cnitool::REFERENCE_PLUGINS;
use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(10);

/// Leases addresses of a daemon, which is there while the file `daemon` is: one file a lease, named by its address.
const LEASING: &str = r#"#!/bin/sh
dir=$(dirname "$0")
cat > /dev/null
say() { printf '{"cniVersion":"1.1.0","code":%s,"msg":"%s"}' "$1" "$2"; exit 1; }
[ -f "$dir/daemon" ] || case $CNI_COMMAND in STATUS) say 50 "no daemon" ;; *) say 11 "no daemon" ;; esac
me="$CNI_CONTAINERID $CNI_IFNAME"
case $CNI_COMMAND in
ADD)
    for n in 2 3 4; do
        if (set -C; echo "$me" > "$dir/10.77.0.$n") 2> /dev/null; then
            echo '{"cniVersion":"1.1.0","ips":[{"address":"10.77.0.'$n'/24"}]}'
            exit 0
        fi
    done
    say 11 "no lease is free" ;;
DEL) for file in "$dir"/10.77.0.*; do [ "$(cat "$file" 2> /dev/null)" != "$me" ] || rm "$file"; done ;;
CHECK) grep -qsx "$me" "$dir"/10.77.0.* || say 120 "no lease is held" ;;
GC) rm -f "$dir"/10.77.0.* ;;
esac
"#;

struct Stage {
    one: OneNode,
    before: Snapshot,
    folder: PathBuf,
}

impl Stage {
    fn new(tag: &str) -> Self {
        let one = OneNode::start(tag, "", &[]).unwrap();
        let before = Snapshot::of(&one.node);
        let folder = one.folder().join("ipam");
        fs::create_dir(&folder).unwrap();
        let program = folder.join("leasing");
        fs::write(&program, LEASING).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            one,
            before,
            folder,
        }
    }

    fn config(&self, version: &str, ipam: &Value) -> Value {
        json!({
            "cniVersion": version, "name": "delegated", "type": "portolan-cni", "ipam": ipam,
            "socket": self.one.agent.cni_socket(), "stateDir": self.one.folder().join("node1/state"),
        })
    }

    fn call(&self, verb: &str, pod: &Netns, config: &Value) -> Answer {
        let search = format!("{}:{REFERENCE_PLUGINS}", self.folder.display());
        let netns = pod.path().to_string_lossy().into_owned();
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", pod.name()),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", &search),
        ];
        let program = binaries().unwrap().join("portolan-cni");
        cni::run(&program, &self.one.node, &variables, &config.to_string()).unwrap()
    }

    fn ok(&self, verb: &str, pod: &Netns, config: &Value) -> Value {
        let answer = self.call(verb, pod, config);
        assert!(
            answer.is_success,
            "{verb}: {answer:?}\n{}",
            self.one.agent.log_end()
        );
        answer.output
    }

    fn refused(&self, verb: &str, pod: &Netns, config: &Value) -> (Option<u64>, String) {
        let answer = self.call(verb, pod, config);
        assert!(!answer.is_success, "{verb} went well: {answer:?}");
        (answer.code(), answer.output.to_string())
    }

    fn is_clean(&self) {
        eventually(PATIENCE, "the node to be as before", || {
            let difference = self.before.difference(&Snapshot::of(&self.one.node));
            if difference.is_empty() {
                Ok(())
            } else {
                Err(difference)
            }
        })
        .unwrap();
    }

    fn answers(&self, result: &Value) {
        for address in addresses(result) {
            let verdict = attempt(&self.one.node, server_at(address), Transport::Tcp, PATIENCE);
            assert_eq!(verdict.unwrap(), Verdict::Answered, "{address}");
        }
    }
}

/// Files in a folder whose names begin as addresses do.
fn held(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with("10.") || name.starts_with("fd"))
        .collect();
    names.sort();
    names
}

#[test]
fn semantics_108_109_host_local_gives_addresses_in_each_version_it_knows() {
    require_root!();
    let stage = Stage::new("dhl");
    let data = stage.folder.join("networks");
    let ipam = json!({
        "type": "host-local", "dataDir": data,
        "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]],
        "routes": [{"dst": "10.0.0.0/8"}, {"dst": "::/0"}, {"dst": "192.0.2.0/24"}],
    });
    let store = data.join("delegated");
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let config = stage.config(version, &ipam);
        let pod = Netns::new("dhl", "pod").unwrap();
        let result = stage.ok("ADD", &pod, &config);
        let inside = pod.ip("-o addr show dev eth0").unwrap();
        let held_now = held(&store);
        assert_eq!(held_now.len(), 2, "{held_now:?}");
        for address in &held_now {
            assert!(result.to_string().contains(address.as_str()), "{result}");
        }
        // As ours always are: alone on the link, by our gateway.
        assert!(inside.contains(&format!("{}/32", held_now[0])), "{inside}");
        assert!(inside.contains("/128"), "{inside}");
        let routes = pod.ip("route show").unwrap();
        assert!(
            routes.contains("10.0.0.0/8 via 169.254.1.1") && !routes.contains("default"),
            "{routes}"
        );
        assert!(
            pod.ip("-6 route show")
                .unwrap()
                .contains("default via fe80::")
        );
        if version >= "0.3.0" {
            let _server = Server::start(&pod).unwrap();
            stage.answers(&result);
            assert_eq!(result["routes"][0]["gw"], "169.254.1.1", "{result}");
        }
        if version >= "0.4.0" {
            let mut config = config.clone();
            config["prevResult"] = result.clone();
            stage.ok("CHECK", &pod, &config);
            fs::remove_file(store.join(&held_now[0])).unwrap();
            fs::remove_file(store.join(&held_now[1])).unwrap();
            stage.refused("CHECK", &pod, &config);
        }
        stage.ok("DEL", &pod, &config);
        stage.ok("DEL", &pod, &config);
        assert_eq!(held(&store), [""; 0]);
    }
    stage.is_clean();
    // Its own versions are its own: what it says of 1.1.0 is passed on, and nothing stays.
    let pod = Netns::new("dhl", "pod").unwrap();
    let (code, text) = stage.refused("ADD", &pod, &stage.config("1.1.0", &ipam));
    assert_eq!(code, Some(1), "{text}");
    assert!(!pod.ip("-o link show").unwrap().contains("eth0"));
}

#[test]
fn semantics_108_static_addresses_and_name_servers_are_the_pods() {
    require_root!();
    let stage = Stage::new("dst");
    let config = stage.config(
        "1.0.0",
        &json!({
            "type": "static", "addresses": [{"address": "10.89.0.7/32"}],
            "dns": {"nameservers": ["10.96.0.10"], "search": ["example"]},
        }),
    );
    let (pod, other) = (
        Netns::new("dst", "pod").unwrap(),
        Netns::new("dst", "other").unwrap(),
    );
    let result = stage.ok("ADD", &pod, &config);
    assert_eq!(
        result["ips"],
        json!([{"address": "10.89.0.7/32", "gateway": "169.254.1.1", "interface": 1}])
    );
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["10.96.0.10"], "search": ["example"]})
    );
    // It gave no route, and so the pod has the default one.
    assert!(
        pod.ip("route show")
            .unwrap()
            .contains("default via 169.254.1.1")
    );
    let server = Server::start(&pod).unwrap();
    stage.answers(&result);
    // The same address twice: the first pod keeps it, and the second gets nothing.
    let (_, text) = stage.refused("ADD", &other, &config);
    assert!(text.contains("10.89.0.7"), "{text}");
    stage.answers(&result);
    drop(server);
    // Its CHECK compares the prefix length, too: an address of /24 would not be found in our result.
    let mut check = config.clone();
    check["prevResult"] = result;
    stage.ok("CHECK", &pod, &check);
    stage.ok("DEL", &pod, &config);
    stage.is_clean();
}

#[test]
fn semantics_93_108_a_leasing_plugin_whose_daemon_comes_and_goes_leaks_nothing() {
    require_root!();
    let mut stage = Stage::new("dls");
    let config = stage.config("1.1.0", &json!({"type": "leasing"}));
    let pods: Vec<Netns> = (0..4).map(|_| Netns::new("dls", "pod").unwrap()).collect();
    let code = |stage: &Stage, verb: &str, pod: &Netns| stage.refused(verb, pod, &config).0;
    assert_eq!(code(&stage, "ADD", &pods[0]), Some(11));
    assert_eq!(code(&stage, "STATUS", &pods[0]), Some(50));
    let daemon = stage.folder.join("daemon");
    fs::write(&daemon, "").unwrap();
    stage.ok("STATUS", &pods[0], &config);
    let results: Vec<Value> = pods[..3]
        .iter()
        .map(|pod| stage.ok("ADD", pod, &config))
        .collect();
    assert_eq!(held(&stage.folder), ["10.77.0.2", "10.77.0.3", "10.77.0.4"]);
    assert_eq!(code(&stage, "ADD", &pods[3]), Some(11), "no lease is free");
    // An ADD once more, of a container that has it all: its lease must not be given back under it.
    stage.refused("ADD", &pods[0], &config);
    assert_eq!(held(&stage.folder).len(), 3);
    let mut check = config.clone();
    check["prevResult"] = results[0].clone();
    stage.ok("CHECK", &pods[0], &check);
    // The daemon is away: DEL is the runtime's to repeat, but our own part is done.
    fs::remove_file(&daemon).unwrap();
    assert_eq!(code(&stage, "DEL", &pods[0]), Some(11));
    assert!(!pods[0].ip("-o link show").unwrap().contains("eth0"));
    fs::write(&daemon, "").unwrap();
    stage.ok("DEL", &pods[0], &config);
    assert_eq!(held(&stage.folder).len(), 2);
    // Our agent is away: the lease goes back at once, and the link when the agent is back; meanwhile no ADD takes one.
    stage.one.agent.kill().unwrap();
    stage.ok("DEL", &pods[1], &config);
    assert_eq!(code(&stage, "ADD", &pods[3]), Some(11));
    assert_eq!(held(&stage.folder), ["10.77.0.4"]);
    stage.one.agent.start(&stage.one.node).unwrap();
    stage.one.agent.wait_synced().unwrap();
    // The address of a pod that is deleted in between can be another's once that one is gone.
    eventually(PATIENCE, "a lease to be usable again", || {
        let answer = stage.call("ADD", &pods[3], &config);
        if answer.is_success {
            Ok(())
        } else {
            Err(answer.output.to_string())
        }
    })
    .unwrap();
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    stage.ok("GC", &pods[0], &gc);
    assert_eq!(held(&stage.folder), [""; 0]);
    stage.is_clean();
}

#[test]
fn semantics_93_what_the_reference_dhcp_plugin_says_of_a_link_that_is_not_yet_there_is_passed_on() {
    require_root!();
    let stage = Stage::new("dhc");
    // It asks on the container's link, which must be there before it and lead to a DHCP server: ours is routed.
    let socket = stage.folder.join("dhcp.sock");
    let mut daemon = stage
        .one
        .node
        .command(Path::new(REFERENCE_PLUGINS).join("dhcp"));
    daemon.args(["daemon", "-socketpath"]).arg(&socket);
    let _daemon =
        tests::process::Process::start("dhcp", daemon, &stage.folder.join("log")).unwrap();
    eventually(PATIENCE, "the daemon's socket", || fs::metadata(&socket)).unwrap();
    let config = stage.config(
        "1.0.0",
        &json!({"type": "dhcp", "daemonSocketPath": socket}),
    );
    let pod = Netns::new("dhc", "pod").unwrap();
    let (_, text) = stage.refused("ADD", &pod, &config);
    assert!(text.contains("eth0") || text.contains("link"), "{text}");
    stage.ok("DEL", &pod, &config);
    stage.is_clean();
}
