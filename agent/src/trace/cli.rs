//! `portolan trace`: its flags, and how the path is printed.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::gather::{Request, gather};
use super::judge::judge;
use super::outcome::{Outcome, Trace, Verdict};
use super::{arrivals, catalog};
use crate::cli::{Output, duration};
use crate::policy::{Destination, Place};

const EXAMPLES: &str = "Examples, on the node of the first pod, as root:
  portolan trace shop/web shop/db:5432        a TCP connection from one pod to another, of this node or not
  portolan trace shop/web shop/db:http        to a port by its name
  portolan trace shop/web 192.0.2.10:443      to outside
  portolan trace shop/web 10.96.0.10:53/udp   to a Service; what it is translated to is shown
  portolan trace shop/web shop/db/icmp        a ping
  portolan trace -6 shop/web shop/db:5432     by IPv6
  portolan trace shop/web shop/db:5432 -o json
  portolan trace --arriving shop/web shop/db:5432
                                              on the node of the second pod: what comes there from the first
  portolan trace --list                       the breaks that it tells apart

Real probes leave the pod's own interface: a TCP SYN (which the pod's kernel resets when it is answered), a datagram, or an
echo request; some die at routers on purpose, one is as large as the interface takes. They are watched on every link of this
node, and in the target if that is here. No process of a pod takes part, and nothing is changed.

It ends with 0 if the target is reached, 1 if not, 2 if it could not be tried.";

/// Flags of `portolan trace`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TraceArgs {
    /// The pod that sends, of this node: NAMESPACE/POD. With --arriving, any pod, or an address.
    #[arg(required_unless_present = "list", value_parser = a_place)]
    from: Option<Place>,
    /// Whom: NAMESPACE/POD or an address (IPv6 in brackets), and :PORT or :NAME, with /udp; or /icmp.
    #[arg(required_unless_present = "list", value_name = "TO:PORT/PROTOCOL", value_parser = a_destination)]
    to: Option<String>,
    /// On the node of the pod that is to get it: watch what others send to it, and where that ends. Nothing is sent.
    #[arg(long)]
    arriving: bool,
    /// With --arriving: for how long somebody who sends is waited for.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    wait: Duration,
    /// By IPv6; else by IPv4, unless the address says it.
    #[arg(short = '6', long, conflicts_with = "v4")]
    v6: bool,
    /// By IPv4.
    #[arg(short = '4', long)]
    v4: bool,
    /// For how long an answer is waited for; the whole takes up to six times as long.
    #[arg(long, value_name = "TIME", default_value = "700ms", value_parser = duration)]
    timeout: Duration,
    /// The agent's --run-dir.
    #[arg(long, value_name = "DIR", default_value = "/run/portolan")]
    run_dir: PathBuf,
    /// The agent's --state-dir.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan")]
    state_dir: PathBuf,
    /// Print the breaks that are told apart, and try nothing.
    #[arg(long)]
    list: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Says that the target is not reached.
const NOT_REACHED: u8 = 1;
/// Says that it could not be tried.
const NOT_TRIED: u8 = 2;

/// Carries it out.
pub(crate) fn run(args: &TraceArgs) -> ExitCode {
    match print(args) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("portolan: {error:#}"));
            ExitCode::from(NOT_TRIED)
        }
    }
}

fn print(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let json = matches!(args.output, Output::Json);
    let mut out = std::io::stdout();
    let (Some(from), Some(asked), false) = (&args.from, &args.to, args.list) else {
        let text = match json {
            true => serde_json::to_string_pretty(catalog::ALL)? + "\n",
            false => list(),
        };
        out.write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    };
    let to: Destination = asked.parse().map_err(anyhow::Error::msg)?;
    let is_v6 = matches!(to.place, Place::Address(address) if address.is_ipv6());
    if std::io::stderr().is_terminal() {
        say(if args.arriving {
            "watching …"
        } else {
            "probing …"
        });
    }
    let request = Request {
        to: &to,
        asked,
        v6: args.v6 || (is_v6 && !args.v4),
        run_dir: &args.run_dir,
        state_dir: &args.state_dir,
        patience: args.timeout,
    };
    let evidence = match from {
        from if args.arriving => arrivals::gather(&request, from, args.wait)?,
        Place::Pod(pod) => gather(&request, pod)?,
        Place::Address(address) => anyhow::bail!(
            "{address} is an address: name the pod that sends, as shop/web, or watch what comes from there with --arriving"
        ),
    };
    let trace = judge(&evidence);
    let text = match json {
        true => serde_json::to_string_pretty(&trace)? + "\n",
        false => table(&trace),
    };
    out.write_all(text.as_bytes())?;
    Ok(match trace.outcome {
        Outcome::Reached => ExitCode::SUCCESS,
        Outcome::Dropped => ExitCode::from(NOT_REACHED),
    })
}

fn list() -> String {
    let line = |one: &&catalog::Break| format!("{:<16}{}\n", one.name, one.told_when);
    catalog::ALL.iter().map(line).collect()
}

/// A hop a line, then what it comes to.
fn table(trace: &Trace) -> String {
    let port = trace
        .port
        .map_or_else(String::new, |port| format!(" port {port}"));
    let mut out = format!(
        "{} ({}) → {} ({}), {}{port}\n",
        trace.from, trace.from_address, trace.to, trace.to_address, trace.protocol
    );
    for hop in &trace.hops {
        let verdict = match hop.verdict {
            Verdict::Ok => "ok        ",
            Verdict::Drops => "DROPS HERE",
        };
        out += &format!("{verdict}  {}: {}\n", hop.hop, hop.what);
    }
    match &trace.broken {
        None => out += "reached\n",
        Some(broken) => {
            out += &format!(
                "{} at {}\n    cause: {}\n     mend: {}\n",
                broken.name, broken.hop, broken.cause, broken.remedy
            );
        }
    }
    out
}

fn a_place(text: &str) -> Result<Place, String> {
    text.parse()
}

fn a_destination(text: &str) -> Result<String, String> {
    text.parse::<Destination>().map(|_| text.to_owned())
}

#[expect(
    clippy::print_stderr,
    reason = "errors and progress are for people, beside what programs read"
)]
fn say(text: &str) {
    eprintln!("{text}");
}
