//! The CNI plugin: passes what the runtime asks for, and the pod's network namespace, to the agent on this node.
//!
//! Standard output bears JSON and nothing else; what a person should read goes to standard error.

mod agent;
mod delegate;
mod netns;
mod pending;
mod verbs;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use cni_spec::socket::MAX_FRAME;
use cni_spec::{CniError, CniVersion, Environment, ErrorCode, NetworkConfig};
use serde_json::Value;

use verbs::Call;

fn main() -> ExitCode {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .map(|(key, value)| (lossy(key), lossy(value)))
        .filter(|(key, _)| key.starts_with("CNI_"))
        .collect();
    let mut version = CniVersion::LATEST;
    let (output, code) = match run(&variables, &mut version) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(version)), ExitCode::FAILURE),
    };
    match output.map_or(Ok(()), |json| print(&json)) {
        Ok(()) => code,
        Err(error) => {
            say(&format!("cannot write the result: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Does what the environment asks for; what is to be printed, if anything. Notes the version to print errors in.
fn run(
    variables: &BTreeMap<String, String>,
    version: &mut CniVersion,
) -> Result<Option<Value>, CniError> {
    let invocation = match Environment::parse(variables)? {
        Environment::NoCommand => {
            let versions = CniVersion::SUPPORTED.map(CniVersion::as_str).join(", ");
            say(&format!(
                "CNI plugin of the Portolan agent, started by container runtimes; CNI versions {versions}"
            ));
            return Ok(None);
        }
        Environment::Version => return Ok(Some(CniVersion::version_output())),
        Environment::Invocation(invocation) => invocation,
    };
    let bytes = read_config()?;
    let config = NetworkConfig::parse(&bytes).inspect_err(|_| {
        *version = version_said(&bytes).unwrap_or(*version);
    })?;
    *version = config.cni_version;
    let search = variables.get("CNI_PATH").cloned().unwrap_or_default();
    Call {
        invocation,
        config,
        bytes,
        search,
    }
    .carry_out()
}

fn read_config() -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    let limit = MAX_FRAME as u64 + 1;
    io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            CniError::new(ErrorCode::Io, "cannot read the network configuration")
                .details(error.to_string())
        })?;
    if bytes.len() > MAX_FRAME {
        return Err(
            CniError::new(ErrorCode::InvalidConfig, "network configuration too long")
                .details(format!("at most {MAX_FRAME} bytes are read")),
        );
    }
    Ok(bytes)
}

/// The version of a configuration that has something else wrong with it.
fn version_said(bytes: &[u8]) -> Option<CniVersion> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    value.get("cniVersion")?.as_str()?.parse().ok()
}

fn print(json: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, json)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Says something to the person reading the runtime's log; nothing depends on it being heard.
pub(crate) fn say(text: &str) {
    drop(writeln!(io::stderr(), "portolan-cni: {text}"));
}

fn lossy(text: std::ffi::OsString) -> String {
    text.to_string_lossy().into_owned()
}
