//! Two nodes with agents and no kubelets on a real API server: the test makes Nodes and Pods, and calls the plugin as a runtime does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::agent::{Agent, binaries};
use tests::cni::{Answer, Sandbox, addresses};
use tests::netns::Netns;
use tests::process::MARK;
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::wait::eventually;

use crate::fabric::{Fabric, Link};
use crate::{ControlPlane, Options, Place, Scratch, refused};

/// How long what is asked of an API server may take until it shows, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Every node peers with its ToR; no mesh.
pub const TORS: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor-1}
spec: {nodeSelector: \"kubernetes.io/hostname == 'n1'\", peerAddress: 10.179.1.1, asNumber: 65100}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor-2}
spec: {nodeSelector: \"kubernetes.io/hostname == 'n2'\", peerAddress: 10.179.2.1, asNumber: 65100}
";

/// Nodes `n1` and `n2` on links of their own to the fabric's ToR, each in an AS of its own; the API server is outside.
#[derive(Debug)]
pub struct AgentLab {
    // In the order in which they are dropped.
    /// The nodes.
    pub nodes: Vec<AgentNode>,
    /// The API server.
    pub plane: ControlPlane,
    /// The ToR, and the network outside.
    pub fabric: Fabric,
    tag: String,
    _scratch: Scratch,
}

/// A node.
#[derive(Debug)]
pub struct AgentNode {
    /// Its agent.
    pub agent: Agent,
    /// Its namespace.
    pub netns: Netns,
    plugin: PathBuf,
}

/// A pod with an echo server.
#[derive(Debug)]
pub struct AgentPod {
    /// What the runtime has of it.
    pub sandbox: Sandbox,
    /// Its UID.
    pub uid: String,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    _server: Server,
}

impl AgentLab {
    /// Starts the ToR, the API server with our kinds, and the Nodes; no agent yet. `tag` is part of the names of namespaces.
    ///
    /// # Errors
    /// When a part doesn't come up.
    pub fn start(tag: &str) -> Result<Self> {
        let scratch = Scratch::new("ptl-agents-")?;
        let fabric = Fabric::start(2)?;
        let plane = ControlPlane::start(Options {
            place: Place::Namespace {
                name: fabric.outside().name().to_owned(),
                address: Link(0).v4().into(),
            },
            ..Options::default()
        });
        plane.install_crds();
        let kubeconfig = account(&plane)?;
        plane.kubectl(&["create", "namespace", "shop"]);
        for namespace in ["portolan", "shop"] {
            // Nobody makes it here, and a Pod wants it.
            let account = ["create", "serviceaccount", "default", "-n", namespace];
            plane.try_kubectl(&account)?;
        }
        let mut nodes = Vec::new();
        for number in [1, 2] {
            let name = format!("n{number}");
            let netns = fabric.plug(&name, Link(number))?;
            netns.sysctl("net.ipv4.ip_forward", "1")?;
            let agent = Agent::new(
                &name,
                &binaries()?.join("portolan"),
                &netns,
                scratch.path(),
                scratch.path(),
            )?;
            let agent = agent.with_kubeconfig(&kubeconfig);
            let plugin = binaries()?.join("portolan-cni");
            nodes.push(AgentNode {
                agent,
                netns,
                plugin,
            });
        }
        let lab = Self {
            nodes,
            plane,
            fabric,
            tag: tag.to_owned(),
            _scratch: scratch,
        };
        for number in [1, 2] {
            lab.make_node(number)?;
        }
        Ok(lab)
    }

    /// What a kubelet registers, with a taint as a kubelet's `--register-with-taints` has it.
    fn make_node(&self, number: u8) -> Result<()> {
        let name = format!("n{number}");
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": name, "labels": {"rack": "r1", "kubernetes.io/hostname": name},
                "annotations": {"portolan.io/as-number": (64_512 + u32::from(number)).to_string()},
            },
            "spec": {
                "podCIDR": format!("10.244.{number}.0/24"), "podCIDRs": [format!("10.244.{number}.0/24")],
                "taints": [{"key": "portolan.io/not-ready", "effect": "NoSchedule"}],
            },
        });
        self.plane.try_apply(&node.to_string())?;
        let address = json!({"type": "InternalIP", "address": Link(number).v4().to_string()});
        let status = json!({"status": {"addresses": [address]}}).to_string();
        let patch = [
            "patch",
            "node",
            &name,
            "--subresource=status",
            "-p",
            &status,
        ];
        self.plane.try_kubectl(&patch).map(drop)
    }

    /// Starts all agents with these flags, and waits until each is ready.
    ///
    /// # Errors
    /// When one isn't in time.
    pub fn start_agents(&mut self, flags: &[&str]) -> Result<()> {
        for node in &mut self.nodes {
            node.agent.set_arguments(flags);
            node.agent.start(&node.netns)?;
        }
        for node in &self.nodes {
            node.wait_ready()?;
        }
        Ok(())
    }

    /// Makes the object of a pod of namespace `shop` bound to a node, as a scheduler leaves it; its UID.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn make_pod(&self, name: &str, node: &str, app: &str) -> Result<String> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
            "spec": {
                "nodeName": node, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "none"}],
            },
        });
        let create = ["create", "-o", "jsonpath={.metadata.uid}", "-f", "-"];
        self.plane.kubectl_with(&create, &pod.to_string())
    }

    /// Makes a pod and attaches it; its address is told to the API server as by a kubelet.
    ///
    /// # Errors
    /// When the API server or the plugin refuses.
    pub fn run_pod(&self, name: &str, node: usize, app: &str) -> Result<AgentPod> {
        let uid = self.make_pod(name, &format!("n{}", node + 1), app)?;
        let sandbox = Sandbox::new(&self.tag, "shop", name)?;
        let pod = self.attach(node, sandbox, uid)?;
        self.tell_addresses(&pod)?;
        Ok(pod)
    }

    /// Calls ADD, and starts the echo server.
    ///
    /// # Errors
    /// When the plugin refuses.
    pub fn attach(&self, node: usize, sandbox: Sandbox, uid: String) -> Result<AgentPod> {
        let node = self.nodes.get(node).context("no such node")?;
        let result = node.call("ADD", &sandbox, &uid)?.success();
        let result = result.with_context(|| node.agent.log_end())?;
        let _server = Server::start(&sandbox.netns)?;
        Ok(AgentPod {
            addresses: addresses(&result),
            sandbox,
            uid,
            _server,
        })
    }

    /// What a kubelet tells of a pod that runs.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn tell_addresses(&self, pod: &AgentPod) -> Result<()> {
        let ips: Vec<Value> = pod.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let first = pod.addresses.first().context("no address")?;
        let status = json!({"status": {"phase": "Running", "podIP": first, "podIPs": ips}});
        let name = &pod.sandbox.name;
        let patch = [
            "-n",
            "shop",
            "patch",
            "pod",
            name,
            "--subresource=status",
            "-p",
        ];
        let status = status.to_string();
        self.plane
            .try_kubectl(&[&patch[..], &[status.as_str()]].concat())
            .map(drop)
    }

    /// Waits until an attempt of one pod to reach another ends so.
    ///
    /// # Errors
    /// When not in time; with the ends of the agents' logs.
    pub fn until(&self, from: &AgentPod, to: &AgentPod, wanted: Verdict) -> Result<()> {
        let logs = || -> Vec<String> {
            let nodes = self.nodes.iter();
            nodes.map(|node| node.agent.log_end()).collect()
        };
        eventually(PATIENCE, &format!("{wanted:?}"), || {
            let verdict = try_once(from, to)?;
            ensure!(verdict == wanted, "{verdict:?}");
            Ok(())
        })
        .with_context(|| logs().join("\n"))
    }

    /// That the agents have asked for much and were refused nothing for want of a right: a server that has just been started, and
    /// doesn't know its roles yet, grants it when it is asked again.
    ///
    /// # Errors
    /// When one was.
    pub fn ensure_no_refusals(&self) -> Result<()> {
        let user = "system:serviceaccount:portolan:portolan-agent";
        eventually(PATIENCE, "all that was refused to be granted", || {
            let requests = self.plane.requests().into_iter();
            let asked: Vec<_> = requests.filter(|request| request.user == user).collect();
            ensure!(asked.len() > 24, "only {} requests", asked.len());
            let refused = refused(&asked);
            ensure!(refused.is_empty(), "{refused:?}");
            Ok(())
        })
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, words: &[&str]) -> Result<Value> {
        let text = self
            .plane
            .try_kubectl(&[&["get", "-o", "json"], words].concat())?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// Makes the account that deploy/ gives agents, with its rights and those of `not-ready-taint`: agents here do with these.
fn account(plane: &ControlPlane) -> Result<PathBuf> {
    plane.try_apply(include_str!("../../../deploy/kubernetes/namespace.yaml"))?;
    plane.try_apply(include_str!("../../../deploy/kubernetes/rbac.yaml"))?;
    let role = "clusterrole/portolan-agent";
    let rule = json!([{
        "op": "add", "path": "/rules/-",
        "value": {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]},
    }]);
    plane.try_kubectl(&["patch", role, "--type=json", "-p", &rule.to_string()])?;
    Ok(plane.service_account_kubeconfig("portolan", "portolan-agent"))
}

