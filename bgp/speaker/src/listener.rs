//! A listening socket: opened until it is open, closed to everyone who is no configured peer, keyed for those who are.

mod admission;
mod open;
mod slots;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::handle::ListenerStatus;
use crate::socket::{Password, SocketOptions, apply_accepted};

pub use admission::{Admission, AdmittedSet};
use open::{Socket, open_until_open};
pub use slots::{Slot, Slots};

/// Whom connections are taken from.
pub type Admitted = Arc<AdmittedSet>;

/// TCP MD5 keys by whom they are for: an address or the whole of a dynamic range.
pub type Keys = BTreeMap<IpNet, Password>;

/// A connection from an admitted address, its options set, nothing read from it yet.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Its other end; a link-local address has its interface's index as scope.
    pub remote: SocketAddr,
    /// To be kept until the session is Established or the connection closed.
    pub slot: Slot,
}

/// Where and how a [`Listener`] listens.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// The address and port; `[::]` takes no IPv4 connection.
    pub address: SocketAddr,
    /// The bound on connections without a session, shared by all listeners.
    pub slots: Arc<Slots>,
}

/// A listening socket's task; it ends when this is dropped.
#[derive(Debug)]
pub struct Listener {
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    config: ListenConfig,
    refused: AtomicU64,
    error: Mutex<Option<String>>,
    socket: Mutex<Socket>,
}

/// The wait after a failed accept, such as one for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Listener {
    /// Listens on `address`, without keys and with a bound of its own on connections.
    pub fn start<E: From<Accepted> + Send + 'static>(
        address: SocketAddr,
        admitted: watch::Receiver<Admitted>,
        inbox: mpsc::Sender<E>,
    ) -> Self {
        let config = ListenConfig {
            address,
            slots: Arc::default(),
        };
        Self::start_with(config, Keys::new(), admitted, inbox)
    }

    /// Listens with keys that hold from the first SYN on. Connections go to `inbox` once their options are set.
    pub fn start_with<E: From<Accepted> + Send + 'static>(
        config: ListenConfig,
        keys: Keys,
        admitted: watch::Receiver<Admitted>,
        inbox: mpsc::Sender<E>,
    ) -> Self {
        let state = Arc::new(State {
            socket: Mutex::new(Socket::closed(config.address, keys)),
            config,
            refused: AtomicU64::new(0),
            error: Mutex::default(),
        });
        let task = tokio::spawn(listen(Arc::clone(&state), admitted, inbox));
        Self { state, task }
    }

    /// Makes these the keys: new and changed ones are in force when this returns, others are gone. To be called before
    /// a new peer is admitted. A connection that exists keeps the key it was made with: a session whose key changes is
    /// to be ended by the caller.
    ///
    /// # Errors
    /// One for each key that the kernel refused, naming whom it is for. Connections from there are closed as if they
    /// were of no peer, rather than taken without protection.
    pub fn set_keys(&self, keys: Keys) -> Result<(), Vec<io::Error>> {
        let errors = lock(&self.state.socket).set_keys(keys);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// What people want to know of it.
    #[must_use]
    pub fn status(&self) -> ListenerStatus {
        let keys = lock(&self.state.socket).refused_keys();
        ListenerStatus {
            address: self.state.config.address,
            error: lock(&self.state.error).clone().or(keys),
            refused: self.state.refused.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn set_error(&self, error: Option<String>) {
        *lock(&self.error) = error;
    }

    fn refuse(&self, remote: SocketAddr, why: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(address = %self.config.address, %remote, "connection closed: {why}");
    }

    /// Judges a connection by who makes it, how many it has, and how far away it is.
    fn admit(
        &self,
        admitted: &AdmittedSet,
        stream: &TcpStream,
        remote: SocketAddr,
    ) -> Option<Slot> {
        let Some(admission) = admitted.lookup(remote) else {
            self.refuse(remote, "from no configured peer");
            return None;
        };
        if lock(&self.socket).lacks_key(remote.ip()) {
            self.refuse(remote, "its key could not be set");
            return None;
        }
        let Some(slot) = self.config.slots.take(remote) else {
            self.refuse(remote, "too many connections without a session");
            return None;
        };
        let options = SocketOptions {
            ttl: admission.ttl,
            ..SocketOptions::default()
        };
        match apply_accepted(stream, &options) {
            Ok(()) => Some(slot),
            Err(error) => {
                self.refuse(remote, &error.to_string());
                None
            }
        }
    }
}

async fn listen<E: From<Accepted>>(
    state: Arc<State>,
    admitted: watch::Receiver<Admitted>,
    inbox: mpsc::Sender<E>,
) {
    let socket: Arc<TcpListener> = open_until_open(&state).await;
    loop {
        let (stream, remote) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(address = %state.config.address, %error, "cannot accept a connection");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let now = Arc::clone(&admitted.borrow());
        let Some(slot) = state.admit(&now, &stream, remote) else {
            continue;
        };
        let accepted = Accepted {
            stream,
            remote,
            slot,
        };
        if inbox.send(accepted.into()).await.is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
