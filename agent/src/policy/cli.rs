//! The verbs below `portolan policy`, and how their answers are printed.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::place::{Destination, Place};
use super::table;
use super::view::{ExplainView, PolicyAnswer, PolicyQuestion};
use crate::cli::Output;
use crate::control;
use crate::drops;

const EXAMPLES: &str = "Examples:
  portolan policy list                       all policies in the order in which they are asked, and what is wrong with them
  portolan policy show shop/web              what isolates this pod, by which rules, and how many packets each has seen
  portolan policy explain shop/web shop/db:5432              would this connection pass, and which rule decides
  portolan policy explain 192.0.2.7 shop/web:http            from outside, to a port by its name
  portolan policy explain shop/web [2001:db8::7]:53/udp      an IPv6 address stands in brackets
  portolan policy explain shop/web shop/db/icmp              a ping
  portolan policy explain shop/web shop/db:80 --run-dir /run/a --run-dir /run/b     ask both nodes' agents
  portolan policy try new.yaml               what this file would change: pods, connections, open flows; changes nothing
  portolan policy try new.yaml --delete      what its removal would change
  portolan policy drops                      denied packets that were seen lately, and which policy denied them
  portolan policy drops --follow             the same, and then those to come
  portolan policy drops --follow -o json     one object a line, for programs
  portolan policy list -o json | jq -r '.policies[] | select(.problems != []) | .name'

When a connection does not pass: `explain` (which rule denies it?), `show` on the pod that denies it (what else is about
it?), `try` on the changed file, then apply it. `explain` ends with 2 if the kernel does not do what the policies say.";

/// Flags and verbs of `portolan policy`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    verb: PolicyVerb,
    /// The agent's --run-dir; `explain` takes several and asks each agent.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/portolan",
        global = true
    )]
    run_dir: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum PolicyVerb {
    /// All policies in the order in which they are asked: whom they are about, what this node counted, what is wrong.
    ///
    /// Packets are the first ones of connections, on this node, since the rule was written. What a NetworkPolicy's
    /// isolation denies counts for each policy that isolates the pod.
    List,
    /// What is about one pod: policies and their rules, its chains, and what the kernel counted.
    Show {
        /// NAMESPACE/POD or an address.
        #[arg(value_parser = a_place)]
        pod: String,
    },
    /// Whether a new connection would pass: rule by rule, as the policies say and as this node's kernel does it.
    ///
    /// The kernel's rules and sets are read back and walked. Where the two differ it says so, and ends with exit code 2.
    Explain {
        /// Who opens it: NAMESPACE/POD or an address.
        #[arg(value_parser = a_place)]
        from: String,
        /// Whom: NAMESPACE/POD or an address (IPv6 in brackets), and :PORT or :NAME, with /udp, /sctp; or /icmp.
        #[arg(value_name = "TO:PORT/PROTOCOL", value_parser = a_destination)]
        to: String,
    },
    /// What manifests would change for the pods, connections and flows that are there now. Nothing is changed.
    Try {
        /// A manifest, YAML or JSON; `-` is standard input.
        file: PathBuf,
        /// As if its objects were removed.
        #[arg(long)]
        delete: bool,
    },
    /// Denied packets, the newest thousand. The agent must run with --drop-log; the kernel shows so many a second.
    Drops {
        /// Wait for those to come, until interrupted.
        #[arg(short, long)]
        follow: bool,
    },
}

/// How often the agent is asked for new packets.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

/// A manifest is written by people; the agent takes no more at once.
const MAX_MANIFEST: u64 = 1 << 20;

/// Says that the policies and a kernel differ.
const DIFFERS: u8 = 2;

/// Carries out one verb; gives the exit code.
///
/// # Errors
/// If no agent answers, or it says why it cannot.
pub(crate) fn run(args: PolicyArgs) -> anyhow::Result<ExitCode> {
    let json = matches!(args.output, Output::Json);
    let run_dir = match args.run_dir.as_slice() {
        [only] => only,
        [first, ..] if matches!(args.verb, PolicyVerb::Explain { .. }) => first,
        _ => anyhow::bail!("only `explain` asks several agents: give one --run-dir"),
    };
    let question = match args.verb {
        PolicyVerb::Drops { follow } => {
            show_drops(run_dir, follow, json)?;
            return Ok(ExitCode::SUCCESS);
        }
        PolicyVerb::Explain { from, to } => return explain(&args.run_dir, &from, &to, json),
        PolicyVerb::List => PolicyQuestion::List,
        PolicyVerb::Show { pod } => PolicyQuestion::Show { pod },
        PolicyVerb::Try { file, delete } => manifest(&file, delete)?,
    };
    let text = match control::ask_policy(run_dir, question)? {
        PolicyAnswer::List(view) if json => serde_json::to_string_pretty(&view)? + "\n",
        PolicyAnswer::Show(view) if json => serde_json::to_string_pretty(&view)? + "\n",
        PolicyAnswer::Try(view) if json => serde_json::to_string_pretty(&view)? + "\n",
        PolicyAnswer::List(view) => table::list(&view),
        PolicyAnswer::Show(view) => table::show(&view),
        PolicyAnswer::Try(view) => table::trial(&view),
        PolicyAnswer::Explain(_) => anyhow::bail!("the agent answered something else"),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Asks each agent. JSON is a list in any case.
fn explain(run_dirs: &[PathBuf], from: &str, to: &str, json: bool) -> anyhow::Result<ExitCode> {
    let mut views = Vec::new();
    for run_dir in run_dirs {
        let (from, to) = (from.to_owned(), to.to_owned());
        match control::ask_policy(run_dir, PolicyQuestion::Explain { from, to })? {
            PolicyAnswer::Explain(view) => views.push(view),
            _ => anyhow::bail!("the agent answered something else"),
        }
    }
    let text = match json {
        true => serde_json::to_string_pretty(&views)? + "\n",
        false => table::explain(&views),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match views.iter().any(ExplainView::differs) {
        true => ExitCode::from(DIFFERS),
        false => ExitCode::SUCCESS,
    })
}

fn manifest(file: &Path, delete: bool) -> anyhow::Result<PolicyQuestion> {
    let mut text = String::new();
    let (name, read) = if file == Path::new("-") {
        let input = std::io::stdin().lock();
        let read = input.take(MAX_MANIFEST + 1).read_to_string(&mut text);
        ("standard input".to_owned(), read)
    } else {
        let name = file.display().to_string();
        let opened = std::fs::File::open(file).with_context(|| format!("cannot read {name}"))?;
        let read = opened.take(MAX_MANIFEST + 1).read_to_string(&mut text);
        (name, read)
    };
    read.with_context(|| format!("cannot read {name}"))?;
    if text.len() as u64 > MAX_MANIFEST {
        anyhow::bail!("{name} is larger than 1 MiB");
    }
    Ok(PolicyQuestion::Try {
        file: name,
        text,
        delete,
    })
}

fn a_place(text: &str) -> Result<String, String> {
    text.parse::<Place>().map(|_| text.to_owned())
}

fn a_destination(text: &str) -> Result<String, String> {
    text.parse::<Destination>().map(|_| text.to_owned())
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
