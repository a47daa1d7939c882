//! Asks the plugin itself: which versions it speaks, and whether the agent behind it is well.

use std::io;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cni_spec::CniVersion;
use serde_json::{Value, json};

use super::conflist::{NETWORK, PLUGIN, Version};
use crate::exec;

/// How often the agent is asked whether it is well.
const PAUSE: Duration = Duration::from_millis(200);
/// A plugin answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sees to it that a binary runs here and speaks what the configuration will say.
///
/// # Errors
/// If it does not: it is of another machine, damaged, or too old.
pub(super) fn speaks(plugin: &Path, version: Version) -> anyhow::Result<()> {
    let output = ask(plugin, "VERSION", "")?;
    let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "{} gives no answer to VERSION: is it the plugin?",
            plugin.display()
        )
    })?;
    let supported = answer.get("supportedVersions").and_then(Value::as_array);
    let supported: Vec<&str> = supported
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let wanted = match version {
        Version::Auto => vec![CniVersion::V1_0_0, CniVersion::V1_1_0],
        Version::Only(version) => vec![version],
    };
    for version in wanted {
        ensure!(
            supported.contains(&version.as_str()),
            "{} does not speak CNI {version}, only {}",
            plugin.display(),
            supported.join(", ")
        );
    }
    Ok(())
}

/// Waits until the agent says that it can attach pods.
///
/// # Errors
/// If it does not in time; with what it said last.
pub(super) fn wait_for_agent(plugin: &Path, socket: &str, wait: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    loop {
        let Err(error) = status(plugin, socket) else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let seconds = wait.as_secs_f32();
            return Err(error.context(format!(
                "the agent is not ready after {seconds} s, so the configuration was not put in place: the runtime would \
                 start pods that cannot be attached"
            )));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks once whether the agent can attach pods.
///
/// # Errors
/// If it cannot, or does not answer; with what it said.
pub(super) fn status(plugin: &Path, socket: &str) -> anyhow::Result<()> {
    let config = json!({"cniVersion": CniVersion::V1_1_0, "name": NETWORK, "type": PLUGIN, "socket": socket});
    let output = ask(plugin, "STATUS", &config.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let error: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let word = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    anyhow::bail!("STATUS: {}: {}", word("msg"), word("details"))
}

fn ask(plugin: &Path, command: &str, input: &str) -> anyhow::Result<Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let environment = [("CNI_COMMAND", command), ("CNI_PATH", "/")];
    let deadline = Instant::now() + PATIENCE;
    let output = loop {
        let run = exec::run_plugin(plugin, &environment, input, PATIENCE);
        match runtime.block_on(run) {
            // Someone has it open for writing: another program was forked off while it was written.
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(PAUSE / 20);
            }
            output => break output,
        }
    };
    output.with_context(|| format!("cannot run {}", plugin.display()))
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ExecutableFileBusy
}
