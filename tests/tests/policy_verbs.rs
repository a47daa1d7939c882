//! `portolan policy list`, `show`, `explain` and `try` against running agents and real packets, tables and JSON.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::agent::binaries;
use tests::lab::{Lab, OUTSIDE, Options};
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(30);

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db-from-web}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: http}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web-from-cache}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: cache}}}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: tester-stays-inside}
spec:
  tier: Admin
  priority: 10
  subject:
    pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: tester}}}
  egress:
    - name: outside
      action: Deny
      to: [{networks: [192.0.2.0/24]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: client-by-default}
spec:
  tier: Baseline
  priority: 5
  subject:
    pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}
  ingress:
    - action: Accept
      from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}]
    - action: Deny
      from: [{namespaces: {}}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: misfit}
spec:
  tier: Baseline
  priority: 900
  subject: {namespaces: {matchLabels: {no: such}}}
  ingress:
    - action: Deny
      from: [{}]
";

fn options(tag: &str) -> Options {
    Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap()
}

fn lab(tag: &str) -> Lab {
    let mut lab = Lab::new(options(tag)).unwrap();
    lab.drop_manifest("policies.yaml", POLICIES).unwrap();
    lab.start_agents().unwrap();
    lab.attach_all().unwrap();
    lab
}

/// A verb of `portolan policy` of a node, whatever its exit code.
fn policy(lab: &Lab, node: usize, words: &[&str]) -> Output {
    let node = &lab.nodes[node];
    let mut command = node.netns.command(binaries().unwrap().join("portolan"));
    command
        .arg("policy")
        .args(words)
        .arg("--run-dir")
        .arg(node.agent.run_dir());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(lab: &Lab, node: usize, words: &[&str]) -> Value {
    let output = policy(lab, node, &[words, &["-o", "json"]].concat());
    serde_json::from_str(&text(&output)).unwrap()
}

fn row(list: &Value, name: &str) -> Value {
    let rows = list["policies"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap().clone()
}

fn packets(lab: &Lab, node: usize, name: &str) -> [u64; 2] {
    let row = row(&json(lab, node, &["list"]), name);
    let of = |what: &str| row["packets"][what].as_u64().unwrap();
    [of("allowed"), of("denied")]
}

fn reach(lab: &Lab, from: &str, to: &str, transport: Transport) -> Verdict {
    let address = match to {
        "node1" => lab.nodes[0].address.parse().unwrap(),
        to => lab.place(to, false).unwrap().1,
    };
    let netns = match from {
        "node1" => &lab.nodes[0].netns,
        from => lab.place(from, false).unwrap().0,
    };
    attempt(netns, server_at(address), transport, PATIENCE).unwrap()
}

#[test]
fn list_and_show_tell_what_is_in_force_and_count_real_packets() {
    require_root!();
    let lab = lab("pvl");
    let list = json(&lab, 0, &["list"]);
    let rows = list["policies"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "tester-stays-inside",
            "shop/db-from-web",
            "shop/web-from-cache",
            "client-by-default",
            "misfit"
        ]
    );
    let web = row(&list, "shop/web-from-cache");
    assert_eq!((&web["localPods"], &web["pods"]), (&1.into(), &1.into()));
    let db = row(&list, "shop/db-from-web");
    assert_eq!((&db["localPods"], &db["pods"]), (&0.into(), &1.into()));
    let misfit = row(&list, "misfit");
    let problem = misfit["problems"][0].as_str().unwrap();
    assert!(problem.contains("the rule denies all"), "{problem}");
    let table = text(&policy(&lab, 0, &["list"]));
    assert!(
        table.contains("problem: Baseline misfit: ingress rule 1"),
        "{table}"
    );

    let before = packets(&lab, 0, "shop/web-from-cache");
    for _ in 0..3 {
        let verdict = reach(&lab, "shop/cache", "shop/web", Transport::Tcp);
        assert_eq!(verdict, Verdict::Answered);
    }
    let verdict = reach(&lab, "team/tester", "shop/web", Transport::Tcp);
    assert_eq!(verdict, Verdict::Silent);
    let after = packets(&lab, 0, "shop/web-from-cache");
    assert_eq!(after[0], before[0] + 3, "one packet opens a connection");
    assert!(after[1] > before[1], "{before:?} {after:?}");

    let show = json(&lab, 0, &["show", "shop/web"]);
    assert_eq!(show["runsOn"], "node1");
    assert_eq!(show["namedPorts"][0]["name"], "http");
    assert_eq!(show["addresses"].as_array().map(Vec::len), Some(2));
    let ingress = &show["directions"][0];
    assert_eq!(ingress["isolated"], true);
    assert_eq!(ingress["policies"][0]["rules"][0]["packets"], after[0]);
    assert_eq!(ingress["packetsIsolated"], after[1]);
    let chain = ingress["endpointChain"].as_str().unwrap();
    let kernel = lab.nodes[0].netns.run("iptables", &["-S", chain]).unwrap();
    let group = ingress["groupChains"][0].as_str().unwrap();
    assert!(kernel.contains(group), "{kernel}");
    let table = text(&policy(&lab, 0, &["show", "shop/web"]));
    assert!(
        table.contains("pods app=cache of its namespace: everything"),
        "{table}"
    );
    assert!(table.contains("ingress: isolated"), "{table}");
    let far = text(&policy(&lab, 0, &["show", "shop/db"]));
    assert!(far.contains("pod shop/db on node2\n"), "{far}");
    let unknown = policy(&lab, 0, &["show", "shop/wev"]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("there is shop/web"), "{said}");
}

/// Who, whom, what is to come of it, and why.
const TRUTHS: &str = "
tcp shop/web shop/db allowed NetworkPolicy shop/db-from-web rule 1 allows it
udp shop/web shop/db denied isolates the pod
tcp shop/cache shop/db denied isolates the pod
tcp team/tester outside denied tester-stays-inside rule 1 (outside) denies it
tcp shop/cache outside allowed nothing is said against it
tcp shop/web team/client allowed client-by-default rule 1 accepts it
tcp shop/cache team/client denied client-by-default rule 2 denies it
tcp outside team/client allowed nothing is said against it
tcp outside shop/db denied isolates the pod
tcp node1 shop/web allowed always reached by its own node
udp shop/cache shop/web allowed web-from-cache rule 1 allows it
tcp team/tester shop/web denied isolates the pod
";

/// Asks both agents, and holds them against a real packet.
fn check_truth(lab: &Lab, truth: &str) {
    let words: Vec<&str> = truth.splitn(5, ' ').collect();
    let [transport, from, to, verdict, because] = words[..] else {
        panic!("{truth}")
    };
    let (kind, allowed) = match transport {
        "udp" => (Transport::Udp, verdict == "allowed"),
        _ => (Transport::Tcp, verdict == "allowed"),
    };
    let wanted = match allowed {
        true => Verdict::Answered,
        false => Verdict::Silent,
    };
    assert_eq!(reach(lab, from, to, kind), wanted, "{truth}");
    let end = |name: &str| match name {
        "outside" => OUTSIDE.to_owned(),
        "node1" => lab.nodes[0].address.to_owned(),
        pod => pod.to_owned(),
    };
    let (from, to) = (end(from), format!("{}:8080/{transport}", end(to)));
    let other = lab.nodes[1].agent.run_dir();
    let other = other.to_str().unwrap();
    let views = json(lab, 0, &["explain", &from, &to, "--run-dir", other]);
    let views = views.as_array().unwrap();
    assert_eq!(views.len(), 2, "{truth}");
    let mut walks = 0;
    for view in views {
        let flow = &view["families"][0];
        assert_eq!(flow["allowed"], allowed, "{truth}: {flow:#}");
        assert_eq!(flow["differs"], false, "{truth}: {flow:#}");
        let said = flow["sides"].to_string();
        assert!(said.contains(because), "{truth}: {said}");
        walks += usize::from(!flow["kernel"].is_null());
    }
    assert!(walks > 0, "{truth}: no kernel was asked");
}

#[test]
fn explain_says_what_real_packets_meet_on_both_nodes() {
    require_root!();
    let lab = lab("pve");
    let truths = TRUTHS.lines().filter(|line| !line.is_empty());
    truths.for_each(|truth| check_truth(&lab, truth));
    let table = text(&policy(&lab, 0, &["explain", "shop/web", "shop/db:http"]));
    assert!(table.contains("tcp 8080: ALLOWED"), "{table}");
    assert!(table.contains("the kernel of node1 accepts it"), "{table}");
    assert!(
        table.contains("what node2's kernel does, its own agent says"),
        "{table}"
    );
    let six = text(&policy(
        &lab,
        0,
        &["explain", "team/tester", "shop/web/icmp"],
    ));
    assert_eq!(six.matches("DENIED").count(), 2, "both families: {six}");
}

#[test]
fn explain_says_so_when_someone_has_changed_our_rules() {
    require_root!();
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("xtables.lock");
    let lock = lock.to_str().unwrap();
    let mut lab = Lab::new(options("pvd")).unwrap();
    lab.drop_manifest("policies.yaml", POLICIES).unwrap();
    let node = lab.node_mut(0).unwrap();
    node.agent.set_arguments(&["--iptables", "legacy"]);
    node.agent.set_environment(&[("XTABLES_LOCKFILE", lock)]);
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    for name in ["web", "cache"] {
        lab.attach(0, "shop", name).unwrap();
    }
    lab.nodes[0].agent.wait_synced().unwrap();
    let ask = || policy(&lab, 0, &["explain", "shop/cache", "shop/web:8080"]);
    assert!(text(&ask()).contains("the kernel of node1 accepts it"));

    // While another holds the lock the agent cannot heal what someone does who does not ask for it.
    let held = std::fs::File::create(lock).unwrap();
    held.lock().unwrap();
    let damage = "XTABLES_LOCKFILE=$0.other iptables-legacy -F PTL-POD";
    lab.nodes[0]
        .netns
        .run("bash", &["-c", damage, lock])
        .unwrap();
    let output = ask();
    held.unlock().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("!!! THEY DIFFER: the policies say allowed, the kernel's rules say denied"),
        "{said}"
    );
    assert!(
        said.contains("The kernel does not hold what this agent wrote"),
        "{said}"
    );
    eventually(LONG, "healed", || {
        let output = ask();
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    })
    .unwrap();
}

