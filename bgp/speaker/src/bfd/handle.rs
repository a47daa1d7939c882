//! The handle by which others speak to BFD, be it a thread of this process or a process of its own.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use tokio::sync::mpsc;

use super::client::Client;
use super::peer::{BfdEvent, BfdPeer, BfdServiceStatus, BfdSettings};
use super::thread::{self, BfdThread};

/// The BFD thread or process is gone or doesn't answer.
#[derive(Debug, thiserror::Error)]
#[error("BFD doesn't answer")]
pub struct BfdStopped;

/// Speaks to the BFD of [`spawn`], which ends with its handle (without AdminDown, as in a crash), or to that of
/// [`connect`], whose sessions go on without it.
#[derive(Debug)]
pub struct BfdHandle(Backend);

#[derive(Debug)]
enum Backend {
    Thread(BfdThread),
    Server(Client),
}

/// Starts BFD as a thread in the network namespace of the caller, without peers. Ports are opened as peers need them;
/// one that can't be is an error in the log and in [`BfdServiceStatus::listen_errors`], and tried again each second.
///
/// # Errors
/// When the thread or its wake-up can't be made.
pub fn spawn(settings: BfdSettings) -> io::Result<(BfdHandle, mpsc::Receiver<BfdEvent>)> {
    let (thread, events) = thread::start(settings)?;
    Ok((BfdHandle(Backend::Thread(thread)), events))
}

/// Adopts the sessions of [`run_server`](super::server::run_server) at this socket. The first events name those that are
/// Up at present, by the names of the set last configured; one may be told twice. The events end when the server does.
///
/// # Errors
/// When nobody answers there.
pub fn connect(socket: &Path) -> io::Result<(BfdHandle, mpsc::Receiver<BfdEvent>)> {
    let (client, events) = Client::connect(socket)?;
    Ok((BfdHandle(Backend::Server(client)), events))
}

impl BfdHandle {
    /// Makes `peers` the whole set. Sessions it doesn't concern are untouched, changed timers are told by a Poll
    /// Sequence, and a peer that is missing is told AdminDown.
    ///
    /// # Errors
    /// When BFD is gone.
    pub fn configure(&self, peers: BTreeMap<String, BfdPeer>) -> Result<(), BfdStopped> {
        match &self.0 {
            Backend::Thread(thread) => thread.configure(peers),
            Backend::Server(client) => client.configure(peers),
        }
    }

    /// The sessions as they are now.
    ///
    /// # Errors
    /// When BFD doesn't answer.
    pub fn status(&self) -> Result<BfdServiceStatus, BfdStopped> {
        match &self.0 {
            Backend::Thread(thread) => thread.status(),
            Backend::Server(client) => client.status(),
        }
    }

    /// Tells every peer AdminDown: a planned stop. The packets are with the kernel when it returns. No session
    /// starts after it, in a process of its own until the next [`connect`].
    ///
    /// # Errors
    /// When BFD doesn't answer.
    pub fn admin_down_all(&self) -> Result<(), BfdStopped> {
        match &self.0 {
            Backend::Thread(thread) => thread.admin_down_all(),
            Backend::Server(client) => client.admin_down_all(),
        }
    }
}
