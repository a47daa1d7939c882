//! Chores of the repository that a shell script would do badly: `cargo run -p xtask -- tidy`.

mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Chores of the Portolan repository")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Check what the compiler does not: crate arrows, purity, file heads and lengths, forbidden words, tests that pages name.
    Tidy,
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a chore speaks to its user"
)]
fn main() -> ExitCode {
    let Cli { chore: Chore::Tidy } = Cli::parse();
    match tidy::run() {
        Ok(tally) if tally.problems.is_empty() => {
            println!(
                "tidy: {} files and {} crates are in order",
                tally.files, tally.crates
            );
            ExitCode::SUCCESS
        }
        Ok(tally) => {
            for problem in &tally.problems {
                eprintln!("tidy: {problem}");
            }
            eprintln!("tidy: {} problems", tally.problems.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
