//! The BFD thread's loop: packets first, then timers, then commands.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use bgp_proto::bfd::Packet;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;

use super::peer::{BfdPeer, BfdServiceStatus, BfdSettings};
use super::sessions::Sessions;
use super::socket::{Listener, Listening};

/// How long until a port that couldn't be opened is tried again.
const LISTEN_RETRY: Duration = Duration::from_secs(1);
/// How long until events that had no room are tried again.
const EVENT_RETRY: Duration = Duration::from_millis(10);
/// How long a full batch is followed by rest: far below any detection time.
const FLOOD_PAUSE: Duration = Duration::from_millis(1);
/// How many packets of one port are taken before the timers are looked at.
const BATCH: usize = 64;

/// What a handle asks.
#[derive(Debug)]
pub(super) enum Command {
    Configure(BTreeMap<String, BfdPeer>),
    Status(SyncSender<BfdServiceStatus>),
    AdminDownAll(SyncSender<()>),
    Resume,
}

/// All the thread owns.
#[derive(Debug)]
pub(super) struct Worker {
    settings: BfdSettings,
    sessions: Sessions,
    listeners: BTreeMap<Listening, Result<Listener, String>>,
    retry_at: Option<Instant>,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    discarded: u64,
}

impl Worker {
    pub(super) fn new(
        settings: BfdSettings,
        sessions: Sessions,
        commands: Receiver<Command>,
        wake: Arc<EventFd>,
    ) -> Self {
        Self {
            settings,
            sessions,
            listeners: BTreeMap::new(),
            retry_at: None,
            commands,
            wake,
            discarded: 0,
        }
    }

    /// Until every handle is gone.
    pub(super) fn run(mut self) {
        let mut timeout = None;
        loop {
            self.wait(timeout);
            if self.receive() {
                // Real-time scheduling would give a flood the whole processor.
                std::thread::sleep(FLOOD_PAUSE);
            }
            self.sessions.handle_timeouts(Instant::now());
            if !self.obey() {
                return;
            }
            self.listen();
            let waiting = self.sessions.flush_events();
            let next = [
                self.sessions.next_timeout(),
                self.retry_at,
                waiting.then(|| Instant::now() + EVENT_RETRY),
            ];
            timeout = next.into_iter().flatten().min();
        }
    }

    fn wait(&self, until: Option<Instant>) {
        let listeners = self.listeners.values().flatten().map(Listener::fd);
        let mut fds: Vec<_> = listeners
            .chain([self.wake.as_fd()])
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = until.map(|at| TimeSpec::from(at.saturating_duration_since(Instant::now())));
        // What it answers isn't needed: all sockets are read without blocking, and a signal is no harm.
        let _ = ppoll(&mut fds, timeout, None);
    }

    /// Takes the packets that wait; whether a port may have more.
    fn receive(&mut self) -> bool {
        let mut more = false;
        let mut buffer = [0; 128];
        let listeners = self.listeners.iter();
        for (listening, listener) in listeners.filter_map(|(key, l)| Some((key, l.as_ref().ok()?)))
        {
            for turn in 0..BATCH {
                let datagram = match listener.receive(&mut buffer) {
                    Ok(Some(datagram)) => datagram,
                    Ok(None) => break,
                    Err(_) => {
                        self.discarded += 1;
                        continue;
                    }
                };
                more |= turn + 1 == BATCH;
                let octets = buffer.get(..datagram.length).unwrap_or_default();
                let taken = Packet::decode(octets).is_ok_and(|packet| {
                    let now = Instant::now();
                    self.sessions.receive(now, *listening, &datagram, &packet)
                });
                self.discarded += u64::from(!taken);
            }
        }
        more
    }

    /// Does what was asked; false when nobody is left to ask.
    fn obey(&mut self) -> bool {
        let _ = self.wake.read();
        loop {
            match self.commands.try_recv() {
                Ok(Command::Configure(peers)) => {
                    self.sessions.configure(Instant::now(), peers);
                }
                // An asker that no longer waits needs no answer.
                Ok(Command::Status(answer)) => {
                    let _ = answer.try_send(self.status());
                }
                Ok(Command::AdminDownAll(answer)) => {
                    self.sessions.admin_down_all(Instant::now());
                    let _ = answer.try_send(());
                }
                Ok(Command::Resume) => self.sessions.resume(),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn status(&self) -> BfdServiceStatus {
        let errors = self.listeners.values().filter_map(|l| l.as_ref().err());
        BfdServiceStatus {
            peers: self.sessions.status(),
            listen_errors: errors.cloned().collect(),
            discarded: self.discarded,
        }
    }

    /// Opens the ports that are needed and not open, and closes the others.
    fn listen(&mut self) {
        let now = Instant::now();
        let retry = self.retry_at.is_some_and(|at| at <= now);
        if !self.sessions.take_changed() && !retry {
            return;
        }
        let needed = self.sessions.listeners();
        self.listeners
            .retain(|listening, _| needed.contains(listening));
        for listening in needed {
            if matches!(self.listeners.get(&listening), Some(Ok(_))) {
                continue;
            }
            let result = self.bind(listening);
            let before = self.listeners.insert(listening, result);
            if let Some(Err(error)) = self.listeners.get(&listening)
                && !matches!(&before, Some(Err(former)) if former == error)
            {
                tracing::error!("{error}; trying again each second");
            }
        }
        let failed = self.listeners.values().any(Result::is_err);
        self.retry_at = failed.then(|| now + LISTEN_RETRY);
    }

    fn bind(&self, listening: Listening) -> Result<Listener, String> {
        let port = match listening.multihop {
            true => self.settings.multihop_port,
            false => self.settings.single_hop_port,
        };
        let family = if listening.ipv6 { "IPv6" } else { "IPv4" };
        Listener::bind(listening, port)
            .map_err(|error| format!("can't open UDP port {port} ({family}) for BFD: {error}"))
    }
}
