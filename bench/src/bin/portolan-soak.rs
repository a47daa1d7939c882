//! `portolan-soak`: churn against the speaker for SOAK_MINUTES, and whether its memory stays what it was at minute 3.
#![expect(
    clippy::print_stdout,
    reason = "the samples on standard output are what this program is for"
)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench::daemon::{Kernel, Running as _, Setup, Speaker, said};
use bench::peer::{Identity, Peer};
use bench::prefix::PrefixSet;
use bench::rig::{DAEMON_AS, Rig};
use bench::sink::Expected;
use bench::table::{Announcer, Distance, Table};
use bench::usage::Watch;
use clap::Parser;
use tests::wait::{eventually, pause};

/// One steady peer announces, one listens, the others flap.
const PEERS: u8 = 6;
const STEADY: usize = 20_000;
const FLAPPING: usize = 5_000;
const SAMPLED: Duration = Duration::from_secs(10);
/// Resident memory at the end, as a part of that at three tenths of the time.
const MOST: f64 = 1.05;

/// Churn: peers flap, routes come and go, refreshes are asked for, filters are edited.
#[derive(Debug, Parser)]
struct Args {
    /// For how long.
    #[arg(long, env = "SOAK_MINUTES", default_value_t = 10.0)]
    minutes: f64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => {
            println!("1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED: {error:#}\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    bench::interrupt::unwind_on_signals()?;
    let rig = Rig::new(PEERS, 1)?;
    let setup = Setup {
        netns: &rig.daemon,
        peers: &rig.peers,
        kernel: Kernel::Untouched,
    };
    let speaker = Speaker::start(&setup)?;
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let churned = churn(&rig, &setup, &speaker, time);
    let samples = churned.map_err(|error| error.context(speaker.log_end()))?;
    let at = |part: f64| {
        let middle = (samples.len() as f64 * part) as usize;
        let mut near: Vec<u64> = samples
            .iter()
            .copied()
            .skip(middle.saturating_sub(3))
            .take(3)
            .collect();
        near.sort_unstable();
        near.get(near.len() / 2).copied().context("too few samples")
    };
    let (early, late) = (at(0.3)?, at(1.0)?);
    let ratio = late as f64 / early as f64;
    println!(
        "resident: {early} KiB at 0.3 of the time, {late} KiB at its end: × {ratio:.3}, at most {MOST}"
    );
    ensure!(
        ratio <= MOST,
        "resident memory grew by {:.1} %",
        (ratio - 1.0) * 100.0
    );
    Ok(())
}

/// Churns for `time`; the resident memory every ten seconds, KiB.
fn churn(rig: &Rig, setup: &Setup<'_>, speaker: &Speaker, time: Duration) -> Result<Vec<u64>> {
    let mut identities = rig.peers.iter().copied();
    let first = identities.next().context("no peers")?;
    let second = identities.next().context("no second peer")?;
    let mut flappers: Vec<Flapper> = (10..).zip(identities).map(Flapper::new).collect();
    let table = Table::draw(1, STEADY);
    let steady: Arc<PrefixSet> = Arc::new(table.prefixes().collect());
    let mut expects = Expected::default();
    expects.add(first.asn, &steady, table.len());
    let mut announcing = Peer::establish(&rig.generator, first, Expected::default())?;
    let mut listening = Peer::establish(&rig.generator, second, expects)?;
    announcing.inject(&table.announce(&announcer(first)))?;
    let watch = Watch::start(&rig.daemon)?;
    let start = Instant::now();
    let mut samples = Vec::new();
    for round in 0_u32.. {
        if start.elapsed() >= time {
            break;
        }
        let turn = round as usize % flappers.len();
        if let Some(flapper) = flappers.get_mut(turn) {
            flapper.step(rig)?;
        }
        listening.request_refresh()?;
        if round % 5 == 0 {
            let mut changed = said(setup);
            // Half the edits reject what is inside 1.0.0.0/9, the others take it back in.
            changed.reject = if round % 10 == 0 {
                vec!["1.0.0.0/9".parse()?]
            } else {
                Vec::new()
            };
            speaker.configure(&changed)?;
        }
        announcing.check()?;
        listening.check()?;
        pause(Duration::from_millis(500))?;
        if start.elapsed() >= SAMPLED * u32::try_from(samples.len() + 1)? {
            let memory = watch.memory_now()?;
            println!("{:4.0} s: {memory} KiB", start.elapsed().as_secs_f64());
            samples.push(memory);
        }
    }
    speaker.configure(&said(setup))?;
    // Their tables may hold prefixes of the steady one, by a better path.
    drop(flappers);
    let progress = listening.progress();
    eventually(
        Duration::from_secs(60),
        "every steady route after the churn",
        || {
            let held = progress.held();
            ensure!(held == progress.total(), "{held} of {}", progress.total());
            Ok(())
        },
    )?;
    Ok(samples)
}

/// A peer that announces, withdraws, announces again and is cut off, in turn.
struct Flapper {
    identity: Identity,
    table: Table,
    peer: Option<Peer>,
    steps: u32,
}

impl Flapper {
    fn new((seed, identity): (u64, Identity)) -> Self {
        Self {
            identity,
            table: Table::draw(seed, FLAPPING),
            peer: None,
            steps: 0,
        }
    }

    fn step(&mut self, rig: &Rig) -> Result<()> {
        self.steps += 1;
        let Some(peer) = &self.peer else {
            let peer = Peer::establish(&rig.generator, self.identity, Expected::default())?;
            peer.inject(&self.table.announce(&announcer(self.identity)))?;
            self.peer = Some(peer);
            return Ok(());
        };
        match self.steps % 4 {
            2 => peer.inject(&self.table.withdraw()),
            3 => peer.inject(&self.table.announce(&announcer(self.identity))),
            _ => self.peer.take().map_or(Ok(()), Peer::reset),
        }
    }
}

fn announcer(identity: Identity) -> Announcer {
    debug_assert!(identity.asn > DAEMON_AS, "peers are external");
    Announcer {
        asn: identity.asn,
        next_hop: identity.address,
        distance: Distance::Any,
    }
}
