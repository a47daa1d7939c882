//! The capabilities that deploy/ gives the agent are enough for all it does, and without any one of them it says which is missing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::agent::{Agent, binaries};
use tests::cni::{Plugin, Sandbox};
use tests::netns::Netns;
use tests::require_root;
use tests::wait::eventually;

const SOON: Duration = Duration::from_secs(30);

const MANIFESTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: node1}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor}
spec: {peerAddress: 192.0.2.2, asNumber: 64600}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: node1}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {}}]}]}
";

/// What the DaemonSet's agent has.
fn granted() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes/daemonset.yaml");
    let documents = datastore::read_documents(&std::fs::read_to_string(path).unwrap()).unwrap();
    let containers = &documents[0].value["spec"]["template"]["spec"]["containers"];
    let agent = &containers[0];
    assert_eq!(agent["name"], "agent");
    let added = agent["securityContext"]["capabilities"]["add"].as_array();
    let words = added.unwrap().iter().map(|word| word.as_str().unwrap());
    words.map(str::to_lowercase).collect()
}

/// An agent with these capabilities and no others, as a container runtime starts it.
struct Confined {
    agent: Agent,
    node: Netns,
    _dir: tempfile::TempDir,
}

impl Confined {
    fn start(capabilities: &[String]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ptl-caps-")
            .tempdir()
            .unwrap();
        let node = Netns::new("caps", "node").unwrap();
        node.ip("link add uplink type veth peer name other")
            .unwrap();
        node.ip("addr add 192.0.2.1/24 dev uplink").unwrap();
        node.ip("link set uplink up").unwrap();
        node.ip("link set other up").unwrap();
        let manifests = dir.path().join("manifests");
        std::fs::create_dir(&manifests).unwrap();
        std::fs::write(manifests.join("all.yaml"), MANIFESTS).unwrap();
        let only: String = capabilities
            .iter()
            .map(|name| format!(",+{name}"))
            .collect();
        let program = dir.path().join("confined");
        let agent = binaries().unwrap().join("portolan");
        let script = format!(
            "#!/bin/sh\nexec setpriv --bounding-set=-all{only} --inh-caps=-all --no-new-privs {} \"$@\"\n",
            agent.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut agent = Agent::new("node1", &program, &node, dir.path(), &manifests).unwrap();
        agent.start(&node).unwrap();
        Self {
            agent,
            node,
            _dir: dir,
        }
    }

    /// Calls ADD for the pod of the manifests.
    fn attach(&self) -> Result<Sandbox> {
        let sandbox = Sandbox::new("caps", "shop", "web")?;
        let plugin = Plugin {
            program: binaries()?.join("portolan-cni"),
            socket: self.agent.cni_socket(),
            version: "1.0.0".to_owned(),
        };
        let answer = plugin.call_with("ADD", &self.node, &sandbox, serde_json::Map::new())?;
        answer.success()?;
        Ok(sandbox)
    }

    fn listens(&self) -> bool {
        let sockets = self.node.run("ss", &["-Hltn", "sport = :179"]).unwrap();
        !sockets.trim().is_empty()
    }
}

#[test]
fn with_what_the_daemonset_gives_the_agent_does_all_it_does() {
    require_root!();
    let mut confined = Confined::start(&granted());
    confined.agent.wait_synced().unwrap();
    let pod = confined.attach().unwrap();
    assert!(
        pod.netns
            .ip("-4 addr show dev eth0")
            .unwrap()
            .contains("10.244.1.")
    );
    let rules = confined.node.run("iptables-save", &[]).unwrap();
    assert!(rules.contains("--match-set"), "{rules}");
    eventually(SOON, "BGP listens", || {
        ensure!(confined.listens(), "{}", confined.agent.status_table()?);
        Ok(())
    })
    .unwrap();
}

#[test]
fn without_any_one_of_them_the_agent_names_it_and_what_to_do() {
    require_root!();
    let granted = granted();
    for lost in &granted {
        let rest: Vec<String> = granted
            .iter()
            .filter(|name| *name != lost)
            .cloned()
            .collect();
        let mut confined = Confined::start(&rest);
        let name = lost.to_uppercase();
        let said = if lost == "net_bind_service" {
            confined.agent.wait_synced().unwrap();
            let what = "an error of the listener";
            let said = eventually(SOON, what, || {
                let status = confined.agent.status()?;
                let error = status["listeners"][0]["error"].as_str();
                error
                    .map(str::to_owned)
                    .ok_or_else(|| anyhow::anyhow!("{status}"))
            });
            assert!(!confined.listens());
            said.unwrap()
        } else {
            // Nothing can be done, so nothing is begun.
            let ended = eventually(SOON, "the end of the agent", || {
                match confined.agent.check_running() {
                    Err(_) => Ok(()),
                    Ok(()) => Err(anyhow::anyhow!("it runs without {name}")),
                }
            });
            ended.unwrap();
            let rules = confined.node.run("iptables-save", &[]).unwrap();
            assert!(!rules.contains("PTL-"), "{rules}");
            confined.agent.log()
        };
        assert!(said.contains(&format!("capability {name}")), "{said}");
        assert!(said.contains("securityContext.capabilities"), "{said}");
    }
    assert_eq!(granted.len(), 3, "each has been taken away");
}
