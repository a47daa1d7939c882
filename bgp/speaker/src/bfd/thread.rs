//! The BFD thread from outside: starting it, asking it, ending it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;

use super::events::Events;
use super::handle::BfdStopped;
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

/// The thread of this process; it ends when this is dropped, without AdminDown, as in a crash.
#[derive(Debug)]
pub(super) struct BfdThread {
    commands: Option<SyncSender<Command>>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

pub(super) fn start(settings: BfdSettings) -> io::Result<(BfdThread, mpsc::Receiver<BfdEvent>)> {
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
    let handle = BfdThread {
        commands: Some(commands),
        wake,
        thread: Some(thread),
    };
    Ok((handle, told))
}

impl BfdThread {
    pub(super) fn configure(&self, peers: BTreeMap<String, BfdPeer>) -> Result<(), BfdStopped> {
        self.send(Command::Configure(peers))
    }

    pub(super) fn status(&self) -> Result<BfdServiceStatus, BfdStopped> {
        let (answer, answered) = sync_channel(1);
        self.send(Command::Status(answer))?;
        wait(&answered)
    }

    pub(super) fn admin_down_all(&self) -> Result<(), BfdStopped> {
        let (answer, answered) = sync_channel(1);
        self.send(Command::AdminDownAll(answer))?;
        wait(&answered)
    }

    /// Lets the next [`Self::configure`] start sessions again after [`Self::admin_down_all`].
    pub(super) fn resume(&self) -> Result<(), BfdStopped> {
        self.send(Command::Resume)
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

impl Drop for BfdThread {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
