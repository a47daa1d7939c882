//! The agent's side of a BFD process: requests over its unix socket, events from a thread that reads it.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use super::events::Events;
use super::frames::{Frames, Request, Said, frame};
use super::handle::BfdStopped;
use super::peer::{BfdEvent, BfdPeer, BfdServiceStatus};

/// How long a request and its answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long until events that had no room are tried again.
const EVENT_RETRY: Duration = Duration::from_millis(10);
const EVENTS: usize = 256;

/// A connection to a BFD process, whose sessions go on when this is dropped.
#[derive(Debug)]
pub(super) struct Client {
    link: Mutex<Link>,
    stream: UnixStream,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Link {
    stream: UnixStream,
    answers: Receiver<Said>,
}

impl Client {
    pub(super) fn connect(socket: &Path) -> io::Result<(Self, mpsc::Receiver<BfdEvent>)> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(ANSWER))?;
        let (answer, answers) = sync_channel(1);
        let (sender, events) = mpsc::channel(EVENTS);
        let from = stream.try_clone()?;
        let reader = std::thread::Builder::new()
            .name("bfd-client".to_owned())
            .spawn(move || {
                // Whatever ended it, the agent sees the events end.
                let _ = read(&from, &answer, Events::new(sender));
                let _ = from.shutdown(Shutdown::Both);
            })?;
        let client = Self {
            link: Mutex::new(Link {
                stream: stream.try_clone()?,
                answers,
            }),
            stream,
            reader: Some(reader),
        };
        Ok((client, events))
    }

    pub(super) fn configure(&self, peers: BTreeMap<String, BfdPeer>) -> Result<(), BfdStopped> {
        self.done(&Request::Configure { peers })
    }

    pub(super) fn admin_down_all(&self) -> Result<(), BfdStopped> {
        self.done(&Request::AdminDownAll)
    }

    pub(super) fn status(&self) -> Result<BfdServiceStatus, BfdStopped> {
        match self.ask(&Request::Status)? {
            Said::Status(status) => Ok(status),
            Said::Done | Said::Event(_) => Err(BfdStopped),
        }
    }

    fn done(&self, request: &Request) -> Result<(), BfdStopped> {
        match self.ask(request)? {
            Said::Done => Ok(()),
            Said::Status(_) | Said::Event(_) => Err(BfdStopped),
        }
    }

    fn ask(&self, request: &Request) -> Result<Said, BfdStopped> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let octets = frame(request).map_err(|_| BfdStopped)?;
        let answer = match link.stream.write_all(&octets) {
            Ok(()) => link.answers.recv_timeout(ANSWER).ok(),
            Err(_) => None,
        };
        answer.ok_or_else(|| {
            // An answer that comes later would be taken for the next request's.
            let _ = link.stream.shutdown(Shutdown::Both);
            BfdStopped
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            // A panic there has been reported by the panic hook.
            let _ = reader.join();
        }
    }
}

/// Hands on what comes until the connection ends.
fn read(mut stream: &UnixStream, answer: &SyncSender<Said>, mut events: Events) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut chunk = [0; 4096];
    loop {
        let waiting = events.flush();
        stream.set_read_timeout(waiting.then_some(EVENT_RETRY))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => frames
                .buffer()
                .extend(chunk.get(..length).unwrap_or_default()),
            Err(error) if is_pause(&error) => continue,
            Err(error) => return Err(error),
        }
        while let Some(said) = frames.next()? {
            match said {
                Said::Event(event) => events.push(event),
                Said::Done | Said::Status(_) => answer.try_send(said).map_err(io::Error::other)?,
            }
        }
    }
}

fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}
