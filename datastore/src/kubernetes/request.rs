//! One request to the API server, and the answer as it comes in.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;

use super::failure::Failure;

/// How long the server may take to begin an answer. It waits by itself until its cache is as new as was asked for.
const ANSWER: Duration = Duration::from_secs(60);

/// How long an answer may be silent. A watch has a bookmark every minute, and is begun anew where it was for less than a
/// list costs.
const SILENCE: Duration = Duration::from_secs(180);

/// The longest object that is read, in octets: etcd takes no more than 1.5 MiB by default.
const LONGEST: usize = 16 << 20;

/// The longest refusal that is read, in octets.
const LONGEST_REFUSAL: usize = 64 << 10;

/// An answer's text as it comes in. Dropping it ends the request.
pub(super) struct Answer {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer has no line's end.
    searched: usize,
}

impl Answer {
    /// Asks. A refusal is read whole and is an error.
    pub(super) async fn to(client: &kube::Client, path: &str) -> Result<Self, Failure> {
        let request = http::Request::get(path)
            .header(http::header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| Failure::Unanswered(format!("{path} is no path: {error}")))?;
        let sent = tokio::time::timeout(ANSWER, client.send(request)).await;
        let Ok(sent) = sent else {
            let seconds = ANSWER.as_secs();
            return Err(Failure::Unanswered(format!("no answer within {seconds} s")));
        };
        let (head, body) = sent.map_err(|error| Failure::unsent(&error))?.into_parts();
        let mut answer = Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        };
        if head.status.is_success() {
            return Ok(answer);
        }
        // What cannot be read of it does not matter.
        while answer.buffer.len() < LONGEST_REFUSAL && matches!(answer.more().await, Ok(true)) {}
        Err(Failure::refused(&head, &answer.buffer))
    }

    /// The next line, without its end; none at the answer's end. Can be dropped and called again.
    pub(super) async fn line(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(found) = unsearched.iter().position(|octet| *octet == b'\n') {
                let line = self.buffer.split_to(self.searched + found + 1).freeze();
                self.searched = 0;
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST {
                return Err(Failure::Unanswered(format!(
                    "an object has more than {LONGEST} octets"
                )));
            }
            if !self.more().await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(Failure::Unanswered("the answer breaks off".to_owned())),
                };
            }
        }
    }

    /// What has come in since the last call; none at the answer's end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.buffer.is_empty() {
            if !self.more().await? {
                return Ok(None);
            }
        }
        self.searched = 0;
        Ok(Some(self.buffer.split().freeze()))
    }

    /// Waits for more; false at the answer's end.
    async fn more(&mut self) -> Result<bool, Failure> {
        loop {
            let next = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let Ok(next) = next else {
                let seconds = SILENCE.as_secs();
                return Err(Failure::Unanswered(format!(
                    "the server has been silent for {seconds} s"
                )));
            };
            let Some(frame) = next else { return Ok(false) };
            let frame = frame.map_err(|error| Failure::unanswered(&error))?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
                return Ok(true);
            }
        }
    }
}

/// Writes a value so that it can stand in a query (RFC 3986 §2.3).
pub(super) fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for octet in value.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(octet));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}
