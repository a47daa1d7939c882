//! Paths that BFD watches for others than BGP: a session of their own, or that of a BGP peer at the same address, since there is
//! one between two systems (RFC 5881 §2).

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use crate::bfd::{BfdEvent, BfdPeer, Diagnostic};

/// What BFD says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// It works.
    Up,
    /// It was Up, and nothing has come in for the detection time.
    Silent,
    /// It was Up, and the other side has said that it ends (AdminDown).
    Ended,
    /// It was Up; the other side has begun anew, or says that it hears nothing.
    Doubtful,
}

/// The paths, and what is known of each that was Up since it is watched.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    wanted: BTreeMap<String, BfdPeer>,
    /// The sessions that tell of them: the session's name, then the path's.
    by_session: BTreeMap<String, String>,
    /// All sessions that are Up: one may be shared only later.
    up: BTreeSet<String>,
    states: watch::Sender<BTreeMap<String, PathState>>,
}

/// No BGP peer's name has a space.
fn own_session(path: &str) -> String {
    format!("path {path}")
}

impl Paths {
    pub(crate) fn set(&mut self, wanted: BTreeMap<String, BfdPeer>) {
        self.wanted = wanted;
    }

    pub(crate) fn states(&self) -> watch::Receiver<BTreeMap<String, PathState>> {
        self.states.subscribe()
    }

    /// Adds what is wanted to the sessions of BGP peers, and shares those that lead to the same address.
    pub(crate) fn join(&mut self, sessions: &mut BTreeMap<String, BfdPeer>) {
        let mut by_session = BTreeMap::new();
        for (path, wanted) in &self.wanted {
            let is_same = |peer: &BfdPeer| {
                peer.remote == wanted.remote && peer.multihop.is_none() && peer.interface.is_none()
            };
            let shared = sessions
                .iter()
                .find(|(name, peer)| !name.contains(' ') && is_same(peer));
            let name = shared.map_or_else(|| own_session(path), |(name, _)| name.clone());
            sessions
                .entry(name.clone())
                .or_insert_with(|| wanted.clone());
            by_session.insert(name, path.clone());
        }
        self.up.retain(|name| sessions.contains_key(name));
        let before = std::mem::replace(&mut self.by_session, by_session);
        self.states.send_if_modified(|states| {
            let old = states.clone();
            // What another session said says nothing of this one.
            let is_kept =
                |(session, path): &(&String, &String)| before.get(*session) == Some(*path);
            let kept = self
                .by_session
                .iter()
                .filter(is_kept)
                .filter_map(|(session, path)| {
                    let state = if self.up.contains(session) {
                        Some(PathState::Up)
                    } else {
                        old.get(path).copied()
                    };
                    Some((path.clone(), state?))
                });
            let new = self.by_session.iter().filter(|pair| !is_kept(pair));
            let new = new.filter(|(session, _)| self.up.contains(*session));
            let new = new.map(|(_, path)| (path.clone(), PathState::Up));
            *states = kept.chain(new).collect();
            *states != old
        });
    }

    /// BFD has ended.
    pub(crate) fn clear(&mut self) {
        self.up.clear();
        self.by_session.clear();
        self.states.send_replace(BTreeMap::new());
    }

    /// Notes an event; whether it is of a BGP peer's session.
    pub(crate) fn note(&mut self, event: &BfdEvent) -> bool {
        let (name, state) = match event {
            BfdEvent::Up { peer } => (peer, PathState::Up),
            BfdEvent::Changed { peer } => return !peer.contains(' '),
            BfdEvent::Down {
                peer,
                remote_admin_down: true,
                ..
            } => (peer, PathState::Ended),
            BfdEvent::Down {
                peer,
                begun_anew: true,
                ..
            }
            | BfdEvent::Down {
                peer,
                diagnostic: Diagnostic::NeighborSignaledSessionDown,
                ..
            } => (peer, PathState::Doubtful),
            BfdEvent::Down { peer, .. } => (peer, PathState::Silent),
        };
        if state == PathState::Up {
            self.up.insert(name.clone());
        } else {
            self.up.remove(name);
        }
        if let Some(path) = self.by_session.get(name) {
            self.states.send_modify(|states| {
                states.insert(path.clone(), state);
            });
        }
        !name.contains(' ')
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;
    use std::time::Duration;

    use super::*;
    use crate::bfd::BfdConfig;

    fn peer(remote: &str) -> BfdPeer {
        BfdPeer {
            remote: remote.parse().expect("an address"),
            local: None,
            interface: None,
            multihop: None,
            config: BfdConfig {
                desired_min_tx: Duration::from_millis(100),
                required_min_rx: Duration::from_millis(100),
                detect_multiplier: NonZeroU8::MIN,
                control_plane_independent: false,
                passive: false,
            },
        }
    }

    fn one(name: &str, remote: &str) -> BTreeMap<String, BfdPeer> {
        BTreeMap::from([(name.to_owned(), peer(remote))])
    }

    fn down(peer: &str, remote_admin_down: bool) -> BfdEvent {
        BfdEvent::Down {
            peer: peer.to_owned(),
            diagnostic: Diagnostic::ControlDetectionTimeExpired,
            remote_admin_down,
            begun_anew: false,
            control_plane_independent: false,
        }
    }

    #[test]
    fn a_path_has_a_session_of_its_own_or_shares_a_bgp_peers() {
        let mut paths = Paths::default();
        let states = paths.states();
        paths.set(one("n2", "192.0.2.2"));
        let mut alone = BTreeMap::new();
        paths.join(&mut alone);
        assert_eq!(alone.keys().collect::<Vec<_>>(), ["path n2"]);
        assert!(!paths.note(&BfdEvent::Up {
            peer: "path n2".to_owned()
        }));
        assert_eq!(states.borrow().get("n2"), Some(&PathState::Up));

        // A BGP peer comes at the same address, and its session is Up already.
        paths.note(&BfdEvent::Up {
            peer: "mesh".to_owned(),
        });
        let mut shared = one("mesh", "192.0.2.2");
        paths.join(&mut shared);
        assert_eq!(shared.keys().collect::<Vec<_>>(), ["mesh"]);
        assert!(paths.note(&BfdEvent::Up {
            peer: "mesh".to_owned()
        }));
        assert_eq!(states.borrow().get("n2"), Some(&PathState::Up));
        assert!(paths.note(&down("mesh", false)), "the speaker is told, too");
        assert_eq!(states.borrow().get("n2"), Some(&PathState::Silent));
        paths.note(&down("mesh", true));
        assert_eq!(states.borrow().get("n2"), Some(&PathState::Ended));

        // Another session: what the last one said is of no use.
        let mut alone = BTreeMap::new();
        paths.join(&mut alone);
        assert!(states.borrow().is_empty());
    }

    #[test]
    fn a_session_that_was_up_before_is_known_to_be() {
        let mut paths = Paths::default();
        let states = paths.states();
        let mut mesh = one("mesh", "192.0.2.2");
        paths.join(&mut mesh);
        paths.note(&BfdEvent::Up {
            peer: "mesh".to_owned(),
        });
        assert!(states.borrow().is_empty());
        paths.set(one("n2", "192.0.2.2"));
        paths.join(&mut mesh);
        assert_eq!(states.borrow().get("n2"), Some(&PathState::Up));
    }
}
