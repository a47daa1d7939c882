//! A node's namespaces, root and cgroups, without any Kubernetes in it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::node::Node;
use tests::netns::Netns;
use tests::require_root;
use tests::wait::eventually;

struct Bench {
    node: Node,
    dir: tempfile::TempDir,
}

fn bench(name: &str) -> Bench {
    let dir = tempfile::Builder::new()
        .prefix("ptl-cluster-")
        .tempdir()
        .unwrap();
    let netns = Netns::new("node", name).unwrap();
    let node = Node::start(name, netns, dir.path(), &[]).unwrap();
    Bench { node, dir }
}

#[test]
fn a_node_has_a_name_a_root_and_processes_of_its_own() {
    require_root!();
    let Bench { node, dir: _dir } = bench("n1");
    assert_eq!(node.run("hostname", &[]).unwrap().trim(), "n1");
    assert_eq!(node.run("ls", &["/sys/class/net"]).unwrap().trim(), "lo");
    let processes = node.run("ps", &["-e", "-o", "comm="]).unwrap();
    assert_eq!(processes.lines().count(), 3, "{processes}");
    node.run("mkdir", &["/opt/cni/bin/there", "/etc/made-by-a-node"])
        .unwrap();
    assert!(!Path::new("/opt/cni/bin/there").exists());
    assert!(!Path::new("/etc/made-by-a-node").exists());
    // What a kubelet insists on is so for it, whatever the machine has.
    let read = |name: &str| node.run("cat", &[&format!("/proc/sys/{name}")]).unwrap();
    assert_eq!(read("kernel/panic").trim(), "10");
    assert_eq!(read("vm/overcommit_memory").trim(), "1");
}

#[test]
fn orphans_are_reaped_by_the_first_process() {
    require_root!();
    let Bench { node, dir: _dir } = bench("n1");
    for _ in 0..20 {
        node.run("sh", &["-c", "(sh -c 'sleep 0.1 & sleep 0.2' &)"])
            .unwrap();
    }
    eventually(Duration::from_secs(10), "no zombie", || -> Result<()> {
        let processes = node.run("ps", &["-e", "-o", "stat=,comm="])?;
        ensure!(processes.lines().count() == 3, "{processes}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_power_cut_ends_everything_and_the_disk_stays() {
    require_root!();
    let Bench {
        mut node,
        dir: _dir,
    } = bench("n1");
    node.start_program("sleeper", Path::new("sleep"), &["600".to_owned()])
        .unwrap();
    node.check_running("sleeper").unwrap();
    node.write("/var/lib/kubelet/kept", "yes").unwrap();
    node.write("/etc/lost", "yes").unwrap();
    node.power_off().unwrap();
    assert_eq!(node.netns().processes().unwrap(), Vec::<i32>::new());
    assert!(node.run("hostname", &[]).is_err());
    node.power_on().unwrap();
    assert_eq!(node.run("cat", &["/var/lib/kubelet/kept"]).unwrap(), "yes");
    assert!(node.run("cat", &["/etc/lost"]).is_err());
}

#[test]
fn nothing_is_left_of_a_node() {
    require_root!();
    let Bench { mut node, dir } = bench("n1");
    node.start_program("sleeper", Path::new("sleep"), &["600".to_owned()])
        .unwrap();
    let groups = node.cgroups().groups();
    assert!(groups.len() >= 5, "{groups:?}");
    std::fs::create_dir_all(groups[0].join("kubepods/pod1")).unwrap();
    let netns = node.netns().path();
    let lab = dir.path().to_string_lossy().into_owned();
    drop(node);
    assert!(!netns.exists());
    for group in groups {
        assert!(!group.exists(), "{}", group.display());
        assert!(!group.parent().unwrap().exists(), "{}", group.display());
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&lab), "{mounts}");
    dir.close().unwrap();
}
