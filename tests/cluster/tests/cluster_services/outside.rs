//! Clients outside that ask a web server again and again, by new connections and on one that they keep, and count what fails.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result as Outcome;
use tests::netns::Netns;
use tests::wait::pause;

/// Much longer than an answer takes, also where the machine is busy.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Each request by a connection of its own.
    New,
    /// All on one, until it ends. What was asked on one that has ended before a word of an answer is asked once more on another,
    /// as clients do (RFC 9110 §9.2.2).
    Kept,
}

/// What came of one client's requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) asked: usize,
    /// Why, and when after the start.
    pub(crate) failed: Vec<String>,
    pub(crate) connections: usize,
    /// Asked once more.
    pub(crate) again: usize,
    /// The most that failed one after another.
    pub(crate) run: usize,
}

/// Each client asks as long as `during` runs.
pub(crate) fn counted_while(
    from: &Netns,
    clients: &[(Way, SocketAddr)],
    host: &str,
    during: impl FnOnce(),
) -> Vec<Counted> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let each = clients.iter();
        let all: Vec<_> = each
            .map(|&(way, to)| {
                let is_over = &is_over;
                scope.spawn(move || from.inside(|| ask(way, to, host, is_over)))
            })
            .collect();
        // Told on a panic, too: they would never end.
        let _over = Over(&is_over);
        during();
        is_over.store(true, Ordering::Relaxed);
        let joined = all.into_iter().map(|one| one.join().unwrap());
        joined.collect::<Outcome<_>>().unwrap()
    })
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ask(way: Way, to: SocketAddr, host: &str, is_over: &AtomicBool) -> Counted {
    let (mut counted, began) = (Counted::default(), Instant::now());
    let (mut kept, mut run) = (None, 0);
    while !is_over.load(Ordering::Relaxed) {
        counted.asked += 1;
        let (asked, had_one) = (Instant::now(), kept.is_some());
        let first = kept
            .take()
            .map(|stream| request(stream, host, way))
            .filter(|outcome| !matches!(outcome, Err(failed) if failed.is_unheard));
        counted.again += usize::from(had_one && first.is_none());
        let outcome = first.unwrap_or_else(|| {
            counted.connections += 1;
            request(BufReader::new(connect(to)?), host, way)
        });
        match outcome {
            Ok(stream) => (kept, run) = (stream, 0),
            Err(error) => {
                let (at, took) = (asked - began, asked.elapsed());
                counted
                    .failed
                    .push(format!("{at:.1?}: {} after {took:.1?}", error.why));
                run += 1;
                counted.run = counted.run.max(run);
            }
        }
        if pause(PAUSE).is_err() {
            break;
        }
    }
    counted
}

/// Why there is no answer.
struct Failed {
    /// Whether the connection ended before a word of it.
    is_unheard: bool,
    why: String,
}

fn wrong(error: impl std::fmt::Display) -> Failed {
    Failed {
        is_unheard: false,
        why: error.to_string(),
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream, Failed> {
    TcpStream::connect_timeout(&to, ANSWER).map_err(|error| wrong(format!("connecting: {error}")))
}

/// One request, and its whole answer; the connection, if it lives on.
fn request(
    mut stream: BufReader<TcpStream>,
    host: &str,
    way: Way,
) -> Result<Option<BufReader<TcpStream>>, Failed> {
    let close = match way {
        Way::New => "Connection: close\r\n",
        Way::Kept => "",
    };
    let text = format!("GET /hostname HTTP/1.1\r\nHost: {host}\r\n{close}\r\n");
    let mut status = String::new();
    ask_for(&mut stream, &text, &mut status).map_err(|error| Failed {
        is_unheard: true,
        ..wrong(error)
    })?;
    if !status.contains(" 200") {
        return Err(wrong(status));
    }
    let (mut length, mut lives) = (None, way == Way::Kept);
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).map_err(wrong)?;
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", number)) => length = number.parse().ok(),
            Some(("connection", "close")) => lives = false,
            Some(_) => {}
            None if read > 0 => break,
            None => return Err(wrong("half an answer")),
        }
    }
    let mut body = vec![0; length.ok_or_else(|| wrong("no length"))?];
    stream.read_exact(&mut body).map_err(wrong)?;
    Ok(lives.then_some(stream))
}

/// Asks, and reads the first line of the answer.
fn ask_for(
    stream: &mut BufReader<TcpStream>,
    text: &str,
    status: &mut String,
) -> std::io::Result<()> {
    stream.get_ref().set_read_timeout(Some(ANSWER))?;
    stream.get_mut().write_all(text.as_bytes())?;
    match stream.read_line(status)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
