//! Routes from one feed into the kernel, counted there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tests::netns::Netns;

use super::{Load, Sample, with_daemon};
use crate::daemon::{Daemon, Kernel};
use crate::peer::Peer;
use crate::rig::{DAEMON_AS, Rig};
use crate::sink::Expected;
use crate::table::{Announcer, Distance, Table};
use crate::usage::Watch;

const LIMIT: Duration = Duration::from_secs(120);

/// A feed and how many prefixes it has.
pub(super) struct Feed {
    announces: Vec<u8>,
    prefixes: usize,
}

/// One peer that announces so many prefixes.
pub(super) fn load(prefixes: usize) -> Feed {
    let table = Table::draw(5, prefixes);
    let by = Announcer {
        asn: DAEMON_AS + 1,
        next_hop: std::net::Ipv4Addr::new(10, 99, 0, 10),
        distance: Distance::Any,
    };
    Feed {
        announces: table.announce(&by),
        prefixes,
    }
}

impl Load for Feed {
    fn measure(&self, daemon: Daemon) -> Result<Sample> {
        let rig = Rig::new(1, 1)?;
        with_daemon(daemon, &rig, Kernel::Best, || self.run(&rig))
    }
}

impl Feed {
    fn run(&self, rig: &Rig) -> Result<Sample> {
        let identity = *rig.peers.first().context("no peer")?;
        let mut peer = Peer::establish(&rig.generator, identity, Expected::default())?;
        tests::wait::pause(Duration::from_secs(1))?;
        let before = routes(&rig.daemon)?;
        let watch = Watch::start(&rig.daemon)?;
        let start = Instant::now();
        peer.inject(&self.announces)?;
        let done = self.wait(&mut peer, rig, before, start)?;
        let usage = watch.usage()?;
        Ok(Sample {
            seconds: done.duration_since(start).as_secs_f64(),
            memory_kib: watch.peak_memory()?,
            processor_seconds: usage.daemon.as_secs_f64(),
            foreign: usage.foreign,
            routes: routes(&rig.daemon)? - before,
        })
    }

    fn wait(&self, peer: &mut Peer, rig: &Rig, before: usize, start: Instant) -> Result<Instant> {
        loop {
            let count = routes(&rig.daemon)? - before;
            if count >= self.prefixes {
                return Ok(Instant::now());
            }
            peer.check()?;
            if start.elapsed() > LIMIT {
                bail!("{count} of {} routes after {LIMIT:?}", self.prefixes);
            }
            tests::wait::pause(Duration::from_millis(5))?;
        }
    }
}

/// The IPv4 routes of the main table, by the kernel's own statistics: some milliseconds at 100,000 routes, where a
/// dump takes a hundred.
fn routes(netns: &Netns) -> Result<usize> {
    let text = netns.inside(|| std::fs::read_to_string("/proc/thread-self/net/fib_triestat"))??;
    let main = text.split("Main:").nth(1).context("no main table")?;
    let line = main
        .lines()
        .find_map(|line| line.trim().strip_prefix("Prefixes:"));
    Ok(line.context("no count of prefixes")?.trim().parse()?)
}
