//! What the containers of the DaemonSet may do on their node, as the kernel has it, and whether agents were ever refused anything.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::cluster::Cluster;
use cluster::node::Node;
use cluster::portolan::NAMESPACE;
use cluster::{Request, refused};
use serde_json::json;
use tests::wait::eventually;

const AGENT: &str = "system:serviceaccount:portolan:portolan-agent";

const PATIENCE: Duration = Duration::from_secs(60);

/// Bits of linux/capability.h.
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

/// What is mounted into every container by the runtime or the kubelet.
const USUAL: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// The number, within the node, of the one process of the image whose first word is this.
fn process(node: &Node, word: &str) -> Result<String> {
    let script = "for p in /proc/[0-9]*; do printf '%s ' ${p#/proc/}; tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done";
    let all = node.run("sh", &["-c", script])?;
    let found = all.lines().find(|line| {
        let mut words = line.split(' ').skip(1);
        words
            .next()
            .is_some_and(|program| program.rsplit('/').next() == Some("portolan"))
            && words.next() == Some(word)
    });
    let found = found.and_then(|line| line.split(' ').next());
    found
        .map(str::to_owned)
        .with_context(|| format!("no portolan {word} in {all}"))
}

/// The fields of a process's status.
fn status(node: &Node, process: &str) -> BTreeMap<String, String> {
    let text = node
        .run("cat", &[&format!("/proc/{process}/status")])
        .unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Where something is mounted for a process, and whether it can be written to; of the kernel's own file systems only the
/// node's settings.
fn mounts(node: &Node, process: &str) -> Vec<String> {
    let text = node
        .run("cat", &[&format!("/proc/{process}/mountinfo")])
        .unwrap();
    let mut found = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (point, options) = (words[4], words[5]);
        let is_kernel_s = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|of| point == *of || point.starts_with(&format!("{of}/")));
        let is_ro = options.split(',').any(|option| option == "ro");
        if ["/sys", "/proc/sys"].contains(&point) {
            assert!(is_ro, "{line}");
        }
        if !is_kernel_s && !USUAL.contains(&point) {
            let point = point.replace("/var/run/", "/run/");
            found.push(format!("{point} {}", if is_ro { "ro" } else { "rw" }));
        }
    }
    found.sort();
    found
}

pub(crate) fn containers_have_the_capabilities_and_the_folders_that_they_are_given_and_no_others(
    cluster: &mut Cluster,
) {
    let agent = [
        "/ ro",
        "/host/proc/sys/net rw",
        "/run/portolan rw",
        "/run/secrets/kubernetes.io/serviceaccount ro",
        "/run/xtables.lock rw",
        "/var/lib/portolan rw",
    ];
    let cni = [
        "/ ro",
        "/etc/cni/net.d rw",
        "/etc/iproute2/rt_protos.d rw",
        "/opt/cni/bin rw",
        "/run/portolan rw",
    ];
    for name in ["n1", "n2"] {
        let node = &*cluster.node(name);
        for (word, capabilities, wanted) in [
            ("agent", NET_ADMIN | NET_BIND_SERVICE | NET_RAW, &agent[..]),
            ("cni", 0, &cni[..]),
        ] {
            let process = process(node, word).unwrap();
            let status = status(node, &process);
            let bits = |set: &str| u64::from_str_radix(&status[set], 16).unwrap();
            for set in ["CapBnd", "CapEff", "CapPrm"] {
                assert_eq!(bits(set), capabilities, "{word} on {name}: {set}");
            }
            assert_eq!(bits("CapAmb"), 0, "{word} on {name}");
            assert_eq!(status["NoNewPrivs"], "1", "{word} on {name}");
            assert_eq!(status["Seccomp"], "2", "{word} on {name}: a filter");
            assert_eq!(mounts(node, &process), wanted, "{word} on {name}");
        }
    }
}

/// From here on it holds for all agents, until the end.
pub(crate) fn who_has_the_token_of_an_agent_s_pod_writes_of_that_node_only(cluster: &mut Cluster) {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let policy = deploy.join("components/own-node-writes/policy.yaml");
    let plane = cluster.plane();
    plane.kubectl(&["apply", "-f", &policy.to_string_lossy()]);
    let selector = "app.kubernetes.io/component=agent";
    let pod = cluster.pod_on("n1", NAMESPACE, selector).unwrap();
    let stolen = plane.pod_kubeconfig(NAMESPACE, "portolan-agent", &pod.name);
    let said = |node: &str| {
        let object = json!({
            "apiVersion": "portolan.io/v1alpha1", "kind": "BGPNodeStatus",
            "metadata": {"name": node}, "spec": {"node": node},
        });
        let file = plane.dir().join("stolen.json");
        std::fs::write(&file, object.to_string()).unwrap();
        let path = "/apis/portolan.io/v1alpha1/bgpnodestatuses?dryRun=All";
        let words = ["create", "--raw", path, "-f", &file.to_string_lossy()];
        plane.kubectl_as(&stolen, &words).unwrap_err().to_string()
    };
    eventually(PATIENCE, "the refusal", || {
        let said = said("n2");
        ensure!(said.contains("must not write what is of node n2"), "{said}");
        Ok(())
    })
    .unwrap();
    let said = said("n1");
    assert!(said.contains("already exists"), "{said}");
}

pub(crate) fn no_agent_was_ever_refused_anything(cluster: &mut Cluster) {
    let requests = cluster.plane().requests().into_iter();
    let is_agent_s = |request: &Request| {
        // A test uses its token with kubectl.
        request.user == AGENT && !request.agent.starts_with("kubectl")
    };
    let asked: Vec<_> = requests.filter(is_agent_s).collect();
    assert!(asked.len() > 24, "{}", asked.len());
    for resource in ["nodes/status", "bgpnodestatuses", "bgpnodestatuses/status"] {
        let written = asked.iter().filter(|one| one.resource == resource);
        assert!(written.count() >= 2, "{resource}");
    }
    assert_eq!(refused(&asked), Vec::<&Request>::new());
}
