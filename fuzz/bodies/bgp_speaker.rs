//! What must hold of a whole speaker whatever peers, people and the kernel do; run by libFuzzer, and on stable over the corpus.

#[path = "bgp_speaker/books.rs"]
mod books;
#[path = "bgp_speaker/settings.rs"]
mod settings;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp_proto::rib::NextHopState;
use bgp_proto::session::Direction;
use bgp_proto::speaker::{Config, Endpoints, Restart, Speaker, StopAs};
use bgp_proto::wire::{Family, Message, WireContext};

use crate::bgp_input::Input;
use crate::bgp_messages::{encoded, message, mirrored, open};
use books::Books;

const DIRECTIONS: [Direction; 2] = [Direction::Outgoing, Direction::Incoming];

/// Tells a speaker what the bytes say. Panics when something does not hold.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut driver = Driver::new(&mut input);
    let mut steps = 0;
    while !input.is_empty() {
        driver.step(&mut input);
        steps += 1;
        if steps % 8 == 0 {
            driver.settle(usize::MAX, 0);
            driver.books.check(&mut driver.speaker, driver.now);
        }
    }
    driver.settle(usize::MAX, 0);
    driver.books.check(&mut driver.speaker, driver.now);
    driver.end();
}

struct Driver {
    speaker: Speaker,
    config: Config,
    now: Instant,
    books: Books,
}

