//! Established sessions over which nothing happens: what the daemon costs then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tests::wait::{eventually, pause};

use super::{Load, Sample, with_daemon};
use crate::daemon::{Daemon, Kernel};
use crate::peer::Peer;
use crate::rig::{DAEMON_AS, Rig};
use crate::sink::Expected;
use crate::table::{Announcer, Distance, Table};
use crate::usage::Watch;

const WATCHED: Duration = Duration::from_secs(20);

/// The first peer announces the table, the others hold it.
pub(super) struct Idle {
    peers: u8,
    table: Table,
}

/// So many peers, of which one announces so many prefixes.
pub(super) fn load(peers: u8, prefixes: usize) -> Idle {
    let table = Table::draw(6, prefixes);
    Idle { peers, table }
}

impl Load for Idle {
    fn measure(&self, daemon: Daemon) -> Result<Sample> {
        let rig = Rig::new(self.peers, 1)?;
        with_daemon(daemon, &rig, Kernel::Best, || self.run(&rig))
    }
}

impl Idle {
    fn run(&self, rig: &Rig) -> Result<Sample> {
        let first = Announcer {
            asn: DAEMON_AS + 1,
            next_hop: std::net::Ipv4Addr::new(10, 99, 0, 10),
            distance: Distance::Any,
        };
        let all = Arc::new(self.table.prefixes().collect());
        let mut peers = Vec::new();
        for identity in &rig.peers {
            let mut expects = Expected::default();
            if !peers.is_empty() {
                expects.add(first.asn, &all, self.table.len());
            }
            peers.push(Peer::establish(&rig.generator, *identity, expects)?);
        }
        if let Some(peer) = peers.first() {
            peer.inject(&self.table.announce(&first))?;
        }
        let held = || peers.iter().map(|peer| peer.progress().held()).sum();
        let wanted: usize = peers.iter().map(|peer| peer.progress().total()).sum();
        eventually(Duration::from_secs(60), "all routes at all peers", || {
            let held: usize = held();
            if held == wanted { Ok(()) } else { Err(held) }
        })?;
        pause(Duration::from_secs(5))?;
        let watch = Watch::start(&rig.daemon)?;
        let start = Instant::now();
        pause(WATCHED)?;
        let usage = watch.usage()?;
        Ok(Sample {
            seconds: start.elapsed().as_secs_f64(),
            memory_kib: watch.memory_now()?,
            processor_seconds: usage.daemon.as_secs_f64(),
            foreign: usage.foreign,
            routes: held(),
        })
    }
}
