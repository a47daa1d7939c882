//! Puts objects straight into an API server's etcd, by etcd's JSON gateway: 50,000 in seconds, where the API server takes minutes.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::objects::Stored;

/// etcd takes 128 operations in a transaction.
const AT_ONCE: usize = 100;

/// Connected to an etcd, whose API server keeps its objects under `/registry`.
pub(crate) struct Etcd(TcpStream, SocketAddr);

impl Etcd {
    /// Connects from the network namespace of the calling thread.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("etcd at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self(stream, address))
    }

    /// Puts all of them, as JSON, which API servers read as they do their own encoding.
    pub(crate) fn put(&mut self, objects: impl IntoIterator<Item = Stored>) -> Result<usize> {
        let (mut count, mut waiting) = (0, Vec::new());
        for object in objects {
            count += 1;
            waiting.push(object);
            if waiting.len() == AT_ONCE {
                self.transact(&std::mem::take(&mut waiting))?;
            }
        }
        self.transact(&waiting)?;
        Ok(count)
    }

    fn transact(&mut self, objects: &[Stored]) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let mut body = "{\"success\":[".to_owned();
        for (number, (path, object)) in objects.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let key = STANDARD.encode(format!("/registry/{path}"));
            let value = STANDARD.encode(object.to_string());
            let _ = write!(
                body,
                "{comma}{{\"requestPut\":{{\"key\":\"{key}\",\"value\":\"{value}\"}}}}"
            );
        }
        body += "]}";
        let head = format!(
            "POST /v3/kv/txn HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.1,
            body.len()
        );
        self.0.write_all(head.as_bytes())?;
        self.0.write_all(body.as_bytes())?;
        let answer = self.answer()?;
        ensure!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("\"succeeded\":true"),
            "etcd refuses: {answer}"
        );
        Ok(())
    }

    /// Reads one answer; its end is told by its length, or by an empty chunk.
    fn answer(&mut self) -> Result<String> {
        let (mut text, mut buffer) = (Vec::new(), [0; 16_384]);
        loop {
            let read = self.0.read(&mut buffer)?;
            ensure!(read > 0, "etcd breaks off");
            text.extend_from_slice(buffer.get(..read).unwrap_or_default());
            let found = String::from_utf8_lossy(&text);
            let Some((head, body)) = found.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>())
            });
            let is_whole = match length {
                Some(length) => body.len() >= length?,
                None => body.ends_with("0\r\n\r\n"),
            };
            if is_whole {
                return Ok(found.into_owned());
            }
        }
    }
}
