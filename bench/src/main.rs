//! `portolan-bench`: puts every daemon under the same load and prints what came out, with ratios.
#![expect(
    clippy::print_stdout,
    reason = "the table on standard output is what this program is for"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use bench::daemon::Daemon;
use bench::figures::Figures;
use bench::machine::Machine;
use bench::policy::{Effort, NodeRow};
use bench::report::{Record, document};
use bench::rows::{Astray, Row};
use clap::{Parser, ValueEnum};
use serde::de::DeserializeOwned;

/// Side by side: Portolan, BIRD, FRR, GoBGP and OpenBGPD.
#[derive(Debug, Parser)]
struct Args {
    /// Only these rows.
    #[arg(
        long,
        env = "ONLY",
        value_parser = any_row,
        value_delimiter = ',',
        hide_env_values = true
    )]
    only: Vec<AnyRow>,
    /// Only these daemons.
    #[arg(long, env = "BENCH_DAEMONS", value_enum, value_delimiter = ',')]
    daemons: Vec<Daemon>,
    /// Which part of the prefixes; less than 1 for a quick look.
    #[arg(long, env = "BENCH_SCALE", default_value_t = 1.0)]
    scale: f64,
    /// How often each is measured.
    #[arg(long, env = "BENCH_REPEAT", default_value_t = 3)]
    repeat: usize,
    /// Where each row's numbers are kept as JSON.
    #[arg(long, default_value = "target/bench")]
    store: PathBuf,
    /// The document to write when all prefixes were used.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// A row of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnyRow {
    /// Daemons under the same load.
    Daemons(Row),
    /// Policy, and attaching pods.
    Policy(NodeRow),
}

fn any_row(name: &str) -> Result<AnyRow, String> {
    let row = Row::from_str(name, false).map(AnyRow::Daemons);
    row.or_else(|_| NodeRow::from_str(name, false).map(AnyRow::Policy))
        .map_err(|_| {
            let rows = Row::value_variants().iter().map(|row| row.name());
            let policy = NodeRow::value_variants().iter().map(|row| row.name());
            let all: Vec<&str> = rows.chain(policy).collect();
            format!("no such row; there are {}", all.join(", "))
        })
}

