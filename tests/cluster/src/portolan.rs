//! Portolan in a running cluster, deployed as its users do it: the image loaded, `kubectl apply -k`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::wait::eventually;

use crate::Programs;
use crate::cluster::Cluster;
use crate::fabric::{Link, TOR_AS};
use crate::kustomization::deploy;

/// The Namespace of the agent.
pub const NAMESPACE: &str = "portolan";

/// Its DaemonSet.
pub const AGENT: &str = "daemonset/portolan-agent";

/// How long nodes may take to be Ready after it was applied, on a machine that does much else.
const READY: Duration = Duration::from_secs(180);

/// The image's tar, which `scripts/image` makes: where it puts it, or where `PORTOLAN_IMAGE` says, to it and to us.
///
/// # Errors
/// When it isn't there.
pub fn image() -> Result<PathBuf> {
    if let Some(image) = std::env::var_os("PORTOLAN_IMAGE").map(PathBuf::from) {
        ensure!(image.is_file(), "no {}", image.display());
        return Ok(image);
    }
    let programs = Programs::find();
    let cache = programs.dir().ancestors().nth(2).unwrap_or(programs.dir());
    let image = cache.join("images/portolan.tar");
    ensure!(image.is_file(), "no {}: run make image", image.display());
    Ok(image)
}

/// The nodes peer with the ToR of their rack, each by the address that the ToR has on its link.
#[must_use]
pub fn peers() -> String {
    let mut text = "apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
"
    .to_owned();
    for link in [Link(1), Link(2)] {
        text += &format!(
            "---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {{name: rack-r{rack}}}
spec:
  nodeSelector: rack == 'r{rack}'
  peerAddress: {address}
  asNumber: {TOR_AS}
  holdTime: 9s
  gracefulRestart: {{restartTime: 30s}}
",
            rack = link.0,
            address = link.tor_v4(),
        );
    }
    text
}

impl Cluster {
    /// Applies `deploy/kubernetes` and the peers, and waits until every node is Ready by it.
    ///
    /// # Errors
    /// When it is refused, or a node doesn't become Ready: says what the agents' pods are about.
    pub fn deploy_portolan(&self) -> Result<()> {
        let plane = self.plane();
        plane.try_kubectl(&["apply", "-k", &deploy("kubernetes")])?;
        let established = ["wait", "--for=condition=Established", "crd", "--all"];
        plane.try_kubectl(&[&established[..], &["--timeout=60s"]].concat())?;
        plane.try_apply(&peers())?;
        self.tell("Portolan applied");
        for node in ["n1", "n2"] {
            self.wait_ready(node)?;
        }
        Ok(())
    }

    /// Waits until a node is Ready.
    ///
    /// # Errors
    /// When it isn't in time: says what the agents' pods are about.
    pub fn wait_ready(&self, node: &str) -> Result<()> {
        let ready = eventually(READY, &format!("{node} to be Ready"), || {
            let readiness = self.readiness(node)?;
            ensure!(readiness == "True", "Ready is {readiness}");
            Ok(())
        });
        ready.map_err(|error: anyhow::Error| {
            anyhow::anyhow!("{error:#}\n{}\n{}", self.describe(NAMESPACE), self.logs())
        })
    }

    /// A condition of a Node: its status and reason.
    ///
    /// # Errors
    /// When there is no such Node.
    pub fn node_condition(&self, node: &str, kind: &str) -> Result<(String, String)> {
        let node = self.get(&["node", node])?;
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        let found = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.get("type").is_some_and(|found| found == kind));
        let word = |name: &str| {
            let word = found.and_then(|condition| condition.get(name)?.as_str());
            word.unwrap_or("absent").to_owned()
        };
        Ok((word("status"), word("reason")))
    }
}
