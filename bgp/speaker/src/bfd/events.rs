//! The bounded way out for events: a reader that is slow loses none that still matters, and never delays the thread.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::peer::BfdEvent;

/// The channel, and what didn't fit: of each peer the last Down and what came after it.
#[derive(Debug)]
pub(super) struct Events {
    sender: mpsc::Sender<BfdEvent>,
    waiting: BTreeMap<String, Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    down: Option<BfdEvent>,
    up: Option<BfdEvent>,
    changed: Option<BfdEvent>,
}

impl Events {
    pub(super) fn new(sender: mpsc::Sender<BfdEvent>) -> Self {
        Self {
            sender,
            waiting: BTreeMap::new(),
        }
    }

    pub(super) fn push(&mut self, event: BfdEvent) {
        let waiting = self.waiting.entry(event.peer().to_owned()).or_default();
        match event {
            BfdEvent::Up { .. } => waiting.up = Some(event),
            BfdEvent::Changed { .. } => waiting.changed = Some(event),
            BfdEvent::Down { .. } => {
                *waiting = Waiting {
                    down: Some(event),
                    ..Waiting::default()
                };
            }
        }
        self.flush();
    }

    /// Forgets what waits for a peer that is no longer watched.
    pub(super) fn forget(&mut self, peer: &str) {
        self.waiting.remove(peer);
    }

    /// Hands on what the channel has room for; whether something is left.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(mut entry) = self.waiting.first_entry() {
            let waiting = entry.get_mut();
            for slot in [&mut waiting.down, &mut waiting.up, &mut waiting.changed] {
                let Some(event) = slot.take() else { continue };
                if let Err(TrySendError::Full(event)) = self.sender.try_send(event) {
                    *slot = Some(event);
                    return true;
                }
            }
            entry.remove();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use bgp_proto::bfd::Diagnostic;

    use super::*;

    fn up(peer: &str) -> BfdEvent {
        BfdEvent::Up {
            peer: peer.to_owned(),
        }
    }

    fn down(peer: &str, remote_admin_down: bool) -> BfdEvent {
        BfdEvent::Down {
            peer: peer.to_owned(),
            diagnostic: Diagnostic::NeighborSignaledSessionDown,
            remote_admin_down,
            begun_anew: false,
            control_plane_independent: false,
        }
    }

    #[test]
    fn a_slow_reader_still_gets_the_last_down_and_what_followed_it() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut events = Events::new(sender);
        events.push(up("a"));
        for event in [
            down("a", true),
            up("a"),
            down("a", false),
            up("a"),
            up("b"),
            down("b", true),
        ] {
            events.push(event);
        }
        let mut got = Vec::new();
        while let Ok(event) = receiver.try_recv() {
            got.push(event);
            events.flush();
        }
        assert_eq!(got, [up("a"), down("a", false), up("a"), down("b", true)]);
        assert!(!events.flush());
    }
}
