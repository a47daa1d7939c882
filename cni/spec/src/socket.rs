//! The contract between the plugin and the agent: one request and one response on a Unix stream socket.
//!
//! Each is a frame: its length (u32, big-endian) and that many bytes of JSON, 1 MiB at most. With the first byte of
//! an ADD or CHECK the plugin passes two descriptors by SCM_RIGHTS: the pod's network namespace, then a
//! NETLINK_ROUTE socket (raw, close-on-exec, not yet bound) that was made inside it. Other verbs pass none.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::environment::{ARG_IP, ARG_MAC, check_arg, check_names};
use crate::{AddResult, CniError, Command, Invocation, NetworkConfig};

/// The longest JSON text of a frame, in bytes.
pub const MAX_FRAME: usize = 1 << 20;
/// How many descriptors come with an ADD or CHECK.
pub const DESCRIPTORS: usize = 2;
/// The folder under the state folder where deletions wait that no agent was there to take.
pub const PENDING_DELETIONS: &str = "pending-del";

/// What the runtime asked for, checked. A pending deletion on disk is a `Request` in JSON, without a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Request {
    /// The verb.
    pub command: Command,
    /// The container's ID; empty for GC and STATUS.
    pub container_id: String,
    /// The namespace's path as the runtime said it: for messages and the result, never to be opened.
    pub netns: Option<String>,
    /// The interface's name inside the container; empty for GC and STATUS.
    pub interface: String,
    /// What `CNI_ARGS` said: the keys are the `ARG_*` of [`crate::environment`].
    pub args: BTreeMap<String, String>,
    /// The configuration.
    pub config: NetworkConfig,
    /// What the delegated IPAM plugin gave, when the configuration names one: for ADD.
    pub delegated: Option<AddResult>,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// ADD went well.
    Result(AddResult),
    /// Any other verb went well.
    Done,
    /// It did not.
    Error(CniError),
}

/// Why bytes are not a frame, or a value does not fit one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    /// Not the JSON that was expected.
    #[error("cannot decode a frame: {0}")]
    Json(#[from] serde_json::Error),
}

impl Request {
    /// What a verb of the runtime's asks of the agent. What `CNI_ARGS` asks for and no capability does is put where
    /// capabilities are.
    pub fn new(mut invocation: Invocation, mut config: NetworkConfig) -> Self {
        if let Some(ips) = invocation.args.remove(ARG_IP) {
            let list = ips.split(',').map(str::trim).collect::<Vec<_>>();
            config.ask_for("ips", list.into());
        }
        if let Some(mac) = invocation.args.remove(ARG_MAC) {
            config.ask_for("mac", mac.into());
        }
        Self {
            command: invocation.command,
            container_id: invocation.container_id,
            netns: invocation.netns,
            interface: invocation.interface,
            args: invocation.args,
            config,
            delegated: None,
        }
    }

    /// The name under which this attachment's deletion waits in [`PENDING_DELETIONS`]; an ADD of the same
    /// attachment must take it away.
    pub fn pending_deletion_name(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.container_id.as_bytes());
        hash.update([0]);
        hash.update(self.interface.as_bytes());
        let mut name: String = hash
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        name.push_str(".json");
        name
    }
}

/// Writes a frame.
///
/// # Errors
/// If the value is too long, or cannot be said in JSON.
pub fn encode_frame<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(value)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_FRAME);
    let length = length.ok_or(FrameError::TooLong(body.len()))?;
    Ok([length.to_be_bytes().as_slice(), &body].concat())
}

/// Reads the first frame of `bytes`: the value and how many bytes it took, or `None` while more must come.
///
/// # Errors
/// If what is there already can never become a frame of a `T`.
pub fn decode_frame<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    Ok(Some((serde_json::from_slice(body)?, header.len() + length)))
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    command: Command,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    container_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    interface: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    args: BTreeMap<String, String>,
    config: NetworkConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delegated: Option<AddResult>,
}

impl TryFrom<Written> for Request {
    type Error = CniError;

    /// The agent checks again: a peer on its socket need not be our plugin.
    fn try_from(written: Written) -> Result<Self, CniError> {
        check_names(written.command, &written.container_id, &written.interface)?;
        for (key, value) in &written.args {
            check_arg(key, value)?;
        }
        Ok(Self {
            command: written.command,
            container_id: written.container_id,
            netns: written.netns,
            interface: written.interface,
            args: written.args,
            config: written.config,
            delegated: written.delegated,
        })
    }
}

impl From<Request> for Written {
    fn from(request: Request) -> Self {
        Self {
            command: request.command,
            container_id: request.container_id,
            netns: request.netns,
            interface: request.interface,
            args: request.args,
            config: request.config,
            delegated: request.delegated,
        }
    }
}