impl Driver {
    #[allow(clippy::disallowed_methods, reason = "an Instant to count from")]
    fn new(input: &mut Input<'_>) -> Self {
        let (config, now) = (settings::config(), Instant::now());
        let restart = Restart {
            forwarding_preserved: input.bool(),
            wait: Duration::from_secs(u64::from(input.u8() % 64)),
        };
        let seed = u64::from(input.u8());
        let mut driver = Self {
            speaker: Speaker::new(config.speaker.clone(), restart, seed, now),
            config,
            now,
            books: Books::default(),
        };
        driver.speaker.configure(now, driver.config.clone());
        driver.settle(usize::MAX, 0);
        driver
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let who = input.u8();
        let direction = DIRECTIONS[usize::from(who & 1)];
        let peer = settings::PEERS[usize::from(who >> 1) % settings::PEERS.len()];
        let (now, speaker) = (self.now, &mut self.speaker);
        match input.u8() % 24 {
            0..=7 => {
                let context = self.context(peer);
                let bytes = message(input, settings::asn_of(peer), &context);
                let direction = self.speaker.carrier(peer).unwrap_or(direction);
                self.bytes(peer, direction, &bytes);
            }
            8..=11 => {
                // Up at once: what most of a speaker's life follows from.
                self.connect(peer, direction);
                let hello = open(input, settings::asn_of(peer));
                self.bytes(peer, direction, &encoded(&hello));
                self.bytes(peer, direction, &encoded(&Message::Keepalive));
            }
            12 => self.connect(peer, direction),
            13 => {
                self.books.lost(peer, direction);
                speaker.handle_disconnected(now, peer, direction, "lost");
            }
            14 => {
                self.books.not_dialling(peer);
                speaker.handle_connect_failed(now, peer);
            }
            15 | 16 => self.advance(input),
            17 | 18 => {
                settings::change(&mut self.config, peer, input);
                speaker.configure(now, self.config.clone());
            }
            19 => {
                let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1 + input.u8() % 6));
                let state = match input.u8() % 3 {
                    0 => NextHopState::Unreachable,
                    cost => NextHopState::Reachable {
                        igp_cost: u32::from(cost),
                    },
                };
                speaker.handle_next_hops([(address, state)]);
            }
            20 => match input.u8() % 5 {
                4 => speaker.handle_bfd_up_all_along(now, peer),
                0 => speaker.handle_bfd_up(now, peer),
                1 => speaker.handle_bfd_admin_down(now, peer),
                independent => speaker.handle_bfd_down(now, peer, independent == 2),
            },
            21 => {
                let _ = speaker.request_refresh(now, peer, Family::IPV4_UNICAST);
            }
            22 if input.bool() => {
                speaker.reset(now, peer, "for a test");
            }
            22 => speaker.handle_discovered(now, peer),
            _ => {
                speaker.handle_write_blocked(now, peer, direction);
                self.settle(1 + usize::from(input.u8()), input.u8());
                return self
                    .speaker
                    .handle_write_progress(self.now, peer, direction);
            }
        }
        self.settle(4096, input.u8());
    }

    fn context(&self, peer: &str) -> WireContext {
        let status = self.speaker.status(self.now);
        let status = status.into_iter().find(|status| status.name == peer);
        let negotiated = status.and_then(|status| status.negotiated);
        negotiated.map_or_else(WireContext::default, |n| mirrored(&n.context))
    }

    fn connect(&mut self, peer: &str, direction: Direction) {
        let address = settings::address_of(peer);
        if self.speaker.state(peer).is_none() {
            let Some(name) = self.speaker.peer_from_range(self.now, address) else {
                return;
            };
            self.settle(4096, 0);
            if *name != *peer {
                return;
            }
        }
        let possible = match direction {
            Direction::Outgoing => self.books.not_dialling(peer),
            Direction::Incoming => self.speaker.admits(peer, direction),
        };
        if possible {
            self.books.opened(peer, direction);
            let ends = Endpoints {
                local: SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), 179),
                remote: SocketAddr::new(address, 179),
                link_local: None,
                link: None,
            };
            self.speaker
                .handle_connected(self.now, peer, direction, ends);
            self.settle(4096, 0);
        }
    }

    fn bytes(&mut self, peer: &str, direction: Direction, bytes: &[u8]) {
        if self.books.is_open(peer, direction) {
            self.speaker.handle_bytes(self.now, peer, direction, bytes);
            self.settle(4096, 0);
        }
    }

    fn advance(&mut self, input: &mut Input<'_>) {
        let until = self.now + input.time();
        for _ in 0..100_000 {
            match self.speaker.poll_timeout().filter(|at| *at <= until) {
                Some(at) => self.now = self.now.max(at),
                None => {
                    self.now = until;
                    return;
                }
            }
            self.fire();
        }
        panic!("100000 timeouts within an hour");
    }

    fn fire(&mut self) {
        for _ in 0..16 {
            self.speaker.handle_timeout(self.now);
            self.settle(4096, 0);
            if self.speaker.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("a timer stays due");
    }

    /// Does what the speaker asks for; peers whose bit is set in `deaf` take no UPDATEs now.
    fn settle(&mut self, budget: usize, deaf: u8) {
        for _ in 0..10_000 {
            self.books.take_actions(&mut self.speaker);
            self.books.take_routes(&mut self.speaker);
            let mut idle = !self.speaker.has_work();
            for (place, peer) in settings::PEERS.into_iter().enumerate() {
                if deaf >> 4 & 1 << place == 0 {
                    idle &= !self
                        .books
                        .transmit(&mut self.speaker, self.now, peer, budget);
                }
            }
            if idle {
                return;
            }
        }
        panic!("no end of output");
    }

    /// Everything is taken away: nothing may be left.
    fn end(&mut self) {
        self.speaker
            .stop(self.now, &StopAs::Shutdown("the end".to_owned()));
        self.settle(usize::MAX, 0);
        assert_eq!(self.speaker.established().count(), 0);
        self.config.peers.clear();
        self.config.ranges.clear();
        self.config.originate.clear();
        self.speaker.configure(self.now, self.config.clone());
        self.settle(usize::MAX, 0);
        self.books.check(&mut self.speaker, self.now);
        self.books.check_empty();
        assert_eq!(self.speaker.status(self.now), []);
        assert_eq!(self.speaker.routes(None, usize::MAX), []);
        self.speaker
            .handle_timeout(self.now + Duration::from_secs(3600));
        self.settle(usize::MAX, 0);
        assert_eq!(self.speaker.poll_timeout(), None);
    }
}
