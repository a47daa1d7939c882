//! The access log: one line of JSON a request, written by a thread of its own. A disk that is slow costs lines, which are counted,
//! and never a request.

use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use k8s_openapi::jiff::Timestamp;

use super::answer::Why;
use super::connection::Client;
use super::worker::Local;
use crate::table::Route;

/// Pieces that wait for the writer.
const QUEUE: usize = 64;
/// When a worker hands on what it has, at the latest.
const PIECE: usize = 64 * 1024;

/// The end of the queue that workers have.
pub type LogQueue = SyncSender<Vec<u8>>;

/// The end that writes.
#[derive(Debug)]
pub struct AccessLog(Receiver<Vec<u8>>);

impl AccessLog {
    /// Both ends.
    #[must_use]
    pub fn new() -> (LogQueue, Self) {
        let (sender, receiver) = sync_channel(QUEUE);
        (sender, Self(receiver))
    }

    /// Writes until every worker has ended. A failed write loses its lines.
    pub fn write_to(self, mut out: impl Write) {
        while let Ok(piece) = self.0.recv() {
            if let Err(error) = out.write_all(&piece).and_then(|()| out.flush()) {
                tracing::warn!(%error, "cannot write the access log");
            }
        }
    }
}

/// Lines of one worker on their way to the queue.
pub(super) struct LogBuffer {
    queue: Option<LogQueue>,
    lines: Vec<u8>,
    count: u64,
    /// The second that `prefix` is of, and how a line's time begins in it.
    second: u64,
    prefix: String,
}

impl LogBuffer {
    pub(super) const fn new(queue: Option<LogQueue>) -> Self {
        Self {
            queue,
            lines: Vec::new(),
            count: 0,
            second: 0,
            prefix: String::new(),
        }
    }

    /// Hands on what there is; gives how many lines were lost for it.
    pub(super) fn flush(&mut self) -> u64 {
        let Some(queue) = self.queue.as_ref().filter(|_| !self.lines.is_empty()) else {
            return 0;
        };
        let count = std::mem::take(&mut self.count);
        match queue.try_send(std::mem::take(&mut self.lines)) {
            Ok(()) => 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => count,
        }
    }

    /// The time of now, to the millisecond.
    fn time(&mut self) -> (&str, u32) {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if now.as_secs() != self.second || self.prefix.is_empty() {
            self.second = now.as_secs();
            let second = i64::try_from(self.second).unwrap_or_default();
            let text = Timestamp::from_second(second).map(|time| time.to_string());
            self.prefix = text.unwrap_or_default().trim_end_matches('Z').to_owned();
        }
        (&self.prefix, now.subsec_millis())
    }
}

/// What is told of a request when it is over.
pub(super) struct Entry {
    pub(super) local: Rc<Local>,
    pub(super) client: Rc<Client>,
    pub(super) began: Instant,
    pub(super) id: HeaderValue,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) host: Option<HeaderValue>,
    pub(super) agent: Option<HeaderValue>,
    pub(super) status: StatusCode,
    pub(super) why: Option<Why>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) head_after: Duration,
    pub(super) bytes: u64,
    /// All of the response was handed over.
    pub(super) is_whole: bool,
    /// The endpoint broke off.
    pub(super) is_cut: bool,
}

impl Entry {
    pub(super) fn new(
        local: &Rc<Local>,
        client: &Rc<Client>,
        id: HeaderValue,
        parts: &http::request::Parts,
    ) -> Box<Self> {
        client.watched.activity.begin_request();
        local.numbers.request_began();
        Box::new(Self {
            local: local.clone(),
            client: client.clone(),
            began: Instant::now(),
            id,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            host: None,
            agent: header(&parts.headers, &USER_AGENT),
            status: StatusCode::OK,
            why: None,
            route: None,
            endpoint: None,
            head_after: Duration::ZERO,
            bytes: 0,
            is_whole: false,
            is_cut: false,
        })
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += u64::try_from(bytes).unwrap_or_default();
    }

