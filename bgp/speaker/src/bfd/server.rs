//! BFD as a process of its own: its sessions outlive the agent, so they set C, and the agent adopts them by a socket.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use bgp_proto::bfd::SessionState;
use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::frames::{Frames, Request, Said, frame};
use super::handle::BfdStopped;
use super::peer::{BfdEvent, BfdSettings};
use super::thread::{self, BfdThread};

/// How long an agent may leave its end unread before it is let go.
const WRITE: Duration = Duration::from_secs(2);
/// How long after a connection couldn't be accepted the next is tried.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves BFD at a unix socket (mode 0600, for root) until `stop`, then tells every peer AdminDown. One agent is served
/// at a time, the one that came last: while an agent is being replaced, the new one is whom it concerns. The sessions
/// go on while none is there, with the C bit set (RFC 5882 §4.3).
///
/// # Errors
/// When the socket or the thread can't be made, another process serves the socket, or the thread ended.
pub async fn run_server(
    socket: &Path,
    settings: BfdSettings,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let settings = BfdSettings {
        control_plane_independent: true,
        ..settings
    };
    let _lock = lock(socket)?;
    let listener = bind(socket)?;
    let (thread, events) = thread::start(settings)?;
    let mut server = Server {
        thread,
        events,
        agent: None,
    };
    let result = tokio::select! {
        () = stop => Ok(()),
        result = server.serve(&listener) => result,
    };
    let told = server.thread.admin_down_all().map_err(io::Error::other);
    let _ = std::fs::remove_file(socket);
    result.and(told)
}

/// Takes the lock beside the socket, which says that nobody else serves it: asking the socket itself would make the
/// asker its agent.
fn lock(socket: &Path) -> io::Result<Flock<File>> {
    let file = File::create(socket.with_extension("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        let text = format!("another process serves {}", socket.display());
        io::Error::new(io::ErrorKind::AddrInUse, text)
    })
}

fn bind(socket: &Path) -> io::Result<UnixListener> {
    // One that an earlier run left behind.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

struct Server {
    thread: BfdThread,
    events: mpsc::Receiver<BfdEvent>,
    agent: Option<Agent>,
}

struct Agent {
    stream: UnixStream,
    frames: Frames,
}

impl Server {
    async fn serve(&mut self, listener: &UnixListener) -> io::Result<()> {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.adopt(stream).await?,
                    Err(error) => {
                        tracing::warn!("can't accept an agent: {error}");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                event = self.events.recv() => {
                    let event = event.ok_or_else(|| io::Error::other(BfdStopped))?;
                    self.say(&Said::Event(event)).await;
                }
                request = next_request(self.agent.as_mut()) => match request {
                    Ok(request) => self.answer(request).await?,
                    Err(error) => {
                        tracing::info!("the agent is gone: {error}");
                        self.agent = None;
                    }
                },
            }
        }
    }

    /// Takes a new agent in place of the former and tells it which sessions are Up.
    async fn adopt(&mut self, stream: UnixStream) -> io::Result<()> {
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) {
            tracing::warn!("a connection from a user other than root was closed");
            return Ok(());
        }
        self.agent = Some(Agent {
            stream,
            frames: Frames::default(),
        });
        self.thread.resume().map_err(io::Error::other)?;
        // The status has all that these told, and more.
        while self.events.try_recv().is_ok() {}
        let status = self.thread.status().map_err(io::Error::other)?;
        for (peer, status) in status.peers {
            if status.session.state == SessionState::Up {
                self.say(&Said::Event(BfdEvent::Up { peer })).await;
            }
        }
        Ok(())
    }

    async fn answer(&mut self, request: Request) -> io::Result<()> {
        let answer = match request {
            Request::Configure { peers } => self.thread.configure(peers).map(|()| Said::Done),
            Request::AdminDownAll => self.thread.admin_down_all().map(|()| Said::Done),
            Request::Status => self.thread.status().map(Said::Status),
        };
        self.say(&answer.map_err(io::Error::other)?).await;
        Ok(())
    }

    /// Says something to the agent, if there is one; one that doesn't listen is let go.
    async fn say(&mut self, said: &Said) {
        let Some(agent) = &mut self.agent else {
            return;
        };
        let written = match frame(said) {
            Ok(octets) => timeout(WRITE, agent.stream.write_all(&octets)).await,
            Err(error) => Ok(Err(error)),
        };
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!("the agent doesn't listen: {written:?}");
            self.agent = None;
        }
    }
}

/// The agent's next request; never when there is no agent. May be dropped and called again.
async fn next_request(agent: Option<&mut Agent>) -> io::Result<Request> {
    let Some(agent) = agent else {
        return std::future::pending().await;
    };
    loop {
        if let Some(request) = agent.frames.next()? {
            return Ok(request);
        }
        if agent.stream.read_buf(agent.frames.buffer()).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
