//! The CNI plugin, called the way a container runtime calls it: environment, stdin, stdout, exit code.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::netns::Netns;
use crate::process::MARK;

/// A plugin binary and the configuration that a node's folder would hold.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// The binary.
    pub program: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
    /// `cniVersion` of the configuration.
    pub version: String,
}

/// A pod as the runtime knows it.
#[derive(Debug)]
pub struct Sandbox {
    /// Its network namespace.
    pub netns: Netns,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes name.
    pub name: String,
}

/// What one call of the plugin gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it exited with 0.
    pub is_success: bool,
    /// Its standard output, parsed; null if it said nothing.
    pub output: Value,
    /// Its standard error.
    pub said: String,
}

impl Answer {
    /// The output of a success.
    ///
    /// # Errors
    /// When the plugin refused: with what it said.
    pub fn success(self) -> Result<Value> {
        if !self.is_success {
            bail!("the plugin refused: {} {}", self.output, self.said.trim());
        }
        Ok(self.output)
    }

    /// The error code of a refusal (CNI specification, "Error").
    #[must_use]
    pub fn code(&self) -> Option<u64> {
        self.output.get("code").and_then(Value::as_u64)
    }
}

impl Sandbox {
    /// A pod with a new, empty namespace.
    ///
    /// # Errors
    /// When the namespace can't be made.
    pub fn new(tag: &str, namespace: &str, name: &str) -> Result<Self> {
        let netns = Netns::new(tag, name)?;
        let container_id = format!("{}-{namespace}", netns.name());
        Ok(Self {
            netns,
            container_id,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Plugin {
    /// Calls the plugin in `node`'s namespace.
    ///
    /// # Errors
    /// When it can't be started or says what is no JSON.
    pub fn call(
        &self,
        command: &str,
        node: &Netns,
        sandbox: &Sandbox,
        previous: Option<&Value>,
    ) -> Result<Answer> {
        let previous = previous.map(|result| ("prevResult".to_owned(), result.clone()));
        self.call_with(command, node, sandbox, previous.into_iter().collect())
    }

    /// Calls the plugin in `node`'s namespace, with these further fields of the configuration.
    ///
    /// # Errors
    /// When it can't be started or says what is no JSON.
    pub fn call_with(
        &self,
        command: &str,
        node: &Netns,
        sandbox: &Sandbox,
        fields: Map<String, Value>,
    ) -> Result<Answer> {
        let mut config = json!({
            "cniVersion": self.version, "name": "portolan", "type": "portolan-cni", "socket": self.socket,
        });
        if let Some(known) = config.as_object_mut() {
            known.extend(fields);
        }
        let (namespace, name) = (&sandbox.namespace, &sandbox.name);
        let folder = self.program.parent().context("the plugin's folder")?;
        let netns = sandbox.netns.path();
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &sandbox.container_id),
            ("CNI_NETNS", &netns.to_string_lossy()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", &folder.to_string_lossy()),
            (
                "CNI_ARGS",
                &format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"),
            ),
        ];
        run(&self.program, node, &variables, &config.to_string())
    }
}

/// Runs a plugin in `node`'s namespace with these variables and this on its standard input.
///
/// # Errors
/// When it can't be started or says what is no JSON.
pub fn run(
    program: &Path,
    node: &Netns,
    variables: &[(&str, &str)],
    config: &str,
) -> Result<Answer> {
    let mut child = node
        .command(program)
        .env(MARK, std::process::id().to_string())
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.display().to_string())?;
    // A plugin that refuses before it reads closes the pipe; what it says tells more.
    let _ = child
        .stdin
        .take()
        .context("stdin")?
        .write_all(config.as_bytes());
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let parsed = match text.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).with_context(|| text.to_owned())?,
    };
    Ok(Answer {
        is_success: output.status.success(),
        output: parsed,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The addresses that a result of ADD names, without their prefix lengths.
#[must_use]
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let listed = result
        .get("ips")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let texts = listed.filter_map(|ip| ip.get("address")?.as_str()?.split('/').next());
    texts.filter_map(|text| text.parse().ok()).collect()
}