    fn write(&self, took: Duration, buffer: &RefCell<LogBuffer>) -> u64 {
        let mut buffer = buffer.borrow_mut();
        if buffer.queue.is_none() {
            return 0;
        }
        let mut lines = std::mem::take(&mut buffer.lines);
        if lines.capacity() == 0 {
            lines.reserve_exact(PIECE + 4096);
        }
        let (second, milliseconds) = buffer.time();
        let mut line = Line(&mut lines);
        line.add("{\"time\":\"").add(second).add(".");
        line.digits(u64::from(milliseconds), 3);
        line.add("Z\",\"id\":").text(self.id.as_bytes());
        line.add(",\"client\":\"").add(&self.client.name);
        line.add("\",\"tls\":").flag(self.client.is_tls);
        line.add(",\"version\":\"").add(version(self.version));
        line.add("\",\"method\":")
            .text(self.method.as_str().as_bytes());
        line.add(",\"host\":").value(self.host.as_ref());
        let path = self.uri.path_and_query().map_or("", |path| path.as_str());
        line.add(",\"path\":").text(path.as_bytes());
        line.add(",\"status\":").number(self.status.as_u16().into());
        line.add(",\"bytes\":").number(self.bytes);
        line.add(",\"seconds\":").seconds(took);
        line.add(",\"head_seconds\":").seconds(self.head_after);
        line.add(",\"complete\":")
            .flag(self.is_whole && !self.is_cut);
        if let Some(why) = self.why {
            line.add(",\"why\":\"").add(why.as_str()).add("\"");
        }
        if let Some(route) = &self.route {
            line.add(&route.log);
        }
        if let Some(endpoint) = self.endpoint {
            line.add(",\"endpoint\":\"").address(endpoint).add("\"");
        }
        line.add(",\"user_agent\":").value(self.agent.as_ref());
        line.add("}\n");
        buffer.lines = lines;
        buffer.count += 1;
        match buffer.lines.len() >= PIECE {
            true => buffer.flush(),
            false => 0,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        let lost = self.write(took, &self.local.log);
        self.local
            .numbers
            .request_ended(self.status, self.why, took, lost);
        self.client.watched.activity.end_request(now);
    }
}

fn header(headers: &HeaderMap, name: &http::HeaderName) -> Option<HeaderValue> {
    headers.get(name).cloned()
}

/// A line that is being written. By hand: a line costs a request as much as any part of it, and `write!` several times that.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn add(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// A string of JSON; what is no UTF-8 is replaced.
    fn text(&mut self, bytes: &[u8]) -> &mut Self {
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if bytes.iter().all(is_plain) {
            self.0.push(b'"');
            self.0.extend_from_slice(bytes);
            self.0.push(b'"');
        } else if serde_json::to_writer(&mut *self.0, &String::from_utf8_lossy(bytes)).is_err() {
            self.add("\"\"");
        }
        self
    }

    fn value(&mut self, value: Option<&HeaderValue>) -> &mut Self {
        self.text(value.map(HeaderValue::as_bytes).unwrap_or_default())
    }

    fn flag(&mut self, flag: bool) -> &mut Self {
        self.add(if flag { "true" } else { "false" })
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.digits(number, 1)
    }

    /// At least so many digits.
    fn digits(&mut self, mut number: u64, least: usize) -> &mut Self {
        let mut digits = [b'0'; 20];
        let mut first = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
            first -= 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        let from = first.min(digits.len().saturating_sub(least));
        self.0
            .extend_from_slice(digits.get(from..).unwrap_or_default());
        self
    }

    fn address(&mut self, address: SocketAddr) -> &mut Self {
        match address {
            SocketAddr::V4(address) => {
                let [first, rest @ ..] = address.ip().octets();
                self.number(first.into());
                for octet in rest {
                    self.add(".").number(octet.into());
                }
                self.add(":").number(address.port().into())
            }
            SocketAddr::V6(address) => {
                let _ = write!(self.0, "{address}");
                self
            }
        }
    }

    /// To the microsecond.
    fn seconds(&mut self, time: Duration) -> &mut Self {
        self.number(time.as_secs())
            .add(".")
            .digits(u64::from(time.subsec_micros()), 6)
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_costs_lines_and_they_are_counted() {
        let (queue, log) = AccessLog::new();
        let mut buffer = LogBuffer::new(Some(queue));
        let mut lost = 0;
        for _ in 0..QUEUE + 3 {
            buffer.lines.extend_from_slice(b"{}\n{}\n");
            buffer.count += 2;
            lost += buffer.flush();
        }
        assert_eq!(lost, 6);
        drop(buffer);
        let mut written = Vec::new();
        log.write_to(&mut written);
        assert_eq!(written.len(), QUEUE * 6);
    }

    #[test]
    fn what_a_client_wrote_stays_inside_its_string() {
        let mut out = Vec::new();
        Line(&mut out).text(b"a\"\n\x1bb\xff");
        assert_eq!(out, "\"a\\\"\\n\\u001bb\u{fffd}\"".as_bytes());
    }

    #[test]
    fn numbers_are_written_as_others_read_them() {
        let mut out = Vec::new();
        let mut line = Line(&mut out);
        line.number(0).add(" ").number(u64::MAX).add(" ");
        line.digits(7, 3)
            .add(" ")
            .seconds(Duration::from_micros(61_000_042));
        for address in ["10.0.255.9:8080", "[fd00::9]:80"] {
            line.add(" ").address(address.parse().unwrap());
        }
        assert_eq!(
            out,
            b"0 18446744073709551615 007 61.000042 10.0.255.9:8080 [fd00::9]:80"
        );
    }
}