/// Lets agents watch Services and write their statuses, as deploy/components/load-balancer does.
///
/// # Errors
/// When the API server refuses.
pub fn grant_load_balancers(plane: &ControlPlane) -> Result<()> {
    let rule = |group: &str, resource: &str, verbs: &[&str]| {
        let value = json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        json!({"op": "add", "path": "/rules/-", "value": value})
    };
    let rules = json!([
        rule("", "services", &["list", "watch"]),
        rule("discovery.k8s.io", "endpointslices", &["list", "watch"]),
        rule("", "services/status", &["patch"]),
    ]);
    let role = "clusterrole/portolan-agent";
    let patch = ["patch", role, "--type=json", "-p", &rules.to_string()];
    plane.try_kubectl(&patch).map(drop)
}

/// How many of so many attempts of one pod to reach another end so.
///
/// # Errors
/// When one can't be made.
pub fn count(from: &AgentPod, to: &AgentPod, wanted: Verdict, probes: usize) -> Result<usize> {
    let mut found = 0;
    for _ in 0..probes {
        found += usize::from(try_once(from, to)? == wanted);
    }
    Ok(found)
}

fn try_once(from: &AgentPod, to: &AgentPod) -> Result<Verdict> {
    let to = server_at(*to.addresses.first().context("no address")?);
    let patience = Duration::from_millis(500);
    attempt(&from.sandbox.netns, to, Transport::Tcp, patience)
}

