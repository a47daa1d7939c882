//! The access log: one line of JSON a request, written by a thread of its own. A disk that is slow costs lines, which are counted,
//! and never a request.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use k8s_openapi::jiff::Timestamp;

use super::answer::Why;
use super::connection::Client;
use super::name_of;
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
    pub(super) endpoint: Option<std::net::SocketAddr>,
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
        let (second, milliseconds) = buffer.time();
        let text = |value: &Option<HeaderValue>| {
            let bytes = value
                .as_ref()
                .map(HeaderValue::as_bytes)
                .unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let _ = write!(
            lines,
            "{{\"time\":\"{second}.{milliseconds:03}Z\",\"id\":\"{}\",\"client\":\"{}\",\"tls\":{},\"version\":\"{:?}\",\"method\":",
            text(&Some(self.id.clone())),
            self.client.peer,
            self.client.is_tls,
            self.version,
        );
        quote(&mut lines, self.method.as_str());
        lines.extend_from_slice(b",\"host\":");
        quote(&mut lines, &text(&self.host));
        lines.extend_from_slice(b",\"path\":");
        quote(
            &mut lines,
            self.uri.path_and_query().map_or("", |path| path.as_str()),
        );
        let _ = write!(
            lines,
            ",\"status\":{},\"bytes\":{},\"seconds\":{:.6},\"head_seconds\":{:.6},\"complete\":{}",
            self.status.as_u16(),
            self.bytes,
            took.as_secs_f64(),
            self.head_after.as_secs_f64(),
            self.is_whole && !self.is_cut,
        );
        if let Some(why) = self.why {
            let _ = write!(lines, ",\"why\":\"{}\"", why.as_str());
        }
        if let Some(route) = &self.route {
            let service = &route.backend.service;
            let port = &route.backend.port;
            let ingress = name_of(route.ingress.as_ref());
            let _ = write!(
                lines,
                ",\"ingress\":\"{ingress}\",\"service\":\"{service}:{port}\""
            );
        }
        if let Some(endpoint) = self.endpoint {
            let _ = write!(lines, ",\"endpoint\":\"{endpoint}\"");
        }
        lines.extend_from_slice(b",\"user_agent\":");
        quote(&mut lines, &text(&self.agent));
        lines.extend_from_slice(b"}\n");
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

/// A string of JSON.
fn quote(out: &mut Vec<u8>, text: &str) {
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.extend_from_slice(b"\"\"");
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
        quote(&mut out, "a\"\n\u{1b}b");
        assert_eq!(out, b"\"a\\\"\\n\\u001bb\"");
    }
}
