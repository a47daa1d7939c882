//! What one agent costs the API server: every request of it, counted in the audit log.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::{ControlPlane, Options, Place, Request, Scratch};
use serde_json::json;
use tests::agent::binaries;
use tests::netns::Netns;
use tests::process::Process;
use tests::rack::say;
use tests::require_root;
use tests::wait::{eventually, pause};

const AGENT: &str = "system:serviceaccount:portolan:portolan-agent";
const SOON: Duration = Duration::from_secs(120);
/// Shorter than any watch lives.
const QUIET: Duration = Duration::from_secs(60);

/// 30 s until a silent connection is asked whether it is there, 15 s for the answer, and a reader's first pauses.
const VANISHED: Duration = Duration::from_secs(60);

/// Requests by verb and resource.
type Costs = BTreeMap<(String, String), usize>;

struct Lab {
    process: Process,
    plane: ControlPlane,
    netns: Netns,
    scratch: Scratch,
}

impl Lab {
    /// A node's agent beside an API server, with the rights that we deploy.
    fn start() -> Result<Self> {
        let netns = Netns::new("cost", "n1")?;
        netns.ip("link add eth0 type veth peer name eth1")?;
        netns.ip("addr add 10.0.0.1/24 dev eth0")?;
        netns.ip("link set eth0 up")?;
        netns.ip("link set eth1 up")?;
        let plane = ControlPlane::start(Options {
            place: Place::Namespace {
                name: netns.name().to_owned(),
                address: "10.0.0.1".parse()?,
            },
            ..Options::default()
        });
        plane.install_crds();
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes");
        for name in ["namespace.yaml", "rbac.yaml"] {
            plane.apply(&std::fs::read_to_string(deploy.join(name))?);
        }
        make_node(&plane, 1);
        let scratch = Scratch::new("ptl-cost-")?;
        let mut command = netns.command(binaries()?.join("portolan"));
        command.args(["agent", "--node=n1", "--metrics=127.0.0.1:9179"]);
        for (flag, name) in [("--state-dir", "state"), ("--run-dir", "run")] {
            let dir = scratch.path().join(name);
            std::fs::create_dir(&dir)?;
            command.arg(flag).arg(dir);
        }
        let kubeconfig = plane.service_account_kubeconfig("portolan", "portolan-agent");
        command.arg("--kubeconfig").arg(kubeconfig);
        let process = cluster::start("portolan", command, &scratch.path().join("log"))?;
        Ok(Self {
            process,
            plane,
            netns,
            scratch,
        })
    }

    fn sync(&self) -> Result<String> {
        let run_dir = self.scratch.path().join("run");
        let program = binaries()?.join("portolan");
        let words = ["sync", "--timeout=10s", "--run-dir"];
        let words = [&words[..], &[run_dir.to_str().context("a path")?]].concat();
        self.netns.run(program.to_str().context("a path")?, &words)
    }

    fn asked(&self) -> Vec<Request> {
        let mut requests = self.plane.requests();
        requests.retain(|request| request.user == AGENT);
        requests
    }

    /// Waits until the agent is in sync and has asked nothing for a while, what it asks on its own aside.
    fn settle(&mut self, aside: &str) -> Result<()> {
        eventually(SOON, "the agent in sync", || {
            self.process.check_running()?;
            self.sync()
        })?;
        let mut before = usize::MAX;
        eventually(SOON, "an agent that has settled", || {
            let asked = self.asked();
            let now = asked
                .iter()
                .filter(|request| request.resource != aside)
                .count();
            let was = std::mem::replace(&mut before, now);
            pause(Duration::from_secs(15))?;
            ensure!(was == now, "{:?}", costs(&asked));
            Ok(())
        })
    }
}

/// The local ports of the agent's connections to the API server.
fn ports(lab: &Lab) -> Result<Vec<String>> {
    let words = ["-Htnp", "state", "established", "dport", "=", ":26443"];
    let found = lab.netns.run("ss", &words)?;
    let ours = found.lines().filter(|line| line.contains("\"portolan\""));
    let ports = ours.map(|line| {
        let local = line.split_whitespace().nth(2).context("a local address")?;
        let (_, port) = local.rsplit_once(':').context("a port")?;
        Ok(port.to_owned())
    });
    ports.collect()
}

fn a_sync_asks_for_each_kind_once(lab: &Lab) {
    let before = lab.asked().len();
    lab.sync().unwrap();
    let costs = costs(&lab.asked().split_off(before));
    say(&format!("a sync: {costs:?}"));
    assert!(costs.len() >= 10, "{costs:?}");
    assert!(costs.values().all(|count| *count == 1), "{costs:#?}");
}

