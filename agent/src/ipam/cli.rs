//! The verbs below `portolan ipam`, and how their answers are printed.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use ::ipam::Holder;
use clap::{Args, Subcommand};

use super::table;
use super::view::{Attachment, IpamAnswer, IpamQuestion};
use crate::cli::Output;
use crate::control;
use crate::flags::Asking;

const EXAMPLES: &str = "Examples:
  portolan ipam show                                 how full the CIDRs are, and who has which address
  portolan ipam show --address 10.244.1.9            who has it, or had it lately
  portolan ipam show --pod shop/web                  what a pod has
  portolan ipam check                                what is left behind, and what to do about it
  portolan ipam release 10.244.1.9                   take back what no pod uses any more
  portolan ipam release --container 3f0a9c --force   cut off a pod that is attached
  portolan ipam check -o json | jq -r '.findings[] | .text'

The agent takes back by itself what has been left behind for --reclaim-after. `check` ends with 2 if there is a leak.";

/// Flags and verbs of `portolan ipam`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct IpamArgs {
    #[command(subcommand)]
    verb: IpamVerb,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum IpamVerb {
    /// Pod CIDRs and blocks of this node with how full they are, and each address that is held or rests.
    Show {
        /// Only this address.
        #[arg(long, value_name = "ADDR")]
        address: Option<IpAddr>,
        /// Only this pod's, NAMESPACE/NAME.
        #[arg(long, value_name = "POD")]
        pod: Option<String>,
    },
    /// Hold attachments, links, routes and files against each other and the source's pods.
    Check,
    /// Take an attachment back, as the runtime's DEL would: link, routes, chains, addresses.
    Release {
        /// By an address that it holds.
        #[arg(required_unless_present = "container", conflicts_with = "container")]
        address: Option<IpAddr>,
        /// By its container's full ID.
        #[arg(long, value_name = "ID")]
        container: Option<String>,
        /// The interface's name in the container.
        #[arg(long, value_name = "NAME", default_value = "eth0")]
        interface: String,
        /// Even if the pod's host end is there: a pod that runs is cut off.
        #[arg(long)]
        force: bool,
    },
}

/// Says that something is left behind.
const LEAKS: u8 = 2;

/// Carries out one verb; gives the exit code.
///
/// # Errors
/// If no agent answers, or it says why it cannot.
pub(crate) fn run(args: IpamArgs) -> anyhow::Result<ExitCode> {
    let question = match args.verb {
        IpamVerb::Show { address, pod } => IpamQuestion::Show { address, pod },
        IpamVerb::Check => IpamQuestion::Check,
        IpamVerb::Release {
            address,
            container,
            interface,
            force,
        } => IpamQuestion::Release {
            what: match (address, container) {
                (Some(address), _) => Attachment::Address { address },
                (None, container) => Attachment::Holder {
                    holder: Holder {
                        container_id: container.unwrap_or_default(),
                        interface,
                    },
                },
            },
            force,
        },
    };
    let answer = control::ask_ipam(&args.asking.at.run_dir, question)?;
    let text = match (&answer, args.asking.output) {
        (IpamAnswer::Show(view), Output::Json) => serde_json::to_string_pretty(view)? + "\n",
        (IpamAnswer::Check(view), Output::Json) => serde_json::to_string_pretty(view)? + "\n",
        (IpamAnswer::Released(view), Output::Json) => serde_json::to_string_pretty(view)? + "\n",
        (IpamAnswer::Show(view), Output::Table) => table::show(view),
        (IpamAnswer::Check(view), Output::Table) => table::check(view),
        (IpamAnswer::Released(view), Output::Table) => table::released(view),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match answer {
        IpamAnswer::Check(view) if view.has_leaks() => ExitCode::from(LEAKS),
        IpamAnswer::Show(_) | IpamAnswer::Check(_) | IpamAnswer::Released(_) => ExitCode::SUCCESS,
    })
}
