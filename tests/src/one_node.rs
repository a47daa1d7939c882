//! One node with an agent for policy and pods alone, a host outside on its link, and both families.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use crate::agent::{Agent, binaries};
use crate::cni::{Answer, Plugin, Sandbox, addresses};
use crate::netns::{self, Netns};

/// The node, as its manifest says; the host outside has the addresses that end in `:10`, and any that a test adds.
const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node1}
spec:
  podCIDRs: [10.244.1.0/24, \"fd00:244:1::/64\"]
status:
  addresses:
    - {type: InternalIP, address: 192.0.2.1}
---
";

/// An attached pod.
#[derive(Debug)]
pub struct Attached {
    /// As the runtime knows it.
    pub sandbox: Sandbox,
    /// IPv4, then IPv6.
    pub addresses: Vec<IpAddr>,
}

/// All of it. Dropping it ends every process and removes every namespace.
#[derive(Debug)]
pub struct OneNode {
    /// The agent.
    pub agent: Agent,
    /// The pods.
    pub pods: Vec<Attached>,
    /// The node.
    pub node: Netns,
    /// The host outside.
    pub outside: Netns,
    tag: String,
    dir: tempfile::TempDir,
    binaries: PathBuf,
}

impl OneNode {
    /// Lays it out and starts the agent, with these further manifests and flags.
    ///
    /// # Errors
    /// When a part can't be made, or the agent isn't in sync in time.
    pub fn start(tag: &str, manifests: &str, flags: &[&str]) -> Result<Self> {
        Self::start_with(tag, "policy,cni", manifests, flags)
    }

    /// The same with these features of the agent.
    ///
    /// # Errors
    /// When a part can't be made, or the agent isn't in sync in time.
    pub fn start_with(tag: &str, features: &str, manifests: &str, flags: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ptl-one-").tempdir()?;
        let binaries = binaries()?;
        let (node, outside) = (Netns::new(tag, "node")?, Netns::new(tag, "outside")?);
        netns::join((&node, "uplink"), (&outside, "eth0"))?;
        node.ip("addr add 192.0.2.1/24 dev uplink")?;
        node.ip("addr add 2001:db8::1/64 dev uplink nodad")?;
        outside.ip("addr add 192.0.2.10/24 dev eth0")?;
        outside.ip("addr add 2001:db8::10/64 dev eth0 nodad")?;
        outside.ip("route add default via 192.0.2.1")?;
        outside.ip("route add default via 2001:db8::1")?;
        let folder = dir.path().join("manifests");
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("all.yaml"), format!("{NODE}{manifests}"))?;
        let program = binaries.join("portolan");
        let mut agent =
            Agent::new("node1", &program, &node, dir.path(), &folder)?.with_features(features);
        agent.set_arguments(flags);
        agent.start(&node)?;
        agent.wait_synced()?;
        Ok(Self {
            agent,
            pods: Vec::new(),
            node,
            outside,
            tag: tag.to_owned(),
            dir,
            binaries,
        })
    }

    /// Attaches a pod of the manifests.
    ///
    /// # Errors
    /// When the plugin refuses.
    pub fn attach(&mut self, namespace: &str, name: &str) -> Result<&Attached> {
        self.attach_with(namespace, name, Map::new())
    }

    /// The same, with further fields of the configuration, such as `runtimeConfig`.
    ///
    /// # Errors
    /// When the plugin refuses.
    pub fn attach_with(
        &mut self,
        namespace: &str,
        name: &str,
        fields: Map<String, Value>,
    ) -> Result<&Attached> {
        let sandbox = Sandbox::new(&self.tag, namespace, name)?;
        let answer = self.call("ADD", &sandbox, fields)?;
        let result: Value = answer.success().with_context(|| self.agent.log_end())?;
        let mut addresses = addresses(&result);
        addresses.sort_by_key(IpAddr::is_ipv6);
        self.pods.push(Attached { sandbox, addresses });
        self.pods.last().context("the pod just attached")
    }

    /// Calls the plugin as the runtime does.
    ///
    /// # Errors
    /// When it can't be started or says what is no JSON.
    pub fn call(
        &self,
        command: &str,
        sandbox: &Sandbox,
        fields: Map<String, Value>,
    ) -> Result<Answer> {
        let plugin = Plugin {
            program: self.binaries.join("portolan-cni"),
            socket: self.agent.cni_socket(),
            version: "1.0.0".to_owned(),
        };
        plugin.call_with(command, &self.node, sandbox, fields)
    }

    /// Detaches a pod, the last one if there are several of the name.
    ///
    /// # Errors
    /// When there is none, or the plugin refuses.
    pub fn detach(&mut self, namespace: &str, name: &str) -> Result<Attached> {
        let is_it = |pod: &Attached| pod.sandbox.full_name() == format!("{namespace}/{name}");
        let place = self.pods.iter().rposition(is_it).context("no such pod")?;
        let pod = self.pods.remove(place);
        self.call("DEL", &pod.sandbox, Map::new())?.success()?;
        Ok(pod)
    }

    /// A folder that goes with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}