/// No packet of it arrives any more, in either direction, and nobody says so.
fn a_connection_that_vanishes_is_made_again(lab: &Lab) {
    let before = ports(lab).unwrap();
    assert_eq!(before.len(), 1, "one for all kinds: {before:?}");
    let port = before.first().unwrap();
    let asked = lab.asked().len();
    let drop_its_packets = |command: &str| {
        for which in ["--sport", "--dport"] {
            let rule = [
                "-w", command, "INPUT", "-p", "tcp", which, port, "-j", "DROP",
            ];
            lab.netns.run("iptables", &rule).unwrap();
        }
    };
    drop_its_packets("-I");
    let began = Instant::now();
    eventually(VANISHED, "another connection", || {
        let now = ports(lab)?;
        ensure!(now.len() == 1 && now != before, "{now:?}");
        Ok(())
    })
    .unwrap();
    say(&format!(
        "a connection that has vanished: another after {:?}",
        began.elapsed()
    ));
    // Every watch goes on from where it was; none is listed anew.
    eventually(SOON, "the watches", || {
        let asked = lab.asked().split_off(asked);
        let goes_on = |request: &&Request| {
            request.verb == "watch" && request.uri.contains("&resourceVersion=")
        };
        let kinds: BTreeSet<&str> = asked
            .iter()
            .filter(goes_on)
            .map(|request| request.resource.as_str())
            .collect();
        ensure!(kinds.len() >= 10, "{kinds:?}");
        let lists = asked.iter().filter(|request| !goes_on(request)).count();
        ensure!(lists == 0, "{:?}", costs(&asked));
        Ok(())
    })
    .unwrap();
    // Or whoever is given its port next has vanished, too.
    drop_its_packets("-D");
    lab.sync().unwrap();
}

fn make_node(plane: &ControlPlane, number: u8) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("n{number}") },
        "spec": { "podCIDRs": [format!("10.244.{number}.0/24")], "podCIDR": format!("10.244.{number}.0/24") },
    });
    plane.apply(&node.to_string());
    let address = json!({ "type": "InternalIP", "address": format!("10.0.0.{number}") });
    let status = json!({ "status": { "addresses": [address] } }).to_string();
    let name = format!("node/n{number}");
    plane.kubectl(&[
        "patch",
        &name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ]);
}

fn costs(requests: &[Request]) -> Costs {
    let mut costs = Costs::new();
    for request in requests {
        let what = (request.verb.clone(), request.resource.clone());
        *costs.entry(what).or_default() += 1;
    }
    costs
}

/// What others do in a cluster all the time and is no concern of this node's.
fn others_work(plane: &ControlPlane) {
    plane.kubectl(&["create", "namespace", "shop"]);
    plane.kubectl(&["create", "serviceaccount", "default", "-n", "shop"]);
    for number in 0..10 {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "shop", "name": format!("web{number}"), "labels": { "app": "web" } },
            "spec": { "nodeName": "n2", "containers": [{ "name": "web", "image": "none" }] },
        });
        plane.apply(&pod.to_string());
    }
    plane.kubectl(&["label", "namespace", "shop", "team=one"]);
    plane.kubectl(&[
        "-n",
        "shop",
        "delete",
        "pods",
        "--all",
        "--force",
        "--grace-period=0",
    ]);
}

#[test]
fn a_settled_agent_asks_the_api_server_nothing() {
    require_root!();
    let mut lab = Lab::start().unwrap();
    lab.settle("clusternetworkpolicies")
        .unwrap_or_else(|error| {
            panic!(
                "{error:#}\n{}\n{:#?}",
                lab.process.log_end(),
                costs(&lab.asked())
            )
        });

    // Each kind is streamed by one watch, tried again where a server that has just started is not ready for it; the node
    // is told that its network is up, and its sessions have an object.
    let mut start = lab.asked();
    let refused: Vec<&Request> = start.iter().filter(|request| request.code == 403).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    start.retain(|request| request.resource != "clusternetworkpolicies");
    let kinds: BTreeSet<&str> = start
        .iter()
        .map(|request| request.resource.as_str())
        .collect();
    assert!(kinds.len() >= 10, "{kinds:?}");
    for ((verb, resource), count) in &costs(&start) {
        assert!(*count <= 4, "{verb} {resource}: {count} of\n{start:#?}");
    }
    assert!(
        start.len() <= 40,
        "{} requests: {:#?}",
        start.len(),
        costs(&start)
    );

    // A kind that is not installed is looked for, at most every 20 s.
    let before = lab.asked().len();
    pause(Duration::from_secs(40)).unwrap();
    let looked = costs(&lab.asked().split_off(before));
    assert!(
        looked
            .keys()
            .all(|(_, resource)| resource == "clusternetworkpolicies")
            && looked.values().sum::<usize>() <= 3,
        "{looked:#?}"
    );
    lab.plane.install_cluster_network_policy();
    eventually(SOON, "a watch of the kind that has come", || {
        let asked = lab.asked();
        let watched = asked.iter().any(|request| {
            request.resource == "clusternetworkpolicies"
                && request.verb == "watch"
                && request.code == 200
        });
        ensure!(watched, "{:#?}", costs(&asked));
        Ok(())
    })
    .unwrap();
    lab.settle("").unwrap();
    a_sync_asks_for_each_kind_once(&lab);
    a_connection_that_vanishes_is_made_again(&lab);

    // From here on: nothing, whatever others do.
    make_node(&lab.plane, 2);
    lab.settle("").unwrap();
    let before = lab.asked().len();
    others_work(&lab.plane);
    pause(QUIET).unwrap();
    let asked = lab.asked().split_off(before);
    assert!(asked.is_empty(), "{asked:#?}");
    lab.process.check_running().unwrap();
}
