//! One connection of a client: TLS if it is that, then HTTP/1.1 or HTTP/2, until it ends or its worker ends it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::HeaderValue;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use super::forward;
use super::stream::Stream;
use super::worker::{Local, Place, Verdict, Watched};

/// Requests of one HTTP/2 connection at once.
const STREAMS: u32 = 128;
/// Headers of one request.
const HEADERS: usize = 100;

/// What a request may want to know about the connection that it came by.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
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
    let stream = if is_tls {
        let handshake = tokio::time::timeout(local.shared.limits.head, local.tls().accept(stream));
        let Ok(Ok(stream)) = handshake.await else {
            local.numbers.handshake_failed();
            return;
        };
        protocol = stream.get_ref().1.alpn_protocol().map(|name| name == b"h2");
        Stream::tls(stream, activity)
    } else {
        Stream::plain(stream, activity)
    };
    let address = peer.ip().to_canonical();
    let client = Rc::new(Client {
        peer,
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
    let mut builder = builder(&local);
    // In TLS the client has said what it speaks; who said nothing speaks HTTP/1.1.
    match protocol {
        Some(true) => builder = builder.http2_only(),
        _ if is_tls => builder = builder.http1_only(),
        _ => {}
    }
    let service = service_fn(|request| forward::answer(local.clone(), client.clone(), request));
    let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service));
    let watched = &place.watched;
    let mut is_finishing = false;
    poll_fn(|cx| {
        if watched.waker.borrow().is_none() {
            *watched.waker.borrow_mut() = Some(cx.waker().clone());
        }
        match watched.verdict.get() {
            Verdict::Cut => return Poll::Ready(()),
            Verdict::Finish if !is_finishing => {
                is_finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            _ => {}
        }
        connection.as_mut().poll(cx).map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(peer = %client.peer, error = &*error, "a client's connection ended");
            }
        })
    })
    .await;
}

fn builder(local: &Local) -> auto::Builder<LocalExecutor> {
    let limits = &local.shared.limits;
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .half_close(false)
        .max_buf_size(limits.head_size.max(8 * 1024))
        .max_headers(HEADERS)
        // The worker watches over heads and idle connections without a timer for each request.
        .header_read_timeout(None)
        .pipeline_flush(true);
    builder
        .http2()
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
