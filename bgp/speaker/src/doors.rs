//! Who may connect, and with which key: kept in step with the peers at every listening socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Target};
use crate::connection::Event;
use crate::handle::ListenerStatus;
use crate::listener::{Admission, Admitted, AdmittedSet, Keys, ListenConfig, Listener, Slots};
use crate::peer::Peer;

/// The listening sockets.
pub(crate) struct Doors {
    listeners: BTreeMap<SocketAddr, Listener>,
    admitted: watch::Sender<Admitted>,
    slots: Arc<Slots>,
    inbox: mpsc::Sender<Event>,
}

impl Doors {
    pub(crate) fn new(inbox: mpsc::Sender<Event>) -> Self {
        Self {
            listeners: BTreeMap::new(),
            admitted: watch::Sender::new(Admitted::default()),
            slots: Arc::default(),
            inbox,
        }
    }

    pub(crate) fn status(&self) -> Vec<ListenerStatus> {
        self.listeners.values().map(Listener::status).collect()
    }

    /// Keys first: whoever is admitted is so with his key in force.
    pub(crate) fn apply(&mut self, config: &Config, peers: &BTreeMap<Arc<str>, Peer>) {
        let (admitted, keys) = rules(config, peers);
        let wanted: BTreeSet<_> = config.listen.iter().copied().collect();
        self.listeners.retain(|address, _| wanted.contains(address));
        for listener in self.listeners.values() {
            for error in listener.set_keys(keys.clone()).err().into_iter().flatten() {
                tracing::error!(%error, "a peer cannot connect: its password is not in force");
            }
        }
        self.admitted.send_replace(Arc::new(admitted));
        for address in wanted {
            self.listeners.entry(address).or_insert_with(|| {
                let config = ListenConfig {
                    address,
                    slots: Arc::clone(&self.slots),
                };
                let admitted = self.admitted.subscribe();
                Listener::start_with(config, keys.clone(), admitted, self.inbox.clone())
            });
        }
    }
}

fn rules(config: &Config, peers: &BTreeMap<Arc<str>, Peer>) -> (AdmittedSet, Keys) {
    let (mut admitted, mut keys) = (AdmittedSet::default(), Keys::new());
    let mut rule = |net: IpNet, link: Option<u32>, socket: &crate::socket::SocketOptions| {
        let admission = Admission { ttl: socket.ttl };
        match link {
            Some(link) => admitted.admit_on(link, net, admission),
            None => admitted.admit(net, admission),
        }
        keys.extend(socket.password.clone().map(|password| (net, password)));
    };
    // Ranges first: the last word on a prefix holds, and a named peer's is the better one.
    for peer in config.peers.values() {
        if let Target::Range { range, .. } = &peer.target {
            rule(range.trunc(), None, &peer.socket);
        }
    }
    for peer in peers.values() {
        let Some(address) = peer.address else {
            continue;
        };
        let link = match address {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
                Some(v6.scope_id()).filter(|scope| *scope != 0)
            }
            _ => None,
        };
        if !matches!(peer.target, Target::Range { .. }) {
            rule(address.ip().into(), link, &peer.socket);
        }
    }
    (admitted, keys)
}
