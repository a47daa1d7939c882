//! The verbs below `portolan service`, and how their answers are printed.

use std::io::Write;

use clap::{Args, Subcommand};

use super::table;
use super::view::{ServiceAnswer, ServiceQuestion};
use crate::cli::Output;
use crate::control;
use crate::flags::Asking;

const EXAMPLES: &str = "Examples:
  portolan service list                    all Services: addresses, ports, how many endpoints, what is wrong
  portolan service list -n shop            those of one namespace
  portolan service show web -n shop        what becomes of a packet to each of its addresses; who is asked, and why others are not
  portolan service show shop/web           the same
  portolan service list -o json | jq -r '.services[] | select(.endpoints == 0) | .namespace + \"/\" + .name'

The agent must run with `services` in --features (docs/services.md).";

/// Flags and verbs of `portolan service`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    verb: ServiceVerb,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum ServiceVerb {
    /// All Services, one line each.
    List {
        /// Only this namespace's.
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
    },
    /// One Service: its addresses and what becomes of packets to them, its endpoints and why one is left out, counters.
    Show {
        /// NAME, or NAMESPACE/NAME.
        #[arg(value_name = "NAME")]
        name: String,
        /// Its namespace.
        #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
        namespace: String,
    },
}

/// Carries out one verb.
///
/// # Errors
/// If no agent answers, or it says why it cannot.
pub(crate) fn run(args: ServiceArgs) -> anyhow::Result<()> {
    let question = match args.verb {
        ServiceVerb::List { namespace } => ServiceQuestion::List { namespace },
        ServiceVerb::Show { name, namespace } => match name.split_once('/') {
            Some((namespace, name)) => ServiceQuestion::Show {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            None => ServiceQuestion::Show { namespace, name },
        },
    };
    let text = match (
        control::ask_service(&args.asking.at.run_dir, question)?,
        args.asking.output,
    ) {
        (ServiceAnswer::List(view), Output::Json) => serde_json::to_string_pretty(&view)? + "\n",
        (ServiceAnswer::Show(view), Output::Json) => serde_json::to_string_pretty(&view)? + "\n",
        (ServiceAnswer::List(view), Output::Table) => table::list(&view),
        (ServiceAnswer::Show(view), Output::Table) => table::show(&view),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
