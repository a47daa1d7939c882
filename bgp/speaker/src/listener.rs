//! A listening socket: opened until it is open, and closed to everyone who is no configured peer.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::connection::Event;
use crate::handle::ListenerStatus;

/// The addresses connections are taken from.
pub(crate) type Admitted = Arc<BTreeSet<IpAddr>>;

/// A listening socket's task; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    refused: AtomicU64,
    error: Mutex<Option<String>>,
}

const BACKLOG: i32 = 128;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// The wait after a failed accept, such as one for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Listener {
    pub(crate) fn start(
        address: SocketAddr,
        admitted: watch::Receiver<Admitted>,
        inbox: mpsc::Sender<Event>,
    ) -> Self {
        let state = Arc::new(State::default());
        let task = tokio::spawn(listen(address, admitted, inbox, Arc::clone(&state)));
        Self {
            address,
            state,
            task,
        }
    }

    pub(crate) fn status(&self) -> ListenerStatus {
        ListenerStatus {
            address: self.address,
            error: self
                .state
                .error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
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
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

async fn listen(
    address: SocketAddr,
    admitted: watch::Receiver<Admitted>,
    inbox: mpsc::Sender<Event>,
    state: Arc<State>,
) {
    let socket = open_until_open(address, &state).await;
    loop {
        let (stream, remote) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%address, %error, "cannot accept a connection");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        if !admitted.borrow().contains(&remote.ip()) {
            state.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%address, %remote, "connection from no configured peer closed");
            continue;
        }
        if inbox
            .send(Event::Accepted { stream, remote })
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn open_until_open(address: SocketAddr, state: &State) -> TcpListener {
    let mut wait = FIRST_RETRY;
    loop {
        match open(address) {
            Ok(socket) => {
                state.set_error(None);
                return socket;
            }
            Err(error) => {
                tracing::warn!(%address, %error, "cannot listen, trying again");
                state.set_error(Some(format!("cannot listen on {address}: {error}")));
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // IPv4 peers have a socket of their own; mapped addresses would match no configured one.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
