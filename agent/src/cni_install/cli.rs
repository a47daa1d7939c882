//! Flags of `portolan cni`, and how what was done is printed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::conflist::{PLUGIN, Version, chain};
use super::disk::{RealDisk, Rehearsal};
use super::report::Report;
use super::{install, stay, uninstall};
use crate::cli::{Output, duration};
use crate::cni;

const EXAMPLES: &str = "Examples:
  portolan cni install                       the binary, then the configuration once the agent is ready
  portolan cni install --dry-run             what that would change, and the configuration itself
  portolan cni install --wait 5m             for an agent that takes long to start
  portolan cni install --cni-version 0.4.0   for a runtime that knows neither 1.0.0 nor `cniVersions`
  portolan cni install --chain tuning.json   with further plugins behind ours
  portolan cni uninstall                     takes out what install put in; drain the node first

Install may be repeated: what is as it should be is not written again. The agent never removes the configuration when
it stops: the runtime needs it to take pods down.";

/// Flags and verbs of `portolan cni`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CniArgs {
    #[command(subcommand)]
    verb: CniVerb,
    /// Where the runtime looks for plugins.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/opt/cni/bin",
        global = true
    )]
    bin_dir: PathBuf,
    /// Where the runtime looks for network configurations.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/cni/net.d",
        global = true
    )]
    conf_dir: PathBuf,
    /// The configuration's file name; the runtime takes the first of the folder.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "10-portolan.conflist",
        global = true
    )]
    conf_name: String,
    /// Where `ip route` looks for names of protocol numbers.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/iproute2/rt_protos.d",
        global = true
    )]
    protocol_names: PathBuf,
    /// Leave the names of protocol numbers alone.
    #[arg(long, global = true)]
    skip_protocol_name: bool,
    /// Say what would be done, and do nothing.
    #[arg(long, global = true)]
    dry_run: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum CniVerb {
    /// Put the plugin and its configuration in place, in the order in which a runtime can bear it.
    ///
    /// The binary first; then, once the agent can attach pods, the configuration, by one rename in its folder. A reader
    /// sees the old file or the new one, never half of it, and a crash at any step is mended by another install. Files
    /// of others are never touched; older ones of ours under other names are removed.
    Install(InstallArgs),
    /// Take out what install put in: the configuration first, then the binary. What others wrote stays.
    Uninstall,
}

#[derive(Debug, Args)]
struct InstallArgs {
    /// The plugin's binary; `portolan-cni` beside this program unless given.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// `auto`: 1.0.0, and 1.1.0 for runtimes that know it. Or one version, for a runtime that needs it.
    #[arg(long, value_name = "VERSION", default_value = "auto", value_parser = version)]
    cni_version: Version,
    /// The agent's --run-dir; its socket is cni.sock in it.
    #[arg(long, value_name = "DIR", default_value = "/run/portolan")]
    run_dir: PathBuf,
    /// The agent's socket, if it is not in --run-dir.
    #[arg(long, value_name = "PATH", conflicts_with = "run_dir")]
    socket: Option<PathBuf>,
    /// The agent's --state-dir, where deletions wait for an agent that is away.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan")]
    state_dir: PathBuf,
    /// For how long to wait until the agent can attach pods; 0s does not wait.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    wait: Duration,
    /// Do not end: look every minute whether all is in place still, and put it right. For a container, which is started
    /// again when it ends.
    #[arg(long, conflicts_with = "dry_run")]
    stay: bool,
    /// Further plugins to call after ours: a JSON object with a `type`, or a list of them.
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
}

/// Carries out one verb.
///
/// # Errors
/// In words that say what to do.
pub(crate) fn run(args: CniArgs) -> anyhow::Result<()> {
    let json = matches!(args.output, Output::Json);
    let protocol_names = (!args.skip_protocol_name).then(|| args.protocol_names.clone());
    let report = match args.verb {
        CniVerb::Install(ref wanted) => {
            let settings = settings(&args, wanted, protocol_names)?;
            if wanted.stay {
                return stay::stay(settings, move |report| print(report, json));
            }
            match args.dry_run {
                true => install::install(&mut Rehearsal, &settings),
                false => install::install(&mut RealDisk, &settings),
            }
        }
        CniVerb::Uninstall => {
            let settings = uninstall::Settings {
                bin_dir: args.bin_dir,
                conf_dir: args.conf_dir,
                conf_name: args.conf_name,
                protocol_names,
                dry_run: args.dry_run,
            };
            match args.dry_run {
                true => uninstall::uninstall(&mut Rehearsal, &settings),
                false => uninstall::uninstall(&mut RealDisk, &settings),
            }
        }
    };
    print(&report?, json)
}

fn settings(
    args: &CniArgs,
    wanted: &InstallArgs,
    protocol_names: Option<PathBuf>,
) -> anyhow::Result<install::Settings> {
    let socket = wanted.socket.clone();
    let socket = socket.unwrap_or_else(|| wanted.run_dir.join(cni::SOCKET));
    let chain = match &wanted.chain {
        None => Vec::new(),
        Some(file) => {
            let failed = || format!("--chain {} cannot be used", file.display());
            let bytes = std::fs::read(file).with_context(failed)?;
            chain(&bytes).with_context(failed)?
        }
    };
    Ok(install::Settings {
        bin_dir: args.bin_dir.clone(),
        conf_dir: args.conf_dir.clone(),
        conf_name: args.conf_name.clone(),
        plugin: wanted.plugin.clone().map_or_else(beside_us, Ok)?,
        version: wanted.cni_version,
        socket: text(&socket)?,
        state_dir: text(&wanted.state_dir)?,
        wait: wanted.wait,
        chain,
        protocol_names,
        dry_run: args.dry_run,
    })
}

fn beside_us() -> anyhow::Result<PathBuf> {
    let us = std::env::current_exe().context("cannot tell where this program is: use --plugin")?;
    Ok(us.with_file_name(PLUGIN))
}

/// JSON holds text only.
fn text(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

fn version(text: &str) -> Result<Version, String> {
    if text == "auto" {
        return Ok(Version::Auto);
    }
    text.parse().map(Version::Only).map_err(|_| {
        let known = cni_spec::CniVersion::SUPPORTED.map(cni_spec::CniVersion::as_str);
        format!("it should be auto or one of {}", known.join(", "))
    })
}

#[expect(
    clippy::print_stderr,
    reason = "warnings are for people, beside what programs read"
)]
fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(report)? + "\n",
        false => report.table(),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    for warning in report.warnings.iter().filter(|_| !json) {
        eprintln!("portolan: warning: {warning}");
    }
    Ok(())
}
