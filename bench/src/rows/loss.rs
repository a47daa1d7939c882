//! Two paths for every route, one of them lost: how long the kernel still uses the dead next hop.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tests::wait::{eventually, pause};

use super::{Load, Sample, with_daemon};
use crate::daemon::{Daemon, Kernel};
use crate::kernel_routes;
use crate::peer::Peer;
use crate::rig::Rig;
use crate::sink::Expected;
use crate::table::{Announcer, Distance, Table};
use crate::usage::Watch;

const LIMIT: Duration = Duration::from_secs(60);

/// What two peers announce, each on a link of its own.
pub(super) struct Loss {
    table: Table,
}

/// So many prefixes.
pub(super) fn load(prefixes: usize) -> Loss {
    Loss {
        table: Table::draw(7, prefixes),
    }
}

impl Load for Loss {
    fn measure(&self, daemon: Daemon) -> Result<Sample> {
        let rig = Rig::new(2, 2)?;
        with_daemon(daemon, &rig, Kernel::Multipath, || self.run(&rig))
    }
}

impl Loss {
    fn run(&self, rig: &Rig) -> Result<Sample> {
        let mut peers = Vec::new();
        for identity in &rig.peers {
            let peer = Peer::establish(&rig.generator, *identity, Expected::default())?;
            peer.inject(&self.table.announce(&Announcer {
                asn: identity.asn,
                next_hop: identity.address,
                distance: Distance::Equal,
            }))?;
            peers.push(peer);
        }
        for link in 0..2 {
            let what = format!("all routes by link {link}");
            eventually(LIMIT, &what, || {
                let count = routes_by(rig, link)?;
                ensure!(count >= self.table.len(), "{count} of {}", self.table.len());
                Ok(())
            })?;
        }
        pause(Duration::from_secs(2))?;
        let watch = Watch::start(&rig.daemon)?;
        let lost = peers.pop().context("no peer")?;
        let start = Instant::now();
        lost.reset()?;
        let done = wait(rig, start)?;
        let usage = watch.usage()?;
        let left = routes_by(rig, 0)?;
        ensure!(
            left >= self.table.len(),
            "only {left} routes are left by the other link"
        );
        Ok(Sample {
            seconds: done.duration_since(start).as_secs_f64(),
            memory_kib: watch.peak_memory()?,
            processor_seconds: usage.daemon.as_secs_f64(),
            foreign: usage.foreign,
            routes: left,
        })
    }
}

/// Waits until no route uses the second link; when that was seen.
fn wait(rig: &Rig, start: Instant) -> Result<Instant> {
    let dead = kernel_routes::index_of(&rig.daemon, &Rig::link(1))?;
    loop {
        // One route in sight is enough to know that it is not over, and costs no dump of all.
        if !kernel_routes::any_by(&rig.daemon, dead)? {
            return Ok(Instant::now());
        }
        if start.elapsed() > LIMIT {
            bail!("routes still use the dead peer after {LIMIT:?}");
        }
        pause(Duration::from_millis(2))?;
    }
}

/// How many routes of BGP use a link.
fn routes_by(rig: &Rig, link: u8) -> Result<usize> {
    let index = kernel_routes::index_of(&rig.daemon, &Rig::link(link))?;
    kernel_routes::count_by(&rig.daemon, index)
}
