//! Attachments through crashes: many at once, a reboot, requests cut at every instant, no agent, no room on the disk.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use tests::cni::{Answer, addresses};
use tests::netns::{self, Netns};
use tests::one_node::OneNode;
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::runtime::{Call, Runtime};
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(20);
/// "Try again later" and "not available" (CNI specification, "Error").
const LATER: Option<u64> = Some(11);
const NOT_AVAILABLE: Option<u64> = Some(50);

/// The pod that nobody may reach.
const POLICY: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: p0, labels: {app: fort}}
spec: {nodeName: node1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: fort}
spec:
  podSelector: {matchLabels: {app: fort}}
  policyTypes: [Ingress]
";

/// One node, its runtime, and its kernel before the first pod.
struct Stage {
    lab: OneNode,
    runtime: Runtime,
    before: Snapshot,
}

/// A container as its runtime knows it.
struct Container {
    id: String,
    name: String,
    netns: Netns,
    result: Value,
}

impl Container {
    fn new(tag: &str, name: &str) -> Self {
        let netns = Netns::new(tag, name).unwrap();
        Self {
            id: format!("id-{}", netns.name()),
            name: name.to_owned(),
            netns,
            result: Value::Null,
        }
    }

    fn call(&self, command: &'static str) -> Call {
        let previous = (command != "ADD" && !self.result.is_null()).then(|| self.result.clone());
        Call {
            command,
            container_id: self.id.clone(),
            netns: self.netns.path().to_string_lossy().into_owned(),
            pod: ("shop".to_owned(), self.name.clone()),
            fields: previous
                .map(|result| ("prevResult".to_owned(), result))
                .into_iter()
                .collect(),
        }
    }

    fn address(&self, is_ipv6: bool) -> IpAddr {
        let all = addresses(&self.result);
        *all.iter().find(|ip| ip.is_ipv6() == is_ipv6).unwrap()
    }
}

impl Stage {
    fn set(tag: &str, manifests: &str, flags: &[&str]) -> Self {
        let lab = OneNode::start(tag, manifests, flags).unwrap();
        lab.agent.wait_settled().unwrap();
        let runtime = Runtime::of(&lab.agent).unwrap();
        let before = Snapshot::of(&lab.node);
        Self {
            lab,
            runtime,
            before,
        }
    }

    fn call(&self, container: &Container, command: &'static str) -> Answer {
        self.runtime
            .call(&self.lab.node, &container.call(command))
            .unwrap()
    }

    fn add(&self, container: &mut Container) {
        let answer = self.call(container, "ADD");
        container.result = answer
            .success()
            .unwrap_or_else(|error| panic!("{error}\n{}", self.lab.agent.log_end()));
    }

    fn delete(&self, container: &Container) {
        self.call(container, "DEL").success().unwrap();
    }

    fn start_agent(&mut self) {
        self.lab.agent.start(&self.lab.node).unwrap();
        self.lab.agent.wait_synced().unwrap();
    }

    /// All the addresses of pods that the agent says are held.
    fn held(&self) -> Result<BTreeSet<IpAddr>, String> {
        let text = self
            .lab
            .agent
            .verb(&["status", "-o", "json"])
            .map_err(|error| error.to_string())?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !".:".contains(c));
        let all = words.filter_map(|word| word.parse::<IpAddr>().ok());
        Ok(all.filter(|ip| is_of_pod(*ip)).collect())
    }

    /// Waits until the agent and the kernel hold nothing of pods at all.
    fn assert_nothing_left(&self) {
        eventually(PATIENCE, "the node as before the first pod", || {
            let held = self.held()?;
            let pending = files(&self.pending());
            if !held.is_empty() || !pending.is_empty() {
                return Err(format!("held {held:?}, pending {pending:?}"));
            }
            self.lab
                .agent
                .wait_settled()
                .map_err(|error| error.to_string())?;
            let difference = self.before.difference(&Snapshot::of(&self.lab.node));
            if difference.is_empty() {
                Ok(())
            } else {
                Err(difference)
            }
        })
        .unwrap();
    }

    fn pending(&self) -> PathBuf {
        self.lab.agent.state_dir().join("pending-del")
    }
}

