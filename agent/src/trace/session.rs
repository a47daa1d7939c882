//! One run of probes: they are sent in an order that asks the next question only when the last one is answered, and watched.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::evidence::{Purpose, Sent};
use super::packet::{IcmpError, Kind, MOST, Probe, Tuple};
use super::sender::Sender;
use super::watch::{Place, Sighting, Watch};

/// TTL of probes that are to get there.
const FULL_HOPS: u8 = 64;
/// Routers beyond this many are not looked for.
pub(super) const MOST_ROUTERS: u8 = 12;
/// Sizes in octets that are tried where the pod's own is too large: of tunnels, of PPPoE, IPv6's least and IPv4's.
const SIZES: [usize; 9] = [8950, 1492, 1450, 1420, 1400, 1380, 1280, 1000, 576];
/// More than all probes on all links of a node make; what comes then is left.
const MOST_SIGHTINGS: usize = 10_000;

/// The run.
#[derive(Debug)]
pub(super) struct Session {
    sender: Sender,
    watches: Vec<Watch>,
    probes: Vec<Probe>,
    /// For how long an answer is waited for.
    patience: Duration,
    pub(super) sent: Vec<Sent>,
    pub(super) sightings: Vec<Sighting>,
}

impl Session {
    pub(super) fn new(sender: Sender, watches: Vec<Watch>, patience: Duration) -> Self {
        Self {
            sender,
            watches,
            probes: Vec::new(),
            patience,
            sent: Vec::new(),
            sightings: Vec::new(),
        }
    }

    fn tuple(&self) -> Tuple {
        self.sender.tuple()
    }

    /// Sends what there is to send, and watches; `size` is what the pod's interface takes.
    ///
    /// # Errors
    /// If links cannot be watched any more.
    pub(super) fn run(&mut self, size: usize) -> io::Result<()> {
        // The second one is for a neighbour that was being looked for.
        for part in [3, 1] {
            self.send(Purpose::Reach);
            let number = self.last();
            self.watch(self.patience / part, |this| this.is_answered(number))?;
            if self.is_answered(number) {
                break;
            }
        }
        let reached = self.sent.iter().any(|sent| self.is_answered(sent.number));
        self.look_for_routers(reached)?;
        if reached {
            self.try_size(size)?;
        }
        Ok(())
    }

    fn look_for_routers(&mut self, reached: bool) -> io::Result<()> {
        let mut numbers = Vec::new();
        for hops in 1..=MOST_ROUTERS {
            self.send(Purpose::Hops(hops));
            numbers.push(self.last());
        }
        self.watch(self.patience, |this| {
            // Up to the first that gets there.
            let mut all = numbers.iter();
            let known = |number: &&u16| this.is_answered(**number) || this.is_expired(**number);
            let silent = all.find(|number| !known(number));
            reached
                && silent
                    .is_none_or(|silent| numbers.iter().any(|n| n < silent && this.is_answered(*n)))
        })
    }

    fn try_size(&mut self, size: usize) -> io::Result<()> {
        self.send(Purpose::Size(size));
        let number = self.last();
        self.watch(self.patience, |this| {
            this.is_answered(number) || this.is_too_large(number)
        })?;
        if self.is_answered(number) {
            return Ok(());
        }
        let mut largest = None;
        for smaller in SIZES.into_iter().filter(|smaller| *smaller < size) {
            self.send(Purpose::Size(smaller));
            largest = largest.or(Some(self.last()));
        }
        self.watch(self.patience, |this| {
            largest.is_some_and(|number| this.is_answered(number))
        })
    }

    fn last(&self) -> u16 {
        self.sent.last().map_or(0, |sent| sent.number)
    }

    /// An error is kept with the probe: it says where the path ends.
    fn send(&mut self, purpose: Purpose) {
        let number = u16::try_from(self.probes.len()).unwrap_or(MOST).min(MOST);
        let (hops, size) = match purpose {
            Purpose::Reach => (FULL_HOPS, 0),
            Purpose::Hops(hops) => (hops, 0),
            Purpose::Size(size) => (FULL_HOPS, size),
        };
        let size = size.max(self.tuple().least());
        let probe = Probe { number, hops, size };
        self.probes.push(probe);
        let error = self.sender.send(&probe).err();
        self.sent.push(Sent {
            number,
            purpose,
            error: error.map(|error| error.to_string()),
        });
    }

    /// Whether the target's answer came back to the pod.
    fn is_answered(&self, number: u16) -> bool {
        let mut here = self
            .sightings
            .iter()
            .filter(|one| one.place == Place::Source);
        here.any(|one| match one.seen.kind {
            Kind::Accepted(of) | Kind::Refused(of) => of == number,
            Kind::Answered(of) => of.is_none_or(|of| of == number),
            Kind::Error { number: of, error } => of == number && error == IcmpError::PortClosed,
            Kind::Probe(_) => false,
        })
    }

    fn is_expired(&self, number: u16) -> bool {
        let expired = Kind::Error {
            number,
            error: IcmpError::Expired,
        };
        self.sightings.iter().any(|one| one.seen.kind == expired)
    }

    fn is_too_large(&self, number: u16) -> bool {
        self.sightings.iter().any(|one| {
            matches!(one.seen.kind, Kind::Error { number: of, error: IcmpError::TooLarge(_) } if of == number)
        })
    }

    /// Reads what is seen until that is enough, or for so long.
    fn watch(&mut self, patience: Duration, enough: impl Fn(&Self) -> bool) -> io::Result<()> {
        let end = Instant::now() + patience;
        loop {
            for watch in &mut self.watches {
                while self.sightings.len() < MOST_SIGHTINGS {
                    match watch.next(&self.probes)? {
                        Some(sighting) => self.sightings.push(sighting),
                        None => break,
                    }
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || enough(self) {
                return Ok(());
            }
            let mut fds: Vec<PollFd<'_>> = self
                .watches
                .iter()
                .map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN))
                .collect();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
