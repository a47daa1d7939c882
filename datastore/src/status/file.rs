//! What a status file says, and the check that its node speaks of itself only.

use std::net::IpAddr;

use api::crd::NodeWireGuard;
use api::metadata::{is_dns_label, is_dns_subdomain};
use api::resources::{BgpNodeStatus, WireGuardKeys};
use serde::{Deserialize, Serialize};

use crate::directory::FileRead;
use crate::document::Fault;
use crate::held::Held;

/// A pod's addresses, as its node's agent gave them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid; empty where the runtime gave none.
    #[serde(default)]
    pub uid: String,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<IpAddr>,
}

/// A status file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusFile {
    /// The node that wrote it; the file is named after it.
    pub(crate) node: String,
    /// One more at every write.
    pub(crate) generation: u64,
    /// The node's pods, by namespace and name.
    pub(crate) pods: Vec<PodStatus>,
    /// The node's WireGuard keys, once it has some.
    #[serde(default, rename = "wireGuard", skip_serializing_if = "Option::is_none")]
    pub(crate) wire_guard: Option<NodeWireGuard>,
}

/// What is in force of a status file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StatusContents {
    /// The entries whose names are names.
    pub(crate) pods: Vec<PodStatus>,
    /// The node's WireGuard keys; none where they are wrong, or it has none.
    pub(crate) keys: Option<WireGuardKeys>,
    /// What is wrong in it.
    pub(crate) faults: Vec<Fault>,
    broken: bool,
}

impl Held for StatusContents {
    fn read(file_name: &str, file: &FileRead) -> Self {
        match parse(file_name, file.text_or_reason()) {
            Ok(file) => Self::checked(file),
            Err(message) => Self {
                faults: vec![Fault {
                    line: None,
                    object: None,
                    message,
                }],
                broken: true,
                ..Self::default()
            },
        }
    }

    fn is_broken(&self) -> bool {
        self.broken
    }

    /// Agents rename their file into place, so what is missing is never still to come.
    fn loses(&self, _: &Self) -> bool {
        false
    }

    fn with_complaints_of(self, broken: Self) -> Self {
        Self {
            pods: self.pods,
            keys: self.keys,
            faults: broken.faults,
            broken: true,
        }
    }
}

impl StatusContents {
    fn checked(file: StatusFile) -> Self {
        let mut contents = Self::default();
        match file.wire_guard.as_ref().map(BgpNodeStatus::read_keys) {
            Some(Ok(keys)) => contents.keys = Some(keys),
            Some(Err(message)) => contents.faults.push(Fault {
                line: None,
                object: None,
                message,
            }),
            None => {}
        }
        for pod in file.pods {
            if is_dns_label(&pod.namespace) && is_dns_subdomain(&pod.name) {
                contents.pods.push(pod);
                continue;
            }
            let message = format!(
                "{:?} is no pod's name",
                format!("{}/{}", pod.namespace, pod.name)
            );
            contents.faults.push(Fault {
                line: None,
                object: None,
                message,
            });
        }
        contents
    }
}

fn parse(file_name: &str, text: Result<&str, &str>) -> Result<StatusFile, String> {
    let node = node_of(file_name).ok_or("the file is not named after a node")?;
    let file: StatusFile = serde_json::from_str(text?).map_err(|error| error.to_string())?;
    if file.node != node {
        return Err(format!(
            "the file speaks for node {:?}, not for its own",
            file.node
        ));
    }
    Ok(file)
}

/// The node that a status file is named after.
pub(crate) fn node_of(file_name: &str) -> Option<&str> {
    file_name
        .strip_suffix(".json")
        .filter(|node| is_dns_subdomain(node))
}
