//! The reference implementation's cnitool: whole chains of plugins, driven as a runtime drives them by libcni.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::agent::binaries;
use crate::cni::Answer;
use crate::netns::Netns;
use crate::process::MARK;

/// Where Debian puts the reference plugins.
pub const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// Configurations in a folder of its own, and libcni's cache in another.
#[derive(Debug)]
pub struct CniTool {
    program: PathBuf,
    configs: PathBuf,
    cache: PathBuf,
    search: OsString,
    capabilities: Value,
}

impl CniTool {
    /// One that has its folders in `dir` and finds our plugin, then the reference ones.
    ///
    /// # Errors
    /// When the folders can't be made, or `scripts/test` has not built what is driven.
    pub fn new(dir: &Path) -> Result<Self> {
        let (configs, cache) = (dir.join("net.d"), dir.join("cni-cache"));
        for folder in [&configs, &cache] {
            std::fs::create_dir_all(folder)?;
        }
        let search = std::env::join_paths([binaries()?, PathBuf::from(REFERENCE_PLUGINS)])?;
        Ok(Self {
            program: reference("cnitool")?,
            configs,
            cache,
            search,
            capabilities: Value::Null,
        })
    }

    /// From now on, it passes these to the plugins that declare them.
    pub fn set_capabilities(&mut self, capabilities: Value) {
        self.capabilities = capabilities;
    }

    /// Writes a network of these plugins.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn network(&self, name: &str, version: &str, plugins: &[Value]) -> Result<()> {
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        let file = self.configs.join(format!("{name}.conflist"));
        std::fs::write(file, list.to_string()).context("a network's configuration")
    }

    /// Runs a verb for a pod in `node`'s namespace, libcni's cache being this one's.
    ///
    /// # Errors
    /// When it can't be started, or says what is no JSON.
    pub fn call(&self, verb: &str, node: &Netns, network: &str, pod: &Netns) -> Result<Answer> {
        // `ip netns exec` has given it mounts of its own; the cache's place is compiled in.
        let script = "mkdir -p /var/lib/cni && mount --bind \"$0\" /var/lib/cni && exec \"$@\"";
        let mut command = node.command("sh");
        command.args(["-c", script]).arg(&self.cache);
        command
            .arg(&self.program)
            .args([verb, network])
            .arg(pod.path());
        command.env(MARK, std::process::id().to_string());
        command.env("CNI_PATH", &self.search);
        command.env("NETCONFPATH", &self.configs);
        command.env_remove("CNI_IFNAME").env_remove("CNI_ARGS");
        if !self.capabilities.is_null() {
            command.env("CAP_ARGS", self.capabilities.to_string());
        }
        let output = command.output().context("cnitool can't be started")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // After an error it prints how it is used.
        let json = text.trim_start().starts_with('{');
        Ok(Answer {
            is_success: output.status.success(),
            output: match json {
                true => serde_json::from_str(&text).with_context(|| format!("{verb}: {text}"))?,
                false => Value::Null,
            },
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// A program that `scripts/fetch-cnitool` has built.
///
/// # Errors
/// When it is not there.
pub fn reference(name: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let program = cache
        .or(home)
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let program = program.join("portolan/bin").join(name);
    anyhow::ensure!(
        program.is_file(),
        "{} is not there: run scripts/fetch-cnitool",
        program.display()
    );
    Ok(program)
}
