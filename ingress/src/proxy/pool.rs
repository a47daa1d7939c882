//! Connections to endpoints: of one thread, kept for the next request, gone when the endpoint is.
//!
//! A connection of HTTP/1.1 is moved along by the request that has it: there is no task for it to wake and be woken by. While
//! nobody has it nobody reads it; whether the endpoint has closed it is seen when it is taken out.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustc_hash::{FxHashMap, FxHashSet};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::Limits;
use super::answer::Why;
use super::body::RequestBody;
use super::connection::LocalExecutor;
use super::numbers::Numbers;
use super::stream::ToEndpoint;

/// Connections of a worker to one endpoint that wait for a request.
const WAITING: usize = 128;
/// For how long an endpoint that could not be connected to is asked only if there is no other: twice as long each time, as the
/// machine it was on may be gone, and the cluster takes a minute to say so.
const FAILED: Duration = Duration::from_secs(2);
const FAILED_AGAIN: Duration = Duration::from_secs(16);

/// A connection to an endpoint, by HTTP/1.1.
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// None once it has ended.
    driver: Option<http1::Connection<ToEndpoint, RequestBody>>,
    /// When the request that it has is late: one that is there already is put off for next to nothing, a new one is not.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    endpoint: SocketAddr,
    idle_since: Instant,
    /// Whether it has had a request before.
    pub(super) is_reused: bool,
}

impl Connection {
    /// Reads and writes what there is.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    fn is_usable(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Apart, for a request that is to become a tunnel.
    pub(super) fn into_parts(
        self,
    ) -> (
        http1::SendRequest<RequestBody>,
        Option<http1::Connection<ToEndpoint, RequestBody>>,
    ) {
        (self.sender, self.driver)
    }
}

/// A worker's connections.
pub(super) struct Pool {
    limits: Limits,
    numbers: Arc<Numbers>,
    endpoints: RefCell<FxHashMap<SocketAddr, Endpoint>>,
}

#[derive(Default)]
struct Endpoint {
    /// The one used last is last.
    #[expect(
        clippy::vec_box,
        reason = "they move between here and bodies, and are large"
    )]
    waiting: Vec<Box<Connection>>,
    http2: Option<http2::SendRequest<RequestBody>>,
    failed_until: Option<Instant>,
    /// For how long it is passed over when it fails once more.
    pause: Option<Duration>,
}

impl Endpoint {
    fn note(&mut self, outcome: Result<(), Why>, now: Instant) {
        match outcome {
            Ok(()) => (self.failed_until, self.pause) = (None, None),
            Err(_) => {
                let pause = self.pause.unwrap_or(FAILED);
                self.failed_until = Some(now + pause);
                self.pause = Some((pause * 2).min(FAILED_AGAIN));
            }
        }
    }

    /// One request finds out whether an endpoint that failed is back: others pass it over meanwhile.
    fn try_again(&mut self, now: Instant, patience: Duration) {
        if self.pause.is_some() {
            self.failed_until = Some(now + patience);
        }
    }
}

impl Pool {
    pub(super) fn new(limits: Limits, numbers: Arc<Numbers>) -> Self {
        Self {
            limits,
            numbers,
            endpoints: RefCell::default(),
        }
    }

    /// From now on these endpoints are there: connections to others are closed once nobody uses them.
    pub(super) fn keep_only(&self, endpoints: impl Iterator<Item = SocketAddr>) {
        let wanted: FxHashSet<SocketAddr> = endpoints.collect();
        let mut known = self.endpoints.borrow_mut();
        known.retain(|endpoint, _| wanted.contains(endpoint));
        for endpoint in wanted {
            known.entry(endpoint).or_default();
        }
    }

    /// Closes what waited too long.
    pub(super) fn tick(&self, now: Instant) {
        let idle = self.limits.endpoint_idle;
        for endpoint in self.endpoints.borrow_mut().values_mut() {
            let is_old = |connection: &Connection| now.duration_since(connection.idle_since) > idle;
            let old = endpoint
                .waiting
                .iter()
                .take_while(|connection| is_old(connection));
            let old = old.count();
            endpoint.waiting.drain(..old);
        }
    }

