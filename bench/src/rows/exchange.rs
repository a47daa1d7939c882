//! Routes from peers to peers: the feed, the mesh and the contest.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tests::wait::pause;

use super::{Astray, Load, Sample, with_daemon};
use crate::daemon::{Daemon, Kernel};
use crate::peer::Peer;
use crate::prefix::PrefixSet;
use crate::rig::{DAEMON_AS, Rig};
use crate::sink::Expected;
use crate::table::{Announcer, Distance, Table};
use crate::usage::Watch;

/// How long a daemon may take.
const LIMIT: Duration = Duration::from_secs(240);
/// How long what all sinks hold must stay complete.
const QUIET: Duration = Duration::from_millis(300);
/// After so long without an octet nothing will come any more.
const SILENCE: Duration = Duration::from_secs(20);
const SEED: u64 = 4;

/// What each peer announces and expects.
pub(super) struct Exchange {
    sides: Vec<Side>,
}

struct Side {
    announces: Vec<u8>,
    expects: Expected,
}

/// One peer announces, a second one listens.
pub(super) fn feed(prefixes: usize) -> Exchange {
    let table = Table::draw(SEED, prefixes);
    let mut expects = Expected::default();
    expects.add(
        source(0),
        &Arc::new(table.prefixes().collect()),
        table.len(),
    );
    let announces = table.announce(&announcer(0, Distance::Any));
    Exchange {
        sides: vec![
            Side {
                announces,
                expects: Expected::default(),
            },
            Side {
                announces: Vec::new(),
                expects,
            },
        ],
    }
}

/// Each peer announces prefixes of its own and expects those of all others.
pub(super) fn mesh(peers: u8, prefixes: usize) -> Exchange {
    let tables = Table::draw(SEED, prefixes * usize::from(peers)).split(usize::from(peers));
    let sets: Vec<(u8, usize, Arc<PrefixSet>)> = (0..)
        .zip(&tables)
        .map(|(index, table)| (index, table.len(), Arc::new(table.prefixes().collect())))
        .collect();
    let side = |(index, table): (u8, &Table)| Side {
        announces: table.announce(&announcer(index, Distance::Any)),
        expects: of_others(index, &sets),
    };
    Exchange {
        sides: (0..).zip(&tables).map(side).collect(),
    }
}

/// All peers announce the same prefixes; for each one of them has the shortest path, and all others expect that one.
pub(super) fn same(peers: u8, prefixes: usize) -> Exchange {
    let table = Table::draw(SEED, prefixes);
    let of = u32::from(peers);
    let won = |index: u8| {
        let set: PrefixSet = table.won_by(index.into(), of).collect();
        (index, table.won_by(index.into(), of).count(), Arc::new(set))
    };
    let sets: Vec<_> = (0..peers).map(won).collect();
    let side = |index: u8| Side {
        announces: table.announce(&announcer(
            index,
            Distance::Contest {
                index: index.into(),
                of,
            },
        )),
        expects: of_others(index, &sets),
    };
    Exchange {
        sides: (0..peers).map(side).collect(),
    }
}

impl Load for Exchange {
    fn measure(&self, daemon: Daemon) -> Result<Sample> {
        let rig = Rig::new(u8::try_from(self.sides.len())?, 1)?;
        with_daemon(daemon, &rig, Kernel::Untouched, || self.run(&rig))
    }
}

impl Exchange {
    fn run(&self, rig: &Rig) -> Result<Sample> {
        let mut peers = Vec::new();
        for (identity, side) in rig.peers.iter().zip(&self.sides) {
            peers.push(Peer::establish(
                &rig.generator,
                *identity,
                side.expects.clone(),
            )?);
        }
        pause(Duration::from_secs(1))?;
        let watch = Watch::start(&rig.daemon)?;
        let start = inject(&peers, &self.sides)?;
        let done = wait(&mut peers, start)?;
        let usage = watch.usage()?;
        Ok(Sample {
            seconds: done.duration_since(start).as_secs_f64(),
            memory_kib: watch.peak_memory()?,
            processor_seconds: usage.daemon.as_secs_f64(),
            foreign: usage.foreign,
            routes: peers.iter().map(|peer| peer.progress().held()).sum(),
        })
    }
}

/// All announce at the same moment, which is returned once the kernel has taken everything.
fn inject(peers: &[Peer], sides: &[Side]) -> Result<Instant> {
    let speaking: Vec<_> = peers
        .iter()
        .zip(sides)
        .filter(|(_, side)| !side.announces.is_empty())
        .collect();
    let barrier = Barrier::new(speaking.len() + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = speaking
            .into_iter()
            .map(|(peer, side)| {
                scope.spawn(|| {
                    barrier.wait();
                    peer.inject(&side.announces)
                })
            })
            .collect();
        let start = Instant::now();
        barrier.wait();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(_) => bail!("a writer has panicked"),
            }
        }
        Ok(start)
    })
}

/// Waits until every sink has all it expects and still has after a while; when the last one got there.
fn wait(peers: &mut [Peer], start: Instant) -> Result<Instant> {
    let mut heard = (0, Instant::now());
    loop {
        for peer in &mut *peers {
            peer.check()?;
        }
        // A sink that expects nothing is never told that it is complete.
        let waiting = peers.iter().filter(|peer| peer.progress().total() > 0);
        let complete: Option<Vec<Instant>> =
            waiting.map(|peer| peer.progress().complete()).collect();
        if let Some(last) = complete.and_then(|all| all.into_iter().max())
            && last.elapsed() > QUIET
        {
            return Ok(last);
        }
        let octets = peers.iter().map(|peer| peer.progress().octets()).sum();
        if octets != heard.0 {
            heard = (octets, Instant::now());
        }
        let held = peers.iter().map(|peer| peer.progress().held()).sum();
        let total = peers.iter().map(|peer| peer.progress().total()).sum();
        // With nothing sent yet it is at work; one that has spoken and falls silent has ended elsewhere.
        if octets > 0 && heard.1.elapsed() > SILENCE {
            return Err(Astray { held, total }.into());
        }
        if start.elapsed() > LIMIT {
            bail!("not done after {LIMIT:?}: {held} of {total}");
        }
        pause(Duration::from_millis(20))?;
    }
}

fn of_others(own: u8, sets: &[(u8, usize, Arc<PrefixSet>)]) -> Expected {
    let mut expected = Expected::default();
    for (index, count, set) in sets.iter().filter(|(index, _, _)| *index != own) {
        expected.add(source(*index), set, *count);
    }
    expected
}

fn source(index: u8) -> u32 {
    DAEMON_AS + 1 + u32::from(index)
}

fn announcer(index: u8, distance: Distance) -> Announcer {
    Announcer {
        asn: source(index),
        next_hop: std::net::Ipv4Addr::new(10, 99, 0, 10 + index),
        distance,
    }
}
