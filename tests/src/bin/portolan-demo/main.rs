//! `make demo`: a small data centre on this machine, and Portolan shown at work in it.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod announced;
mod crash;
mod kept;
mod matrix;
mod service;
mod sessions;
mod sites;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Shows Portolan at work in network namespaces of this machine.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lay out the lab, show everything, take it down.
    Run(Run),
    /// Remove labs that were kept.
    Clean,
    /// The server in every pod: echoes TCP and UDP on port 8080.
    #[command(hide = true)]
    Serve,
}

/// Flags of `run`.
#[derive(Debug, Args)]
struct Run {
    /// Leave the lab up at the end.
    #[arg(long)]
    keep: bool,
    /// The folder of `portolan`, `portolan-cni` and `portolan-ingress`.
    #[arg(long)]
    bin_dir: PathBuf,
    /// The folder of the project's examples.
    #[arg(long, default_value = "examples")]
    examples: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Serve => tests::reach::serve_forever().map(|()| true),
        Verb::Clean => kept::clean(),
        Verb::Run(run) => stage::run(&run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILED: {error:#}\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}
