//! The verbs below `portolan policy`, and how their answers are printed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::Output;
use crate::control;
use crate::drops;

const EXAMPLES: &str = "Examples:
  portolan policy drops                      denied packets that were seen lately, and which policy denied them
  portolan policy drops --follow             the same, and then those to come
  portolan policy drops --follow -o json     one object a line, for programs";

/// Flags and verbs of `portolan policy`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    verb: PolicyVerb,
    /// The agent's --run-dir.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/portolan",
        global = true
    )]
    run_dir: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum PolicyVerb {
    /// Denied packets, the newest thousand. The agent must run with --drop-log; the kernel shows so many a second.
    Drops {
        /// Wait for those to come, until interrupted.
        #[arg(short, long)]
        follow: bool,
    },
}

/// How often the agent is asked for new packets.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

/// Carries out one verb.
///
/// # Errors
/// If no agent answers, or it says why it cannot.
pub(crate) fn run(args: PolicyArgs) -> anyhow::Result<()> {
    let json = matches!(args.output, Output::Json);
    match args.verb {
        PolicyVerb::Drops { follow } => show_drops(&args.run_dir, follow, json),
    }
}

fn show_drops(run_dir: &Path, follow: bool, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut next = 0;
    let mut lost = None;
    if !json {
        writeln!(out, "{}", drops::HEADING)?;
    }
    loop {
        let answer = control::ask_drops(run_dir, next)?;
        for packet in &answer.packets {
            let line = if json {
                serde_json::to_string(packet)?
            } else {
                drops::line(packet)
            };
            writeln!(out, "{line}")?;
        }
        // What was there before the first question is no loss of this listing.
        let missed = if next == 0 { 0 } else { answer.missed };
        let newly_lost = answer.lost - lost.unwrap_or(answer.lost).min(answer.lost);
        if missed + newly_lost > 0 && !json {
            writeln!(
                out,
                "… {} more came faster than they could be shown",
                missed + newly_lost
            )?;
        }
        out.flush()?;
        (next, lost) = (answer.next, Some(answer.lost));
        if !follow {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_PAUSE);
    }
}
