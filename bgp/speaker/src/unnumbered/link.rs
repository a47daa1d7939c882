//! One interface as neighbour discovery sees it: when to speak, who is there. Time is told, nothing is sent here.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// As FRR's `ipv6 nd ra-interval 10`.
const INTERVAL: Duration = Duration::from_secs(10);
/// Advertisements at first (RFC 4861 §6.2.4), so close that a session need not wait for the interval.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_ADVERTISEMENTS: u8 = 3;
/// Answers to solicitations are no closer than this.
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);
/// Silence after which a neighbour is asked, and gives way to another that speaks.
const QUIET: Duration = Duration::from_secs(25);
/// How often it is asked.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// Silence after which it is gone: it has been asked four times.
const GONE: Duration = Duration::from_secs(45);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Advertise,
    Solicit,
    Discovered(Ipv6Addr),
    Lost,
}

/// An interface that is up and has a link-local address.
#[derive(Debug)]
pub(super) struct Link {
    next_advertisement: Instant,
    first_advertisements: u8,
    next_solicitation: Option<Instant>,
    last_answer: Option<Instant>,
    neighbour: Option<Neighbour>,
}

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    address: Ipv6Addr,
    heard: Instant,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_advertisement: now,
            first_advertisements: FIRST_ADVERTISEMENTS,
            next_solicitation: Some(now),
            last_answer: None,
            neighbour: None,
        }
    }

    pub(super) fn neighbour(&self) -> Option<Ipv6Addr> {
        self.neighbour.map(|neighbour| neighbour.address)
    }

    /// An advertisement came.
    pub(super) fn handle_advertisement(
        &mut self,
        now: Instant,
        address: Ipv6Addr,
    ) -> Option<Output> {
        let known = self.neighbour.filter(|known| known.address != address);
        if let Some(other) = known
            && now < other.heard + QUIET
        {
            tracing::debug!(%address, kept = %other.address, "another neighbour on an unnumbered link");
            return None;
        }
        let new = self.neighbour() != Some(address);
        self.neighbour = Some(Neighbour {
            address,
            heard: now,
        });
        self.next_solicitation = Some(now + QUIET);
        new.then_some(Output::Discovered(address))
    }

    /// A solicitation came: whether to answer it.
    pub(super) fn handle_solicitation(&mut self, now: Instant) -> bool {
        let answer = self
            .last_answer
            .is_none_or(|last| now >= last + ANSWER_INTERVAL);
        if answer {
            self.last_answer = Some(now);
        }
        answer
    }

    /// To be called every second or so.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        if now >= self.next_advertisement {
            self.first_advertisements = self.first_advertisements.saturating_sub(1);
            self.next_advertisement = now
                + match self.first_advertisements {
                    0 => INTERVAL,
                    _ => FIRST_INTERVAL,
                };
            outputs.push(Output::Advertise);
        }
        if self.next_solicitation.is_some_and(|at| now >= at) {
            // One at the start; after that only a neighbour that was there is asked.
            self.next_solicitation = self.neighbour.map(|_| now + ASK_INTERVAL);
            outputs.push(Output::Solicit);
        }
        if self
            .neighbour
            .is_some_and(|known| now >= known.heard + GONE)
        {
            self.neighbour = None;
            self.next_solicitation = None;
            outputs.push(Output::Lost);
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    /// What happens in seconds `from..to`, with its second.
    fn run(link: &mut Link, start: Instant, seconds: std::ops::Range<u64>) -> Vec<(u64, Output)> {
        let step = |second| {
            let outputs = link.handle_timeout(start + Duration::from_secs(second));
            outputs.into_iter().map(move |output| (second, output))
        };
        seconds.flat_map(step).collect()
    }

    #[test]
    fn it_speaks_fast_at_first_and_then_every_ten_seconds() {
        let start = Instant::now();
        let mut link = Link::new(start);
        let spoken = run(&mut link, start, 0..33);
        let expected = [
            (0, Output::Advertise),
            (0, Output::Solicit),
            (1, Output::Advertise),
            (2, Output::Advertise),
            (12, Output::Advertise),
            (22, Output::Advertise),
            (32, Output::Advertise),
        ];
        assert_eq!(spoken, expected);
    }

    #[test]
    fn a_silent_neighbour_is_asked_before_it_is_lost() {
        let start = Instant::now();
        let mut link = Link::new(start);
        run(&mut link, start, 0..1);
        assert_eq!(
            link.handle_advertisement(start, A),
            Some(Output::Discovered(A))
        );
        assert_eq!(link.handle_advertisement(start, A), None);
        let mut said = run(&mut link, start, 1..100);
        said.retain(|(_, output)| *output != Output::Advertise);
        let asked = [25, 30, 35, 40].map(|second| (second, Output::Solicit));
        // Asked and lost in one second: the last question is of no use, and harmless.
        let end = [(45, Output::Solicit), (45, Output::Lost)];
        assert_eq!(said, [&asked[..], &end[..]].concat());
        assert_eq!(link.neighbour(), None);
    }

    #[test]
    fn a_neighbour_that_speaks_stays() {
        let start = Instant::now();
        let mut link = Link::new(start);
        link.handle_advertisement(start, A);
        for tens in 0..20 {
            let now = tens * 10;
            assert_eq!(
                link.handle_advertisement(start + Duration::from_secs(now), A),
                None
            );
            let said = run(&mut link, start, now + 1..now + 10);
            assert!(
                said.iter().all(|(_, output)| *output == Output::Advertise),
                "{said:?}"
            );
        }
    }

    #[test]
    fn a_second_neighbour_takes_over_only_from_a_silent_one() {
        let start = Instant::now();
        let mut link = Link::new(start);
        link.handle_advertisement(start, A);
        assert_eq!(
            link.handle_advertisement(start + Duration::from_secs(20), B),
            None
        );
        assert_eq!(link.neighbour(), Some(A));
        let late = link.handle_advertisement(start + Duration::from_secs(26), B);
        assert_eq!(late, Some(Output::Discovered(B)));
    }

    #[test]
    fn answers_are_no_closer_than_a_second() {
        let start = Instant::now();
        let mut link = Link::new(start);
        assert!(link.handle_solicitation(start));
        assert!(!link.handle_solicitation(start + Duration::from_millis(900)));
        assert!(link.handle_solicitation(start + Duration::from_secs(1)));
    }
}