fn is_of_pod(ip: IpAddr) -> bool {
    let text = ip.to_string();
    (text.starts_with("10.244.1.") && text != "10.244.1.0")
        || (text.starts_with("fd00:244:1::") && text != "fd00:244:1::")
}

/// The names of the files in a folder, but half-written ones, which are swept later.
fn files(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

fn reaches(from: &Netns, to: IpAddr, patience: Duration) -> bool {
    attempt(from, server_at(to), Transport::Tcp, patience).unwrap() == Verdict::Answered
}

#[test]
fn fifty_pods_added_at_once_have_fifty_addresses_a_family_and_all_is_in_force_and_fifty_dels_at_once_leave_nothing()
 {
    require_root!();
    let stage = Stage::set("fty", POLICY, &[]);
    let mut all: Vec<Container> = (0..50)
        .map(|number| Container::new("fty", &format!("p{number}")))
        .collect();
    let running: Vec<_> = all
        .iter()
        .map(|one| {
            stage
                .runtime
                .start(&stage.lab.node, &one.call("ADD"))
                .unwrap()
        })
        .collect();
    for (one, running) in all.iter_mut().zip(running) {
        one.result = running.finish().unwrap().success().unwrap();
    }
    for is_ipv6 in [false, true] {
        let different: BTreeSet<IpAddr> = all.iter().map(|one| one.address(is_ipv6)).collect();
        assert_eq!(different.len(), 50);
    }
    // Each reaches the next one round, and nobody the first, from the moment on that its ADD was answered.
    let servers: Vec<Server> = all
        .iter()
        .map(|one| Server::start(&one.netns).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for number in 1..50 {
            let (from, to, fort) = (&all[number], &all[number % 49 + 1], &all[0]);
            scope.spawn(move || {
                let is_ipv6 = number.is_multiple_of(2);
                assert!(
                    reaches(&from.netns, to.address(is_ipv6), PATIENCE),
                    "{} to {}",
                    from.name,
                    to.name
                );
                let silence = Duration::from_millis(300);
                assert!(
                    !reaches(&from.netns, fort.address(is_ipv6), silence),
                    "{} to the fort",
                    from.name
                );
            });
        }
    });
    drop(servers);
    let running: Vec<_> = all
        .iter()
        .map(|one| {
            stage
                .runtime
                .start(&stage.lab.node, &one.call("DEL"))
                .unwrap()
        })
        .collect();
    for running in running {
        running.finish().unwrap().success().unwrap();
    }
    stage.assert_nothing_left();
}

/// What a reboot does to the node's kernel and to `/run`; the state folder stays.
fn reboot(stage: &mut Stage, pods: &[Container]) {
    stage.lab.agent.kill().unwrap();
    for pod in pods {
        netns::remove(pod.netns.name()).unwrap();
    }
    let node = &stage.lab.node;
    eventually(PATIENCE, "the host ends' end", || {
        let links = node.ip("-o link show").unwrap();
        if links.contains(": ptl") {
            Err(links)
        } else {
            Ok(())
        }
    })
    .unwrap();
    for command in ["route flush proto 179", "-6 route flush proto 179"] {
        node.ip(command).unwrap();
    }
    for program in ["iptables", "ip6tables"] {
        for table in ["raw", "mangle", "nat", "filter"] {
            let restore = format!("printf '*{table}\\nCOMMIT\\n' | {program}-restore -w");
            node.run("sh", &["-c", &restore]).unwrap();
        }
    }
    node.run("ipset", &["destroy"]).unwrap();
    std::fs::remove_dir_all(stage.lab.agent.run_dir()).unwrap();
}

#[test]
fn rule_96_after_a_reboot_no_address_of_a_dead_holder_is_given_before_its_del_which_succeeds_and_frees_it()
 {
    require_root!();
    let mut stage = Stage::set("rbt", POLICY, &[]);
    let mut dead: Vec<Container> = (0..3)
        .map(|number| Container::new("rbt", &format!("p{number}")))
        .collect();
    dead.iter_mut().for_each(|one| stage.add(one));
    let theirs: BTreeSet<IpAddr> = dead.iter().flat_map(|one| addresses(&one.result)).collect();
    reboot(&mut stage, &dead);
    stage.start_agent();
    let mut new: Vec<Container> = (3..6)
        .map(|number| Container::new("rbt", &format!("p{number}")))
        .collect();
    for one in &mut new {
        stage.add(one);
        assert!(
            addresses(&one.result).iter().all(|ip| !theirs.contains(ip)),
            "{}",
            one.result
        );
    }
    assert!(theirs.is_subset(&stage.held().unwrap()), "kept until DEL");
    dead.iter().for_each(|one| stage.delete(one));
    let held = stage.held().unwrap();
    assert_eq!(
        held,
        new.iter().flat_map(|one| addresses(&one.result)).collect()
    );
    new.iter().for_each(|one| stage.delete(one));
    stage.assert_nothing_left();
}

