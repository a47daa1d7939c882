//! One connection of a client: TLS if it is that, then HTTP/1.1 or HTTP/2, until it ends or its worker ends it.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpStream;

use super::stream::Stream;
use super::worker::{Local, Place, Verdict, Watched};
use super::{Limits, forward};

/// Requests of one HTTP/2 connection at once.
const STREAMS: u32 = 128;

/// What a request may want to know about the connection that it came by.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    /// The same, as the access log writes it.
    pub(super) name: String,
    pub(super) is_tls: bool,
    /// Whether what it says of whom it speaks for is believed.
    pub(super) is_trusted: bool,
    /// Its address, as headers write it.
    pub(super) address: HeaderValue,
    pub(super) watched: Rc<Watched>,
}

/// Tasks of this thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves it to its end.
pub(super) async fn serve(
    local: Rc<Local>,
    place: Place,
    stream: TcpStream,
    peer: SocketAddr,
    is_tls: bool,
) {
    // What is small is sent at once.
    let _ = stream.set_nodelay(true);
    let activity = place.watched.activity.clone();
    let mut protocol = None;
    let mut begins_http2 = false;
    let stream = if is_tls {
        let handshake = tokio::time::timeout(local.shared.limits.head, local.tls().accept(stream));
        let Ok(Ok(stream)) = handshake.await else {
            local.numbers.handshake_failed();
            return;
        };
        protocol = Some(stream.get_ref().1.alpn_protocol() == Some(b"h2"));
        Stream::tls(stream, activity)
    } else {
        let Some(Ok(begins)) = unless_judged(&place.watched, begins_as_http2(&stream)).await else {
            return;
        };
        begins_http2 = begins;
        Stream::plain(stream, activity)
    };
    let address = peer.ip().to_canonical();
    let client = Rc::new(Client {
        peer,
        name: peer.to_string(),
        is_tls,
        is_trusted: local
            .shared
            .trusted
            .iter()
            .any(|range| range.contains(address)),
        address: HeaderValue::try_from(address.to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
        watched: place.watched.clone(),
    });
    let is_http2 = match protocol {
        // Who says nothing of it speaks HTTP/1.1.
        Some(is_http2) => is_http2,
        None => begins_http2,
    };
    let service = service_fn(|request| forward::answer(local.clone(), client.clone(), request));
    let limits = &local.shared.limits;
    match is_http2 {
        true => {
            let connection = http2(limits).serve_connection(stream, service);
            watch(connection, &client, http2::Connection::graceful_shutdown).await;
        }
        false => {
            let connection = http1(limits)
                .serve_connection(stream, service)
                .with_upgrades();
            watch(
                connection,
                &client,
                http1::UpgradeableConnection::graceful_shutdown,
            )
            .await;
        }
    }
}

/// How a client of HTTP/2 that knows what it speaks to begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection in plain text begins as HTTP/2 does; nothing is taken out of it.
async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut begin).await?;
        let got = begin.get(..count).unwrap_or_default();
        if count == 0 || !PREFACE.starts_with(got) {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        // What has come is not taken, so there is no notice of more.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something before the first request; none where the connection is to end meanwhile.
async fn unless_judged<T>(watched: &Watched, waited: impl Future<Output = T>) -> Option<T> {
    let mut waited = pin!(waited);
    poll_fn(|cx| {
        watched.note(cx);
        match watched.verdict.get() {
            Verdict::Stay => waited.as_mut().poll(cx).map(Some),
            Verdict::Finish | Verdict::Cut => Poll::Ready(None),
        }
    })
    .await
}

/// Moves a connection along until it ends, or its worker says that it is to.
async fn watch<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    client: &Client,
    finish: impl Fn(Pin<&mut C>),
) {
    let mut connection = pin!(connection);
    let watched = &client.watched;
    let mut is_finishing = false;
    poll_fn(|cx| {
        watched.note(cx);
        match watched.verdict.get() {
            Verdict::Cut => return Poll::Ready(()),
            Verdict::Finish if !is_finishing => {
                is_finishing = true;
                finish(connection.as_mut());
            }
            _ => {}
        }
        connection.as_mut().poll(cx).map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(peer = %client.peer, %error, "a client's connection ended");
            }
        })
    })
    .await;
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(limits.head_size.max(64 * 1024))
        .max_header_size(limits.head_size)
        // A hundred headers, by default: to say so has hyper fill the places for them at each request.
        // The worker watches over heads and idle connections without a timer for each request.
        .header_read_timeout(None);
    builder
}

fn http2(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(limits.head_size).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.head);
    builder
}