    /// Whether an endpoint could not be connected to a moment ago.
    pub(super) fn has_failed(&self, endpoint: SocketAddr) -> bool {
        let known = self.endpoints.borrow();
        let until = known
            .get(&endpoint)
            .and_then(|endpoint| endpoint.failed_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn note(&self, endpoint: SocketAddr, outcome: Result<(), Why>) {
        if let Some(endpoint) = self.endpoints.borrow_mut().get_mut(&endpoint) {
            endpoint.note(outcome, Instant::now());
        }
        self.numbers.connected(outcome.is_ok());
    }

    fn waiting(&self, endpoint: SocketAddr) -> Option<Box<Connection>> {
        self.endpoints
            .borrow_mut()
            .get_mut(&endpoint)?
            .waiting
            .pop()
    }

    /// A connection that waits, unless a new one is asked for; else a new one.
    pub(super) async fn http1(
        &self,
        endpoint: SocketAddr,
        is_new: bool,
    ) -> Result<Box<Connection>, Why> {
        if !is_new {
            while let Some(mut connection) = self.waiting(endpoint) {
                poll_fn(|cx| {
                    connection.drive(cx);
                    Poll::Ready(())
                })
                .await;
                if connection.is_usable() {
                    connection.is_reused = true;
                    return Ok(connection);
                }
            }
        }
        let stream = self.connect(endpoint).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(self.limits.head_size.max(64 * 1024));
        builder.max_header_size(self.limits.head_size);
        let io = ToEndpoint(TokioIo::new(stream));
        let handshake = builder.handshake(io).await;
        let (sender, driver) = handshake.map_err(|_| Why::Connect)?;
        Ok(Box::new(Connection {
            sender,
            driver: Some(driver),
            timer: None,
            endpoint,
            idle_since: Instant::now(),
            is_reused: false,
        }))
    }

    /// Takes a connection back whose response has been read.
    pub(super) fn give_back(&self, mut connection: Box<Connection>) {
        if !connection.is_usable() {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let endpoint = endpoints.get_mut(&connection.endpoint);
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.waiting.len() < WAITING) else {
            return;
        };
        connection.idle_since = Instant::now();
        endpoint.waiting.push(connection);
    }

    /// The connection of HTTP/2 to an endpoint, which all requests share.
    pub(super) async fn http2(
        &self,
        endpoint: SocketAddr,
    ) -> Result<http2::SendRequest<RequestBody>, Why> {
        let known = self
            .endpoints
            .borrow()
            .get(&endpoint)
            .and_then(|known| known.http2.clone());
        if let Some(sender) = known.filter(|sender| !sender.is_closed()) {
            return Ok(sender);
        }
        let stream = self.connect(endpoint).await?;
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .keep_alive_interval(self.limits.endpoint_idle)
            .keep_alive_timeout(self.limits.head)
            .max_header_list_size(u32::try_from(self.limits.head_size).unwrap_or(u32::MAX));
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|_| Why::Connect)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%endpoint, %error, "an endpoint's connection ended");
            }
        });
        if let Some(known) = self.endpoints.borrow_mut().get_mut(&endpoint) {
            known.http2 = Some(sender.clone());
        }
        Ok(sender)
    }

    async fn connect(&self, endpoint: SocketAddr) -> Result<TcpStream, Why> {
        if let Some(known) = self.endpoints.borrow_mut().get_mut(&endpoint) {
            known.try_again(Instant::now(), self.limits.connect);
        }
        let connecting = tokio::time::timeout(self.limits.connect, TcpStream::connect(endpoint));
        let connected: io::Result<TcpStream> = match connecting.await {
            Ok(connected) => connected,
            Err(_) => {
                self.note(endpoint, Err(Why::ConnectTimeout));
                return Err(Why::ConnectTimeout);
            }
        };
        match connected.and_then(|stream| self.set_up(stream)) {
            Ok(stream) => {
                self.note(endpoint, Ok(()));
                Ok(stream)
            }
            Err(error) => {
                tracing::debug!(%endpoint, %error, "cannot connect");
                self.note(endpoint, Err(Why::Connect));
                Err(Why::Connect)
            }
        }
    }

    /// Where what was sent is not even acknowledged (RFC 5482) the machine is gone, whatever the response's time is.
    fn set_up(&self, stream: TcpStream) -> io::Result<TcpStream> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(self.limits.unacknowledged))?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_again_is_passed_over_for_longer_and_one_request_at_a_time_tries() {
        let start = Instant::now();
        let mut endpoint = Endpoint::default();
        endpoint.try_again(start, Duration::from_secs(1));
        assert_eq!(endpoint.failed_until, None, "a new one is asked by all");
        for seconds in [2, 4, 8, 16, 16] {
            endpoint.note(Err(Why::Connect), start);
            assert_eq!(
                endpoint.failed_until,
                Some(start + Duration::from_secs(seconds))
            );
            endpoint.try_again(start, Duration::from_secs(1));
            assert_eq!(endpoint.failed_until, Some(start + Duration::from_secs(1)));
        }
        endpoint.note(Ok(()), start);
        endpoint.note(Err(Why::Connect), start);
        assert_eq!(endpoint.failed_until, Some(start + FAILED));
    }
}