/// Cuts an ADD after each of these times, then adds the same holder anew and takes it away.
fn cut_at_many_instants(
    stage: &mut Stage,
    tag: &str,
    mut cut: impl FnMut(&mut Stage, &Container, Duration),
) {
    for half_milliseconds in 0..40 {
        let mut pod = Container::new(tag, &format!("p{half_milliseconds}"));
        cut(stage, &pod, Duration::from_micros(500 * half_milliseconds));
        stage.add(&mut pod);
        let checked = stage.call(&pod, "CHECK");
        assert!(
            checked.is_success,
            "cut after {half_milliseconds}/2 ms: {checked:?}"
        );
        let held = stage.held().unwrap();
        assert_eq!(
            held,
            addresses(&pod.result).into_iter().collect(),
            "the first address is leaked"
        );
        stage.delete(&pod);
    }
    stage.assert_nothing_left();
}

#[test]
fn rule_92_an_add_whose_plugin_is_killed_at_any_instant_is_made_whole_by_the_next_and_leaves_nothing()
 {
    require_root!();
    let mut stage = Stage::set("cpl", "", &[]);
    let mut killed = 0;
    cut_at_many_instants(&mut stage, "cpl", |stage, pod, after| {
        let running = stage
            .runtime
            .start(&stage.lab.node, &pod.call("ADD"))
            .unwrap();
        std::thread::sleep(after);
        killed += usize::from(running.kill().unwrap());
    });
    assert!(killed >= 10, "only {killed} were killed before their end");
}

#[test]
fn rule_93_an_add_whose_agent_is_killed_at_any_instant_is_made_whole_by_the_next_and_leaves_nothing()
 {
    require_root!();
    let mut stage = Stage::set("cag", "", &[]);
    let mut refused = 0;
    cut_at_many_instants(&mut stage, "cag", |stage, pod, after| {
        let running = stage
            .runtime
            .start(&stage.lab.node, &pod.call("ADD"))
            .unwrap();
        std::thread::sleep(after);
        stage.lab.agent.kill().unwrap();
        let answer = running.finish().unwrap();
        assert!(answer.is_success || answer.code() == LATER, "{answer:?}");
        refused += usize::from(!answer.is_success);
        stage.start_agent();
    });
    assert!(refused >= 10, "only {refused} were cut before their end");
}

#[test]
fn rule_95_without_an_agent_add_is_refused_del_waits_on_disk_and_status_says_so_and_the_next_agent_catches_up()
 {
    require_root!();
    let mut stage = Stage::set("awy", "", &[]);
    let [mut gone, mut again] = ["p1", "p2"].map(|name| Container::new("awy", name));
    stage.add(&mut gone);
    stage.add(&mut again);
    assert!(stage.call(&gone, "STATUS").is_success);
    stage.lab.agent.kill().unwrap();
    let new = Container::new("awy", "p3");
    let refused = stage.call(&new, "ADD");
    assert_eq!(refused.code(), LATER, "{refused:?}");
    assert_eq!(
        new.netns.ip("-o link show").unwrap().lines().count(),
        1,
        "the pod is untouched"
    );
    assert_eq!(stage.call(&new, "STATUS").code(), NOT_AVAILABLE);
    // Also of containers that are unknown, and twice.
    for one in [&gone, &again, &again, &new] {
        stage.delete(one);
    }
    assert_eq!(files(&stage.pending()).len(), 3);
    assert!(gone.netns.ip("-o link show").unwrap().contains("eth0"));

    // The pod that comes back at once gets a link that the deletion which waits does not hit.
    stage.lab.agent.start(&stage.lab.node).unwrap();
    let first = eventually(PATIENCE, "an agent", || {
        let answer = stage.call(&again, "ADD");
        answer.success().map_err(|error| error.to_string())
    });
    again.result = first.unwrap();
    stage.lab.agent.wait_synced().unwrap();
    eventually(PATIENCE, "the deletions that waited", || {
        let left = files(&stage.pending());
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .unwrap();
    let checked = stage.call(&again, "CHECK");
    assert!(checked.is_success, "{checked:?}");
    assert_eq!(
        stage.held().unwrap(),
        addresses(&again.result).into_iter().collect()
    );
    stage.delete(&again);
    stage.assert_nothing_left();
}

/// A small file system in a folder's place, away again when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(folder: PathBuf) -> Self {
        let path = folder.to_string_lossy().into_owned();
        netns::run(
            "mount",
            &["-t", "tmpfs", "-o", "size=256k", "ptl-small", &path],
        )
        .unwrap();
        Self(folder)
    }

    /// Writes until there is no room for one byte more.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while std::io::Write::write(&mut file, &[0; 512]).is_ok_and(|written| written > 0) {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: an agent may have a file open for a moment still.
        let _ = netns::run("umount", &["-l", &self.0.to_string_lossy()]);
    }
}

