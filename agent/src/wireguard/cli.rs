//! The verb below `portolan wireguard`: new keys for this node.

use std::io::Write as _;

use clap::{Args, Subcommand};

use crate::control;
use crate::flags::RunDir;

const EXAMPLES: &str = "Examples:
  portolan wireguard rotate                       ask for new keys of this node
  portolan status                                 how far that is, and the last handshake with each node
  portolan status -o json | jq '.wireguard'       the same for programs";

/// Flags and verbs of `portolan wireguard`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WireGuardArgs {
    #[command(subcommand)]
    verb: WireGuardVerb,
    #[command(flatten)]
    at: RunDir,
}

#[derive(Debug, Subcommand)]
enum WireGuardVerb {
    /// Replace both keys of this node, one after the other, each as soon as nobody sends by it: nothing is lost. It takes
    /// about ten minutes; an agent that restarts meanwhile must be asked again.
    Rotate,
}

/// Carries it out.
///
/// # Errors
/// If no agent answers, or no pool asks for WireGuard.
pub(crate) fn run(args: &WireGuardArgs) -> anyhow::Result<()> {
    let WireGuardVerb::Rotate = args.verb;
    control::rotate_keys(&args.at.run_dir)?;
    let said = "new keys are asked for: `portolan status` says how far that is\n";
    Ok(std::io::stdout().write_all(said.as_bytes())?)
}