fn main() -> ExitCode {
    let mut tally = Tally::default();
    match run(&Args::parse(), &mut tally) {
        Ok(()) => {}
        Err(error) => {
            println!("FAILED: {error:#}");
            tally.failed += 1;
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    ExitCode::from(u8::from(tally.failed > 0))
}

/// What could be measured and what could not.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

fn run(args: &Args, tally: &mut Tally) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces need root"
    );
    ensure!(
        args.scale > 0.0 && args.scale <= 1.0,
        "BENCH_SCALE is above 0, at most 1"
    );
    bench::interrupt::unwind_on_signals()?;
    std::fs::create_dir_all(&args.store).context(args.store.display().to_string())?;
    for row in of_kind(&args.only, |row| match row {
        AnyRow::Daemons(row) => Some(row),
        AnyRow::Policy(_) => None,
    }) {
        let record = measure(row, args, tally)?;
        println!("\n{}", record.table());
        if is_whole(&record) {
            let text = serde_json::to_string_pretty(&record)?;
            std::fs::write(file_of(&args.store, row.name()), text)?;
        }
    }
    for row in of_kind(&args.only, |row| match row {
        AnyRow::Policy(row) => Some(row),
        AnyRow::Daemons(_) => None,
    }) {
        measure_policy(row, args, tally)?;
    }
    if let Some(path) = args.write.as_deref().filter(|_| args.daemons.is_empty()) {
        let records = stored(&args.store, Row::value_variants(), |row| row.name())?;
        let policy = stored(&args.store, NodeRow::value_variants(), |row| row.name())?;
        std::fs::write(path, document(&records, &policy))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

fn measure_policy(row: NodeRow, args: &Args, tally: &mut Tally) -> Result<()> {
    let effort = Effort {
        repeat: args.repeat,
        scale: args.scale,
    };
    match row.measure(effort) {
        Ok(figures) => {
            tally.passed += 1;
            println!("\n{}", figures.table());
            if (args.scale - 1.0).abs() < f64::EPSILON {
                let text = serde_json::to_string_pretty::<Figures>(&figures)?;
                std::fs::write(file_of(&args.store, row.name()), text)?;
            }
        }
        Err(error) => {
            tally.failed += 1;
            println!("{}: FAILED: {error:#}", row.name());
        }
    }
    Ok(())
}

/// Measures a row: every daemon once, then again in another order, so that none always runs first.
fn measure(row: Row, args: &Args, tally: &mut Tally) -> Result<Record> {
    let mut record = Record {
        row,
        machine: Machine::here()?,
        scale: args.scale,
        versions: BTreeMap::new(),
        samples: BTreeMap::new(),
        absent: BTreeMap::new(),
    };
    let mut daemons: Vec<Daemon> = chosen(&args.daemons).into_iter().collect();
    daemons.retain(|daemon| {
        let why = row.excludes(*daemon);
        record
            .absent
            .extend(why.map(|why| (*daemon, why.to_owned())));
        why.is_none()
    });
    let load = row.prepare(args.scale);
    for turn in 0..args.repeat {
        for daemon in &daemons {
            if record.absent.contains_key(daemon) {
                continue;
            }
            let outcome = daemon.version().and_then(|version| {
                record.versions.insert(*daemon, version);
                load.measure(*daemon)
            });
            match outcome {
                Ok(sample) => {
                    println!(
                        "{} {} run {}: {:.3} s, {} MiB, CPU {:.2} s, foreign {:.0} %, {} routes",
                        row.name(),
                        daemon.title(),
                        turn + 1,
                        sample.seconds,
                        sample.memory_kib / 1024,
                        sample.processor_seconds,
                        sample.foreign * 100.0,
                        sample.routes,
                    );
                    record.samples.entry(*daemon).or_default().push(sample);
                    tally.passed += 1;
                }
                // That of another daemon is a result; our own must get there.
                Err(error) if *daemon != Daemon::Portolan && error.is::<Astray>() => {
                    let why = error.root_cause().to_string();
                    println!("{} {}: {why}", row.name(), daemon.title());
                    record.absent.insert(*daemon, why);
                    tally.passed += 1;
                }
                Err(error) => {
                    println!("{} {}: FAILED: {error:#}", row.name(), daemon.title());
                    record
                        .absent
                        .insert(*daemon, error.root_cause().to_string());
                    tally.failed += 1;
                }
            }
        }
        daemons.rotate_left(1);
    }
    Ok(record)
}

/// What was asked for, or all there is.
fn chosen<T: ValueEnum + Copy + Ord>(asked: &[T]) -> BTreeSet<T> {
    let asked = if asked.is_empty() {
        T::value_variants()
    } else {
        asked
    };
    asked.iter().copied().collect()
}

fn is_whole(record: &Record) -> bool {
    (record.scale - 1.0).abs() < f64::EPSILON
}

/// The rows of one kind that were asked for; all of it if nothing was.
fn of_kind<T: ValueEnum + Copy + Ord>(
    asked: &[AnyRow],
    pick: impl Fn(AnyRow) -> Option<T>,
) -> BTreeSet<T> {
    if asked.is_empty() {
        return chosen(&[]);
    }
    asked.iter().copied().filter_map(pick).collect()
}

fn file_of(store: &Path, name: &str) -> PathBuf {
    store.join(format!("{name}.json"))
}

/// The last whole measurement of each row, of this run or an earlier one.
fn stored<R: Copy, T: DeserializeOwned>(
    store: &Path,
    rows: &[R],
    name: impl Fn(R) -> &'static str,
) -> Result<Vec<T>> {
    let mut records = Vec::new();
    for row in rows {
        let path = file_of(store, name(*row));
        if path.is_file() {
            let text = std::fs::read_to_string(&path)?;
            let record = serde_json::from_str(&text).context(path.display().to_string())?;
            records.push(record);
        }
    }
    Ok(records)
}
