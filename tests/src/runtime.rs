//! A container runtime's calls of the plugin, which it may cut half-way: each is started, then waited for or killed.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

use crate::agent::Agent;
use crate::cni::Answer;
use crate::netns::Netns;
use crate::process::MARK;

/// The runtime of one node: where the plugin is and what its network's configuration says.
#[derive(Clone, Debug)]
pub struct Runtime {
    program: PathBuf,
    socket: PathBuf,
    state_dir: PathBuf,
}

/// One call.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: &'static str,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; empty when the runtime has closed it already.
    pub netns: String,
    /// The pod's Kubernetes namespace and name.
    pub pod: (String, String),
    /// Further fields of the configuration, such as `prevResult` and `runtimeConfig`.
    pub fields: Map<String, Value>,
}

/// A plugin that runs.
#[derive(Debug)]
pub struct Running {
    command: &'static str,
    child: Child,
}

impl Runtime {
    /// The runtime of the node that `agent` is on.
    ///
    /// # Errors
    /// When the binaries are not there.
    pub fn of(agent: &Agent) -> Result<Self> {
        Ok(Self {
            program: crate::agent::binaries()?.join("portolan-cni"),
            socket: agent.cni_socket(),
            state_dir: agent.state_dir(),
        })
    }

    /// Starts the plugin in `node`'s namespace, without a program between that a signal would hit instead.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&self, node: &Netns, call: &Call) -> Result<Running> {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "portolan", "type": "portolan-cni",
            "socket": self.socket, "stateDir": self.state_dir,
        });
        if let Some(fields) = config.as_object_mut() {
            fields.extend(call.fields.clone());
        }
        let mut command = Command::new(&self.program);
        let (namespace, name) = &call.pod;
        command
            .env(MARK, std::process::id().to_string())
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", &call.container_id)
            .env("CNI_NETNS", &call.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.program.parent().unwrap_or(Path::new("/")))
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = node
            .inside(move || command.spawn())?
            .with_context(|| self.program.display().to_string())?;
        // A plugin that refuses before it reads closes the pipe; what it says tells more.
        let _ = child
            .stdin
            .take()
            .context("stdin")?
            .write_all(config.to_string().as_bytes());
        Ok(Running {
            command: call.command,
            child,
        })
    }

    /// Calls the plugin and waits for its answer.
    ///
    /// # Errors
    /// When it can't be started or says what is no JSON.
    pub fn call(&self, node: &Netns, call: &Call) -> Result<Answer> {
        self.start(node, call)?.finish()
    }
}

impl Running {
    /// Waits for its answer.
    ///
    /// # Errors
    /// When it says what is no JSON.
    pub fn finish(self) -> Result<Answer> {
        let output = self.child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let parsed = match text.trim() {
            "" => Value::Null,
            text => {
                serde_json::from_str(text).with_context(|| format!("{}: {text}", self.command))?
            }
        };
        Ok(Answer {
            is_success: output.status.success(),
            output: parsed,
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Kills it as `kill -9` does; whether it was still running.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill(mut self) -> Result<bool> {
        self.child.kill()?;
        let status = self.child.wait()?;
        Ok(status.signal() == Some(Signal::SIGKILL as i32))
    }
}
