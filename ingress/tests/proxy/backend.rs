//! Real servers behind the proxy: HTTP/1.1 over plain sockets, one thread a connection, so that each octet is known.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{SockFilter, SockRef};

/// A request as a backend read it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) line: String,
    /// Names in lower case; values of one name joined by "; ".
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// A server that says who it is, and remembers what it was asked.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    name: String,
    requests: AtomicU64,
    connections: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Backend {
    pub(crate) fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            name: name.to_owned(),
            ..State::default()
        });
        let shared = state.clone();
        let accepting = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            for stream in accepting.incoming() {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let state = shared.clone();
                state.connections.fetch_add(1, Ordering::Relaxed);
                let stream = stream.unwrap();
                let [known, end] = [(); 2].map(|()| stream.try_clone().unwrap());
                state.streams.lock().unwrap().push(known);
                std::thread::spawn(move || {
                    serve(stream, &state);
                    let _ = end.shutdown(Shutdown::Both);
                });
            }
        });
        Self {
            address,
            listener,
            state,
        }
    }

    /// From now on it is as if its machine had lost its power: the kernel drops all that comes for it, and acknowledges nothing.
    pub(crate) fn fall_silent(&self) {
        const RET: u16 = 0x06;
        let nothing = [SockFilter::new(RET, 0, 0, 0)];
        SockRef::from(&self.listener)
            .attach_filter(&nothing)
            .unwrap();
        for stream in self.state.streams.lock().unwrap().iter() {
            // Some have ended.
            let _ = SockRef::from(stream).attach_filter(&nothing);
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// The last request.
    pub(crate) fn last(&self) -> Seen {
        self.state
            .seen
            .lock()
            .unwrap()
            .last()
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }
}

/// `/slow/MS` answers after so long, `/drip/MS` sends its body in two halves so far apart, `/close` closes after it,
/// `/hang-up` says nothing at all, anything else answers at once.
fn serve(stream: TcpStream, state: &State) {
    stream.set_nodelay(true).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(seen) = read_request(&mut reader) {
        state.requests.fetch_add(1, Ordering::Relaxed);
        let path = seen.line.split(' ').nth(1).unwrap_or_default().to_owned();
        state.seen.lock().unwrap().push(seen);
        let wait = path
            .rsplit('/')
            .next()
            .and_then(|word| word.parse().ok())
            .map(Duration::from_millis);
        if path.starts_with("/hang-up") {
            return;
        }
        if path.starts_with("/slow/") {
            std::thread::sleep(wait.unwrap());
        }
        let name = &state.name;
        let body = format!("{name} {path}\n");
        let half = body.len() / 2;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Backend: {name}\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=9\r\n\r\n",
            body.len()
        );
        let mut answer = head.into_bytes();
        answer.extend_from_slice(&body.as_bytes()[..half]);
        if path.starts_with("/drip/") {
            if writer.write_all(&answer).is_err() {
                return;
            }
            answer.clear();
            std::thread::sleep(wait.unwrap());
        }
        answer.extend_from_slice(&body.as_bytes()[half..]);
        if writer.write_all(&answer).is_err() || path == "/close" {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut seen = Seen::default();
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    seen.line = line.trim_end().to_owned();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let values = seen.headers.entry(name.to_lowercase()).or_default();
        if !values.is_empty() {
            values.push_str("; ");
        }
        values.push_str(value.trim());
    }
    if seen
        .headers
        .get("transfer-encoding")
        .is_some_and(|value| value == "chunked")
    {
        seen.body = read_chunks(reader)?;
    } else if let Some(length) = seen.headers.get("content-length") {
        seen.body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut seen.body).ok()?;
    }
    Some(seen)
}

fn read_chunks(reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}
