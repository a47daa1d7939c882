//! The handle by which others speak to the BFD thread.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;

use super::events::Events;
use super::peer::{BfdEvent, BfdPeer, BfdServiceStatus, BfdSettings};
use super::priority;
use super::sessions::Sessions;
use super::worker::{Command, Worker};

/// Commands that may wait.
const COMMANDS: usize = 64;
/// Events that may wait unread before they are drawn together.
const EVENTS: usize = 256;
/// How long an answer may take; the thread answers within a batch of packets.
const ANSWER: Duration = Duration::from_secs(2);

/// The BFD thread is gone or doesn't answer.
#[derive(Debug, thiserror::Error)]
#[error("the BFD thread doesn't answer")]
pub struct BfdStopped;

/// Speaks to the BFD thread, which ends with its handle: without AdminDown, as a crash does.
#[derive(Debug)]
pub struct BfdHandle {
    commands: Option<SyncSender<Command>>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread, in the network namespace of the caller, without peers. Ports are opened as peers need them; one
/// that can't be is an error in the log and in [`BfdServiceStatus::listen_errors`], and tried again each second.
///
/// # Errors
/// When the thread or its wake-up can't be made.
pub fn spawn(settings: BfdSettings) -> io::Result<(BfdHandle, mpsc::Receiver<BfdEvent>)> {
    let (commands, receiver) = sync_channel(COMMANDS);
    let (events, told) = mpsc::channel(EVENTS);
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
    let sessions = Sessions::new(settings.clone(), Events::new(events));
    let worker = Worker::new(settings, sessions, receiver, Arc::clone(&wake));
    let thread = std::thread::Builder::new()
        .name("bfd".to_owned())
        .spawn(move || {
            priority::raise();
            worker.run();
        })?;
    let handle = BfdHandle {
        commands: Some(commands),
        wake,
        thread: Some(thread),
    };
    Ok((handle, told))
}

impl BfdHandle {
    /// Makes `peers` the whole set. Sessions it doesn't concern are untouched, changed timers are told by a Poll
    /// Sequence, and a peer that is missing is told AdminDown.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn configure(&self, peers: BTreeMap<String, BfdPeer>) -> Result<(), BfdStopped> {
        self.send(Command::Configure(peers))
    }

    /// The sessions as they are now.
    ///
    /// # Errors
    /// When the thread doesn't answer.
    pub fn status(&self) -> Result<BfdServiceStatus, BfdStopped> {
        let (answer, answered) = sync_channel(1);
        self.send(Command::Status(answer))?;
        wait(&answered)
    }

    /// Tells every peer AdminDown: a planned stop. The packets are with the kernel when it returns; no session
    /// starts after it.
    ///
    /// # Errors
    /// When the thread doesn't answer.
    pub fn admin_down_all(&self) -> Result<(), BfdStopped> {
        let (answer, answered) = sync_channel(1);
        self.send(Command::AdminDownAll(answer))?;
        wait(&answered)
    }

    fn send(&self, command: Command) -> Result<(), BfdStopped> {
        let commands = self.commands.as_ref().ok_or(BfdStopped)?;
        commands.send(command).map_err(|_| BfdStopped)?;
        self.wake.write(1).map_err(|_| BfdStopped)?;
        Ok(())
    }
}

fn wait<T>(answered: &Receiver<T>) -> Result<T, BfdStopped> {
    answered.recv_timeout(ANSWER).map_err(|_| BfdStopped)
}

impl Drop for BfdHandle {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