/// A connection that stays open, from a namespace of the lab.
fn open(lab: &Lab, from: &str, to: &str) -> TcpStream {
    let (netns, _) = lab.place(from, false).unwrap();
    let (_, address) = lab.place(to, false).unwrap();
    let stream = netns
        .inside(|| TcpStream::connect_timeout(&server_at(address), PATIENCE))
        .unwrap()
        .unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut answer).is_ok()
}

#[test]
fn try_shows_the_flow_that_applying_the_file_then_cuts_and_changes_nothing_itself() {
    require_root!();
    let lab = lab("pvt");
    let mut to_be_cut = open(&lab, "team/tester", "shop/cache");
    let mut to_stay = open(&lab, "shop/web", "shop/cache");
    assert!(echoes(&mut to_be_cut) && echoes(&mut to_stay));
    let file = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: cache-from-shop}
spec:
  podSelector: {matchLabels: {app: cache}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {}}]}]
";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.yaml");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();

    lab.nodes[0].agent.wait_settled().unwrap();
    let before = Snapshot::of(&lab.nodes[0].netns);
    let told = json(&lab, 0, &["try", path]);
    let table = text(&policy(&lab, 0, &["try", path]));
    assert_eq!(before.difference(&Snapshot::of(&lab.nodes[0].netns)), "");
    assert_eq!(told["objects"][0]["change"], "new");
    assert_eq!(told["isolation"][0]["pod"], "shop/cache");
    assert_eq!(told["isolation"].as_array().map(Vec::len), Some(1));
    let flows = told["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 1, "{told:#}");
    assert_eq!(flows[0]["fromPod"], "team/tester");
    assert_eq!(flows[0]["toPod"], "shop/cache");
    assert_eq!(
        flows[0]["sourcePort"],
        to_be_cut.local_addr().unwrap().port()
    );
    assert_eq!(flows[0]["allowed"], false);
    let denied: Vec<&Value> = told["connections"].as_array().unwrap().iter().collect();
    assert!(
        denied
            .iter()
            .all(|change| change["allowed"] == false && change["to"] == "shop/cache")
    );
    assert_eq!(denied.len(), 2, "tester and client: {told:#}");
    assert!(table.contains("nothing was changed"), "{table}");
    assert!(
        echoes(&mut to_be_cut) && echoes(&mut to_stay),
        "nothing was cut yet"
    );

    lab.drop_manifest("new.yaml", file).unwrap();
    eventually(LONG, "the flow is cut", || -> Result<()> {
        ensure!(!echoes(&mut to_be_cut), "it still echoes");
        Ok(())
    })
    .unwrap();
    assert!(echoes(&mut to_stay));
    let gone = json(&lab, 0, &["try", path, "--delete"]);
    assert_eq!(gone["objects"][0]["change"], "removed");
    assert_eq!(gone["isolation"][0]["isolated"], false);
    let broken = folder.path().join("broken.yaml");
    std::fs::write(&broken, file.replace("podSelector", "podSelektor")).unwrap();
    let refused = policy(&lab, 0, &["try", broken.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("broken.yaml:2") && said.contains("podSelektor"),
        "{said}"
    );
}
