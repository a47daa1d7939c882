//! The CNI plugin: passes what the runtime asks for, and the pod's network namespace, to the agent on this node.
//!
//! Standard output bears JSON and nothing else; what a person should read goes to standard error.

mod agent;
mod netns;
mod pending;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use cni_spec::socket::{MAX_FRAME, Request, Response};
use cni_spec::{
    CniError, CniVersion, Command, Dns, Environment, ErrorCode, Invocation, NetworkConfig,
};
use serde_json::Value;

use agent::{Away, Connection};
use netns::Netns;

/// How long the agent may take over one request, counted from the connect.
const PATIENCE: Duration = Duration::from_secs(60);

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
    config.check_command(invocation.command)?;
    match invocation.command {
        Command::Add => return add(invocation, config).map(Some),
        Command::Del => delete(Request::new(invocation, config))?,
        Command::Check => done(attach(invocation, config)?)?,
        Command::Gc => done(forward(&Request::new(invocation, config)).map_err(try_again)?)?,
        Command::Status => done(forward(&Request::new(invocation, config)).map_err(unavailable)?)?,
    }
    Ok(None)
}

fn add(invocation: Invocation, config: NetworkConfig) -> Result<Value, CniError> {
    let (version, dns) = (config.cni_version, config.dns.clone());
    match attach(invocation, config)? {
        Response::Result(mut result) => {
            if result.dns == Dns::default() {
                result.dns = dns;
            }
            result.to_json(version)
        }
        Response::Error(error) => Err(error),
        Response::Done => Err(unexpected()),
    }
}

/// Asks for an ADD or CHECK, with the pod's namespace and a netlink socket in it.
fn attach(invocation: Invocation, config: NetworkConfig) -> Result<Response, CniError> {
    let path = invocation.netns.clone().unwrap_or_default();
    let netns = Netns::open(&path, invocation.netns_override)?;
    // Before the namespace is touched: with no agent there is nothing to prepare it for.
    let mut connection = Connection::open(&config.socket, PATIENCE).map_err(try_again)?;
    netns.enter()?;
    if invocation.command == Command::Add && !netns.is_own() {
        netns::set_sysctls()?;
    }
    let netlink = netns::netlink_socket()?;
    let descriptors = [netns.as_raw_fd(), netlink.as_raw_fd()];
    connection
        .ask(&Request::new(invocation, config), &descriptors)
        .map_err(try_again)
}

/// A DEL looks at no namespace, which may be gone, and needs no agent: the agent finds it when it is back.
fn delete(request: Request) -> Result<(), CniError> {
    let away = match forward(&request) {
        Ok(answer) => return done(answer),
        Err(away) => away,
    };
    say(&format!(
        "{away}; DEL of container {} waits for the agent",
        request.container_id
    ));
    pending::record(request)
}

fn forward(request: &Request) -> Result<Response, Away> {
    Connection::open(&request.config.socket, PATIENCE)?.ask(request, &[])
}

fn done(answer: Response) -> Result<(), CniError> {
    match answer {
        Response::Done => Ok(()),
        Response::Error(error) => Err(error),
        Response::Result(_) => Err(unexpected()),
    }
}

fn try_again(away: Away) -> CniError {
    away.into_error(ErrorCode::TryAgainLater, "try again later")
}

fn unavailable(away: Away) -> CniError {
    away.into_error(
        ErrorCode::NotAvailable,
        "the Portolan agent is not available",
    )
}

fn unexpected() -> CniError {
    CniError::new(
        ErrorCode::Failed,
        "the Portolan agent gave another verb's answer",
    )
    .details("the agent and portolan-cni may be of different releases: run portolan cni install")
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
fn say(text: &str) {
    drop(writeln!(io::stderr(), "portolan-cni: {text}"));
}

fn lossy(text: std::ffi::OsString) -> String {
    text.to_string_lossy().into_owned()
}
