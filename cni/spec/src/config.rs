//! The network configuration a plugin is given on standard input.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AddResult, CniError, CniVersion, Command, Dns, ErrorCode, grammar};

/// Where the agent listens unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/portolan/cni.sock";
/// Where deletions wait for the agent unless the configuration says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/portolan";

/// A configuration, checked. Keys that are not ours are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct NetworkConfig {
    /// The version the runtime speaks.
    pub cni_version: CniVersion,
    /// The network's name.
    pub name: String,
    /// The plugin's binary.
    pub plugin_type: String,
    /// The agent's socket.
    pub socket: String,
    /// The agent's state folder.
    pub state_dir: String,
    /// Which capabilities the configuration grants; runtimes take it out before the plugin sees it.
    pub capabilities: BTreeMap<String, bool>,
    /// What the runtime passes for them (`ips`, `mac`, `portMappings`, `bandwidth`, ...).
    pub runtime_config: Map<String, Value>,
    /// Generic arguments.
    pub args: Map<String, Value>,
    /// Name servers to put into the result.
    pub dns: Dns,
    /// The IPAM plugin asked for, if any.
    pub ipam_type: Option<String>,
    /// The result of the plugin before us (ADD) or of the whole chain (CHECK, DEL), unread.
    pub prev_result: Option<Value>,
    /// GC: the attachments to keep; `None` when the key is absent, which is not the same as none.
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// One attachment that GC must leave alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The container's ID.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name inside it.
    pub ifname: String,
}

impl NetworkConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Not JSON or of the wrong types (code 6), a version we do not speak (1), a value that makes no sense (7).
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let undecodable = |error: serde_json::Error| {
            let msg = "cannot decode the network configuration";
            CniError::new(ErrorCode::Decoding, msg).details(error.to_string())
        };
        // An object and nothing else: serde would take a list of values for one, too.
        let members: Map<String, Value> = serde_json::from_slice(bytes).map_err(undecodable)?;
        let written = Written::deserialize(Value::Object(members)).map_err(undecodable)?;
        Self::try_from(written)
    }

    /// Whether this version has the verb, and the configuration what the verb needs.
    ///
    /// # Errors
    /// Code 1 for the version, 2 for what we do not do, 7 for what is missing.
    pub fn check_command(&self, command: Command) -> Result<(), CniError> {
        let since = match command {
            Command::Add | Command::Del => CniVersion::V0_1_0,
            Command::Check => CniVersion::V0_4_0,
            Command::Gc | Command::Status => CniVersion::V1_1_0,
        };
        if self.cni_version < since {
            let msg = format!("config version does not allow {command}");
            return Err(
                CniError::new(ErrorCode::IncompatibleVersion, msg).details(format!(
                    "config is {}, {command} came with {since}",
                    self.cni_version
                )),
            );
        }
        match command {
            Command::Add => self.ipam_plugin().and_then(|_| self.check_capabilities()),
            Command::Check if self.prev_result.is_none() => Err(config("prevResult is missing")
                .details("CHECK compares with the result of ADD, which the runtime passes")),
            Command::Gc if self.valid_attachments.is_none() => {
                Err(config("cni.dev/valid-attachments is missing")
                    .details("GC deletes what it does not name, so nothing was deleted"))
            }
            _ => Ok(()),
        }
    }

    /// The result passed along, if there is one.
    ///
    /// # Errors
    /// If it cannot be read (code 6).
    pub fn previous_result(&self) -> Result<Option<AddResult>, CniError> {
        self.prev_result
            .as_ref()
            .map(|value| AddResult::from_json(value, self.cni_version))
            .transpose()
    }

    /// The IPAM plugin's file name, if one is named.
    ///
    /// # Errors
    /// If it is none, or that of this very plugin (code 7).
    pub fn ipam_plugin(&self) -> Result<Option<&str>, CniError> {
        let Some(name) = self.ipam_type.as_deref() else {
            return Ok(None);
        };
        let wrong =
            |why: &str| Err(config("invalid ipam.type").details(format!("{name:?} is {why}")));
        if !grammar::is_file_name(name) {
            return wrong("not the name of a file");
        }
        if name == self.plugin_type {
            return wrong("the plugin that asks; take ipam out to have its own addresses");
        }
        Ok(Some(name))
    }

    /// Whether the plugins before us have left the interface to us.
    ///
    /// # Errors
    /// If `prevResult` cannot be read (code 6), or has the interface in this namespace (code 100).
    pub fn check_previous(&self, interface: &str, netns: &str) -> Result<(), CniError> {
        let previous = self.previous_result()?.unwrap_or_default();
        let mut made = previous.interfaces.iter();
        if made.any(|other| other.name == interface && other.sandbox == netns) {
            return Err(CniError::interface_exists(interface));
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    plugin_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    socket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_dir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capabilities: Option<BTreeMap<String, bool>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    runtime_config: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    args: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns: Option<Dns>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipam: Option<WrittenIpam>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev_result: Option<Value>,
    #[serde(
        default,
        rename = "cni.dev/valid-attachments",
        skip_serializing_if = "Option::is_none"
    )]
    valid_attachments: Option<Vec<Attachment>>,
    /// The name libcni gave the list before 1.1 was final, and still sends beside it.
    #[serde(default, rename = "cni.dev/attachments", skip_serializing)]
    attachments: Option<Vec<Attachment>>,
}

