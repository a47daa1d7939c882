//! All configured interfaces: which of them can be used, and what becomes known of who is at their other ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::Instant;

use super::link::{Link, Output};
use super::message::Message;
use super::socket::{Found, Received, Socket};

/// What becomes known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnnumberedEvent {
    /// A neighbour is there; in place of the one before, if there was one.
    Discovered {
        /// The interface.
        interface: String,
        /// Its index: the scope of the address.
        ifindex: u32,
        /// The neighbour's link-local address.
        address: Ipv6Addr,
    },
    /// It has fallen silent, or the interface went down or away.
    Lost {
        /// The interface.
        interface: String,
    },
    /// The interface cannot be used; it is tried again every second.
    Unavailable {
        /// The interface.
        interface: String,
        /// Why, naming the interface.
        reason: String,
    },
}

/// The interfaces.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: BTreeMap<String, State>,
}

#[derive(Debug)]
enum State {
    Unavailable(String),
    Active { ifindex: u32, link: Link },
}

impl Links {
    /// Brings the interfaces in line with what is wanted and what there is, then does what is due.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        wanted: &BTreeSet<String>,
        there: &BTreeMap<String, Found>,
        socket: &Socket,
    ) -> Vec<UnnumberedEvent> {
        let mut events = self.keep_only(wanted, socket);
        for interface in wanted {
            let usable = match there.get(interface) {
                None => Err("there is no such interface"),
                Some(found) => found.usable(),
            };
            match usable {
                Ok(ifindex) => self.activate(now, interface, ifindex, socket, &mut events),
                Err(reason) => self.deactivate(interface, reason, &mut events),
            }
            if let Some(State::Active { ifindex, link }) = self.known.get_mut(interface) {
                let outputs = link.handle_timeout(now);
                let made = outputs
                    .into_iter()
                    .filter_map(|output| carry_out(output, interface, *ifindex, socket));
                events.extend(made);
            }
        }
        events
    }

    /// A packet came.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        received: Received,
        socket: &Socket,
    ) -> Option<UnnumberedEvent> {
        let (interface, link) = self
            .known
            .iter_mut()
            .find_map(|(name, state)| match state {
                State::Active { ifindex, link } if *ifindex == received.ifindex => {
                    Some((name, link))
                }
                _ => None,
            })?;
        match received.message {
            Message::Advertisement => {
                let output = link.handle_advertisement(now, received.from)?;
                carry_out(output, interface, received.ifindex, socket)
            }
            Message::Solicitation => {
                if link.handle_solicitation(now) {
                    return carry_out(Output::Advertise, interface, received.ifindex, socket);
                }
                None
            }
        }
    }

    /// Every interface is unusable for one reason: there is no socket.
    pub(super) fn fail(&mut self, wanted: &BTreeSet<String>, reason: &str) -> Vec<UnnumberedEvent> {
        let mut events = Vec::new();
        for interface in wanted {
            self.deactivate(interface, reason, &mut events);
        }
        events
    }

    fn keep_only(&mut self, wanted: &BTreeSet<String>, socket: &Socket) -> Vec<UnnumberedEvent> {
        let gone = self.known.extract_if(.., |name, _| !wanted.contains(name));
        gone.filter_map(|(interface, state)| {
            let State::Active { ifindex, link } = state else {
                return None;
            };
            socket.leave(ifindex);
            link.neighbour()
                .map(|_| UnnumberedEvent::Lost { interface })
        })
        .collect()
    }

    fn activate(
        &mut self,
        now: Instant,
        interface: &str,
        index: u32,
        socket: &Socket,
        events: &mut Vec<UnnumberedEvent>,
    ) {
        if let Some(State::Active { ifindex, .. }) = self.known.get(interface)
            && *ifindex == index
        {
            return;
        }
        // One that was replaced under its name has another neighbour.
        if let Some(State::Active { link, .. }) = self.known.get(interface)
            && link.neighbour().is_some()
        {
            events.push(UnnumberedEvent::Lost {
                interface: interface.to_owned(),
            });
        }
        self.known.remove(interface);
        if let Err(error) = socket.join(index) {
            return self.deactivate(
                interface,
                &format!("cannot join its groups: {error}"),
                events,
            );
        }
        let link = Link::new(now);
        let state = State::Active {
            ifindex: index,
            link,
        };
        self.known.insert(interface.to_owned(), state);
    }

    fn deactivate(&mut self, interface: &str, why: &str, events: &mut Vec<UnnumberedEvent>) {
        let reason = format!("interface {interface}: {why}");
        let now = State::Unavailable(reason.clone());
        let interface = interface.to_owned();
        match self.known.insert(interface.clone(), now) {
            Some(State::Unavailable(before)) if before == reason => return,
            None | Some(State::Unavailable(_)) => {}
            Some(State::Active { link, .. }) => {
                if link.neighbour().is_some() {
                    events.push(UnnumberedEvent::Lost {
                        interface: interface.clone(),
                    });
                }
            }
        }
        events.push(UnnumberedEvent::Unavailable { interface, reason });
    }
}

fn carry_out(
    output: Output,
    interface: &str,
    ifindex: u32,
    socket: &Socket,
) -> Option<UnnumberedEvent> {
    let message = match output {
        Output::Advertise => Message::Advertisement,
        Output::Solicit => Message::Solicitation,
        Output::Discovered(address) => {
            return Some(UnnumberedEvent::Discovered {
                interface: interface.to_owned(),
                ifindex,
                address,
            });
        }
        Output::Lost => {
            return Some(UnnumberedEvent::Lost {
                interface: interface.to_owned(),
            });
        }
    };
    // Such as an address that is still being checked for duplicates; the next one is due soon.
    if let Err(error) = socket.send(message, ifindex) {
        tracing::debug!(interface, ?message, %error, "cannot send");
    }
    None
}
