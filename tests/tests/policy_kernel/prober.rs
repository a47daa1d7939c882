//! Sends probes and counts which arrived. It never waits for time to pass: a packet that nothing can stop goes after
//! them, over the same links and the same processor, and once it is there whatever was to come has come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::{Lab, Place};
use crate::packet::{Mark, Packet, Transport};

/// How many packets go before one looks what came: less than the kernel keeps for a processor.
const VOLLEY: usize = 128;
/// How long the last packet may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One question: does this packet arrive?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    pub(crate) from: Place,
    pub(crate) source: IpAddr,
    /// What the sender writes into the header.
    pub(crate) sent_to: (IpAddr, u16),
    pub(crate) transport: Transport,
    /// Where it must come out, if at all, and with which port.
    pub(crate) to: Place,
    pub(crate) destination: (IpAddr, u16),
}

/// What was sent, and what of it arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
}

/// Sends and counts.
pub(crate) struct Prober {
    pub(crate) lab: Lab,
    next: u32,
    /// What is under way: where it must come out.
    awaited: BTreeMap<u32, (Place, u16)>,
    arrived: BTreeSet<u32>,
    pub(crate) counts: Counts,
}

impl Prober {
    pub(crate) fn new(lab: Lab) -> Self {
        Self {
            lab,
            next: 0,
            awaited: BTreeMap::new(),
            arrived: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Which of the probes arrive.
    pub(crate) fn ask(&mut self, probes: &[Probe]) -> Result<Vec<bool>> {
        let mut answers = Vec::with_capacity(probes.len());
        for some in probes.chunks(VOLLEY) {
            let numbers: Vec<u32> = some
                .iter()
                .map(|probe| self.send(probe))
                .collect::<Result<_>>()?;
            let arrived = self.settle()?;
            answers.extend(numbers.iter().map(|number| arrived.contains(number)));
        }
        Ok(answers)
    }

    /// Sends one and gives its number; [`Prober::settle`] says whether it arrived.
    pub(crate) fn send(&mut self, probe: &Probe) -> Result<u32> {
        self.next += 1;
        let packet = Packet {
            number: self.next,
            source: probe.source,
            destination: probe.sent_to.0,
            transport: probe.transport,
            port: probe.sent_to.1,
        };
        self.awaited
            .insert(self.next, (probe.to, probe.destination.1));
        self.counts.sent += 1;
        match self.lab.far_end(probe.from) {
            Some(end) => end.send(&packet)?,
            None => self.lab.node.send(&packet)?,
        }
        Ok(self.next)
    }

    /// Waits until all that was sent has arrived or never will; the numbers of what arrived.
    pub(crate) fn settle(&mut self) -> Result<BTreeSet<u32>> {
        let last = last_packet();
        let number = self.send(&last)?;
        let begun = Instant::now();
        loop {
            self.drain()?;
            if self.arrived.remove(&number) {
                break;
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the last packet was lost: the lab is broken"
            );
            std::thread::yield_now();
        }
        self.counts.sent -= 1;
        self.awaited.clear();
        let arrived = std::mem::take(&mut self.arrived);
        self.counts.arrived += u64::try_from(arrived.len())?;
        Ok(arrived)
    }

    /// Takes what is there already, so that a long flight does not fill the sockets.
    pub(crate) fn drain(&mut self) -> Result<()> {
        let mut came: Vec<(Place, Mark)> = Vec::new();
        for end in self.lab.far() {
            let place = end.place;
            end.drain(|mark| came.push((place, mark)))?;
        }
        self.lab.node.drain(|mark| came.push((Place::Node, mark)))?;
        for (place, mark) in came {
            let number = mark.number;
            let (to, port) = self
                .awaited
                .get(&number)
                .with_context(|| format!("{number} arrived late at {place:?}"))?;
            if (*to, *port) != (place, mark.port) {
                bail!("{number} was for {to:?} port {port} and arrived at {place:?}: {mark:?}");
            }
            ensure!(self.arrived.insert(number), "{number} arrived twice");
        }
        Ok(())
    }
}

/// From outside to the remote node: no pod is in it, so nothing of ours may stop it.
fn last_packet() -> Probe {
    let source = Place::Outside.addresses(true)[0];
    let destination = (*Place::Remote.addresses(true).last().expect("its own"), 9);
    Probe {
        from: Place::Outside,
        source,
        sent_to: destination,
        transport: Transport::Udp,
        to: Place::Remote,
        destination,
    }
}