#[test]
fn a_full_disk_refuses_add_cleanly_and_no_running_pod_nor_its_del_is_lost() {
    require_root!();
    let mut stage = Stage::set("dsk", "", &[]);
    stage.lab.agent.kill().unwrap();
    let disk = SmallDisk::new(stage.lab.agent.state_dir());
    stage.start_agent();
    let mut pods: Vec<Container> = ["p1", "p2"].map(|name| Container::new("dsk", name)).into();
    pods.iter_mut().for_each(|one| stage.add(one));
    let servers = [&pods[0], &pods[1]].map(|one| Server::start(&one.netns).unwrap());
    let filler = disk.fill();

    // The last page written has room for a few more.
    let (new, refused) = loop {
        let mut one = Container::new("dsk", &format!("p{}", pods.len() + 1));
        let answer = stage.call(&one, "ADD");
        if !answer.is_success {
            break (one, answer);
        }
        one.result = answer.output;
        pods.push(one);
        assert!(pods.len() < 60, "the disk is not full");
    };
    let links = new.netns.ip("-o link show").unwrap();
    assert_eq!(links.lines().count(), 1, "{refused:?}: {links}");
    let held_by = |pods: &[Container]| -> BTreeSet<IpAddr> {
        pods.iter().flat_map(|one| addresses(&one.result)).collect()
    };
    assert_eq!(stage.held().unwrap(), held_by(&pods));
    let to = pods[1].address(false);
    assert!(
        reaches(&pods[0].netns, to, PATIENCE),
        "running pods are as they were"
    );
    drop(servers);
    // A DEL is said to be done if that could be written down, by whomever; else the runtime makes it again.
    if stage.call(&pods[0], "DEL").is_success {
        pods.remove(0);
    }
    stage.lab.agent.kill().unwrap();
    let waits = stage.call(&pods[0], "DEL");
    assert_eq!(waits.code(), LATER, "{waits:?}");
    stage.start_agent();
    assert_eq!(stage.held().unwrap(), held_by(&pods), "nothing is lost");

    std::fs::remove_file(filler).unwrap();
    for one in pods.iter().chain([&new]) {
        stage.delete(one);
    }
    stage.assert_nothing_left();
    stage.lab.agent.terminate().unwrap();
}

#[test]
fn gc_collects_what_the_runtime_does_not_name_and_no_more() {
    require_root!();
    let stage = Stage::set("gcx", "", &[]);
    let [mut kept, mut lost] = ["p1", "p2"].map(|name| Container::new("gcx", name));
    stage.add(&mut kept);
    stage.add(&mut lost);
    let valid = serde_json::json!([{"containerID": kept.id, "ifname": "eth0"}]);
    let mut call = kept.call("GC");
    call.fields = Map::from_iter([("cni.dev/valid-attachments".to_owned(), valid)]);
    stage
        .runtime
        .call(&stage.lab.node, &call)
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(
        stage.held().unwrap(),
        addresses(&kept.result).into_iter().collect()
    );
    let checked = stage.call(&kept, "CHECK");
    assert!(checked.is_success, "{checked:?}");
    stage.delete(&kept);
    stage.assert_nothing_left();
}