impl AgentNode {
    /// Waits until the agent says that it is ready.
    ///
    /// # Errors
    /// When not in time; with the end of its log.
    pub fn wait_ready(&self) -> Result<()> {
        eventually(PATIENCE, &format!("{} is ready", self.agent.node()), || {
            let status = self.agent.status()?;
            ensure!(status.get("ready") == Some(&Value::Bool(true)), "{status}");
            Ok(())
        })
        .with_context(|| self.agent.log_end())
    }

    /// Calls the plugin as a Kubernetes runtime does, with the pod's UID.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn call(&self, command: &str, sandbox: &Sandbox, uid: &str) -> Result<Answer> {
        let config = json!({
            "cniVersion": "1.0.0", "name": "portolan", "type": "portolan-cni",
            "socket": self.agent.cni_socket(), "stateDir": self.agent.state_dir(),
        });
        let (namespace, name) = (&sandbox.namespace, &sandbox.name);
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
        );
        let netns = sandbox.netns.path();
        let folder = self.plugin.parent().context("the plugin's folder")?;
        let variables = [
            (MARK, std::process::id().to_string()),
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", sandbox.container_id.clone()),
            ("CNI_NETNS", netns.to_string_lossy().into_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", folder.to_string_lossy().into_owned()),
            ("CNI_ARGS", arguments),
        ];
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        tests::cni::run(&self.plugin, &self.netns, &variables, &config.to_string())
    }
}