#[derive(Serialize, Deserialize)]
struct WrittenIpam {
    #[serde(default, rename = "type")]
    plugin_type: String,
}

impl TryFrom<Written> for NetworkConfig {
    type Error = CniError;

    fn try_from(written: Written) -> Result<Self, CniError> {
        let cni_version = match written.cni_version.as_str() {
            "" => CniVersion::V0_1_0,
            text => text.parse()?,
        };
        if written.name.is_empty() {
            return Err(config("missing network name"));
        }
        if !grammar::is_identifier(&written.name) {
            return Err(config("invalid network name").details(format!(
                "{:?} is not of [a-zA-Z0-9][a-zA-Z0-9_.-]*",
                written.name
            )));
        }
        Ok(Self {
            cni_version,
            name: written.name,
            plugin_type: written.plugin_type,
            socket: absolute("socket", written.socket, DEFAULT_SOCKET)?,
            state_dir: absolute("stateDir", written.state_dir, DEFAULT_STATE_DIR)?,
            capabilities: written.capabilities.unwrap_or_default(),
            runtime_config: written.runtime_config.unwrap_or_default(),
            args: written.args.unwrap_or_default(),
            dns: written.dns.unwrap_or_default(),
            ipam_type: written
                .ipam
                .map(|ipam| ipam.plugin_type)
                .filter(|name| !name.is_empty()),
            prev_result: written.prev_result.filter(|value| !value.is_null()),
            valid_attachments: written.valid_attachments.or(written.attachments),
        })
    }
}

impl From<NetworkConfig> for Written {
    fn from(config: NetworkConfig) -> Self {
        Self {
            cni_version: config.cni_version.to_string(),
            name: config.name,
            plugin_type: config.plugin_type,
            socket: Some(config.socket),
            state_dir: Some(config.state_dir),
            capabilities: Some(config.capabilities).filter(|map| !map.is_empty()),
            runtime_config: Some(config.runtime_config).filter(|map| !map.is_empty()),
            args: Some(config.args).filter(|map| !map.is_empty()),
            dns: Some(config.dns).filter(|dns| *dns != Dns::default()),
            ipam: config
                .ipam_type
                .map(|plugin_type| WrittenIpam { plugin_type }),
            prev_result: config.prev_result,
            valid_attachments: config.valid_attachments,
            attachments: None,
        }
    }
}

fn absolute(key: &str, path: Option<String>, default: &str) -> Result<String, CniError> {
    match path {
        None => Ok(default.to_owned()),
        Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(path),
        Some(path) => {
            Err(config(format!("invalid {key}"))
                .details(format!("{path:?} is not an absolute path")))
        }
    }
}

fn config(msg: impl Into<String>) -> CniError {
    CniError::new(ErrorCode::InvalidConfig, msg)
}
