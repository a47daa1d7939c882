//! The `portolan` binary: parses the command line and hands over to the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    agent::cli::run(agent::cli::Cli::parse())
}
