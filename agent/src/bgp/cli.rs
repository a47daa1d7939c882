//! The verbs below `portolan bgp`, and how their answers are printed.

use std::io::Write;
use std::path::Path;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::table;
use super::view::BgpQuestion;
use crate::cli::Output;
use crate::control;
use crate::flags::Asking;

const EXAMPLES: &str = "Examples:
  portolan bgp peers                       which sessions are up, and why one is down
  portolan bgp peer tor-a                  what that session agreed on: capabilities, timers, BFD
  portolan bgp routes                      all routes; `>` marks the best path, `=` one used beside it
  portolan bgp routes 10.244.0.0/16        only that prefix and those inside it
  portolan bgp received tor-a              what a peer announced, and why some of it is not used
  portolan bgp advertised tor-a            what a peer is told
  portolan bgp explain 10.244.3.0/24       why a route won, which rule rejected another, who is told
  portolan bgp refresh tor-a               ask for all routes again; the session stays up
  portolan bgp reset tor-a --message 'maintenance is over'
  portolan bgp peers -o json | jq -r '.[] | select(.state != \"Established\") | .name'

When a route is missing: `peers` (is the session up?), `received` (was it announced, and accepted?), `explain` (did
another path win?), then `portolan status` (did the kernel take it?).";

/// Flags and verbs of `portolan bgp`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BgpArgs {
    #[command(subcommand)]
    verb: BgpVerb,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum BgpVerb {
    /// Sessions, one line each: state, how long, prefixes either way, why one is down.
    Peers,
    /// All there is to know of one session: what was agreed on, timers, counters, BFD.
    Peer {
        /// Its name, as `portolan bgp peers` prints it.
        name: String,
    },
    /// Routes with all their paths; the best is marked `>`, those used beside it `=`.
    Routes {
        /// Only this prefix and those inside it.
        prefix: Option<IpNet>,
        /// At most so many routes.
        #[arg(long, default_value_t = DEFAULT_LIMIT)]
        limit: usize,
    },
    /// What a peer is told.
    Advertised {
        /// The peer's name.
        peer: String,
        /// At most so many routes.
        #[arg(long, default_value_t = DEFAULT_LIMIT)]
        limit: usize,
    },
    /// What a peer announced, used or not, and why not.
    Received {
        /// The peer's name.
        peer: String,
        /// At most so many routes.
        #[arg(long, default_value_t = DEFAULT_LIMIT)]
        limit: usize,
    },
    /// Why a prefix goes the way it goes: at which step each path lost, which rule rejected one, who is told.
    Explain {
        /// The prefix, as it is announced.
        prefix: IpNet,
    },
    /// Ask a peer for all its routes again (RFC 2918); the session stays up.
    Refresh {
        /// The peer's name.
        peer: String,
    },
    /// End a session (Cease, Administrative Reset) and start it again a second later.
    Reset {
        /// The peer's name.
        peer: String,
        /// A word to the other side's people (RFC 9003).
        #[arg(long, default_value = "")]
        message: String,
    },
}

/// More routes than anyone reads; a program asks for what it wants.
const DEFAULT_LIMIT: usize = 10_000;

/// Carries out one verb.
///
/// # Errors
/// If no agent answers, or it knows no such peer.
pub(crate) fn run(args: BgpArgs) -> anyhow::Result<()> {
    let json = matches!(args.asking.output, Output::Json);
    let question = match args.verb {
        BgpVerb::Peers => BgpQuestion::Peers,
        BgpVerb::Peer { name } => BgpQuestion::Peer { name },
        BgpVerb::Routes { prefix, limit } => BgpQuestion::Routes {
            within: prefix.map(|prefix| prefix.trunc()),
            limit,
        },
        BgpVerb::Advertised { peer, limit } => BgpQuestion::Advertised { peer, limit },
        BgpVerb::Received { peer, limit } => BgpQuestion::Received { peer, limit },
        BgpVerb::Explain { prefix } => BgpQuestion::Explain {
            prefix: prefix.trunc(),
        },
        BgpVerb::Refresh { peer } => BgpQuestion::Refresh { peer },
        BgpVerb::Reset { peer, message } => BgpQuestion::Reset { peer, message },
    };
    print(&args.asking.at.run_dir, question, json)
}

fn print(run_dir: &Path, question: BgpQuestion, json: bool) -> anyhow::Result<()> {
    let answer = control::ask_bgp(run_dir, question)?;
    let text = if json {
        answer.json()? + "\n"
    } else {
        table::render(&answer)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
