//! One request to the agent and its answer, within one deadline.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cni_spec::socket::{Request, Response, decode_frame, encode_frame};
use cni_spec::{CniError, ErrorCode};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The agent gave no answer: it is away, died over the request, hangs, or is no agent.
#[derive(Debug)]
pub(crate) struct Away {
    socket: String,
    why: String,
}

impl Away {
    /// The error for a verb that cannot do without the agent.
    pub(crate) fn into_error(self, code: ErrorCode, msg: &str) -> CniError {
        CniError::new(code, msg).details(format!(
            "{self}; see that the portolan agent runs on this node and that `socket` in its CNI configuration is the agent's"
        ))
    }
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no answer from the agent on {}: {}",
            self.socket, self.why
        )
    }
}

/// A connection good for one request.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    socket: String,
    patience: Duration,
    deadline: Instant,
}

impl Connection {
    /// Connects; with no agent this fails at once, with one that does not accept after `patience`.
    pub(crate) fn open(path: &str, patience: Duration) -> Result<Self, Away> {
        let deadline = Instant::now() + patience;
        let away = |why: String| Away {
            socket: path.to_owned(),
            why,
        };
        let stream = connect_within(path, patience).map_err(|error| away(error.to_string()))?;
        Ok(Self {
            stream,
            socket: path.to_owned(),
            patience,
            deadline,
        })
    }

    /// Begins the deadline anew: what was done since the connect was not the agent's to do.
    pub(crate) fn renew(&mut self) {
        self.deadline = Instant::now() + self.patience;
    }

    /// Sends the request, the descriptors with its first byte, and waits for the answer.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        descriptors: &[RawFd],
    ) -> Result<Response, Away> {
        let frame = encode_frame(request).map_err(|error| self.away(error.to_string()))?;
        self.send(&frame, descriptors)
            .map_err(|error| self.failed(&error))?;
        let mut received = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            if let Some((response, _)) =
                decode_frame(&received).map_err(|error| self.away(error.to_string()))?
            {
                return Ok(response);
            }
            let count = self
                .remaining()
                .and_then(|left| self.stream.set_read_timeout(Some(left)))
                .and_then(|()| self.stream.read(&mut buffer));
            match count {
                Ok(0) => return Err(self.away("it closed the connection".to_owned())),
                Ok(count) => received.extend(buffer.iter().take(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    fn send(&mut self, frame: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() {
            &[][..]
        } else {
            &rights[..]
        };
        let data = [IoSlice::new(frame)];
        self.stream.set_write_timeout(Some(self.remaining()?))?;
        let sent = loop {
            let fd = self.stream.as_raw_fd();
            match sendmsg::<()>(fd, &data, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(nix::errno::Errno::EINTR) => {}
                sent => break sent?,
            }
        };
        self.stream.write_all(frame.get(sent..).unwrap_or_default())
    }

    fn remaining(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(left)
        }
    }

    fn failed(&self, error: &io::Error) -> Away {
        self.away(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("it took longer than {} s", self.patience.as_secs_f32())
            }
            _ => error.to_string(),
        })
    }

    fn away(&self, why: String) -> Away {
        Away {
            socket: self.socket.clone(),
            why,
        }
    }
}

/// Connects with the send timeout set first: that is what bounds a connect to a full backlog.
fn connect_within(path: &str, patience: Duration) -> nix::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let patience = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(patience))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use cni_spec::{Command, NetworkConfig};

    use super::*;

    fn request() -> Request {
        Request {
            command: Command::Del,
            container_id: "c1".to_owned(),
            netns: None,
            interface: "eth0".to_owned(),
            args: [].into(),
            config: NetworkConfig::parse(br#"{"cniVersion":"1.1.0","name":"n"}"#).unwrap(),
            delegated: None,
        }
    }

    #[test]
    fn an_agent_that_hangs_is_away_after_the_deadline_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cni.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let patience = Duration::from_millis(300);
        let started = Instant::now();
        let mut connection = Connection::open(path.to_str().unwrap(), patience).unwrap();
        let away = connection.ask(&request(), &[]).unwrap_err();
        assert!(away.to_string().contains("longer than 0.3 s"), "{away}");
        assert!((300..5000).contains(&started.elapsed().as_millis()));
    }

    #[test]
    fn an_agent_that_trickles_bytes_does_not_stretch_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cni.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let trickle = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for byte in [0, 0, 0, 200]
                .into_iter()
                .chain(std::iter::repeat_n(b' ', 100))
            {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        let started = Instant::now();
        let patience = Duration::from_millis(400);
        let mut connection = Connection::open(path.to_str().unwrap(), patience).unwrap();
        connection.ask(&request(), &[]).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(3));
        drop(connection);
        trickle.join().unwrap();
    }

    #[test]
    fn a_full_backlog_does_not_hold_the_connect_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cni.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let path = path.to_str().unwrap();
        let patience = Duration::from_millis(5);
        let mut connections = Vec::new();
        let away = (0..10_000).find_map(|_| match Connection::open(path, patience) {
            Ok(connection) => {
                connections.push(connection);
                None
            }
            Err(away) => Some(away),
        });
        // Unlimited descriptors or a huge backlog would be no failure of ours, but neither is usual.
        assert!(
            away.is_some(),
            "{} connections were taken",
            connections.len()
        );
    }
}
