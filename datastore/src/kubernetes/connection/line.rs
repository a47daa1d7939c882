//! The connection itself: one for all requests where the server speaks HTTP/2, one for each where it does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::Scheme;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::Config;
use kube::client::{Body, ConfigExt as _, RustlsTlsError};
use tokio::sync::Mutex;
use tower::{BoxError, ServiceExt as _};

use crate::kubernetes::failure::reason_of;

/// How long a connection may take to be made, until its TLS session stands.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection on which nothing has come in for so long is asked whether it is still there (as client-go does).
const ASKED_AFTER: Duration = Duration::from_secs(30);

/// How long the answer to that may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// A connection is doubted when nobody waits any more for an answer that has not begun for so long: whoever asks next may
/// not have the time in which a dead one is found out.
const DOUBTED_AFTER: Duration = Duration::from_secs(3);

/// One that was made so lately is not: a server that is slow gets no better by more connections.
const TRUSTED_FOR: Duration = Duration::from_secs(10);

/// How much of one answer, in octets, may be on its way while nobody takes it in. Then the server waits with this one.
const WINDOW: u32 = 256 << 10;

/// The same of all answers together: more than all kinds' watches and some requests, so that none waits for another.
const WINDOWS: u32 = 32 * WINDOW;

/// To one server.
pub(super) struct Line {
    connector: HttpsConnector<HttpConnector>,
    shared: Mutex<Shared>,
    /// Where it speaks HTTP/1.1 only.
    one_each: legacy::Client<HttpsConnector<HttpConnector>, Body>,
}

/// The connection that all share.
#[derive(Default)]
struct Shared {
    sender: Option<SendRequest<Body>>,
    /// When it was made.
    made: Option<Instant>,
    /// The server has chosen HTTP/1.1.
    speaks_http1: bool,
    /// When it could not be made last, and why.
    failure: Option<(Instant, Arc<str>)>,
}

/// A request on the shared connection whose answer has not begun.
struct Unanswered<'a> {
    line: &'a Line,
    since: Instant,
    is_answered: bool,
}

impl Drop for Unanswered<'_> {
    /// What runs on the connection stays on it; the next request gets another.
    fn drop(&mut self) {
        if self.is_answered || self.since.elapsed() < DOUBTED_AFTER {
            return;
        }
        // Where it is locked, another is being made.
        if let Ok(mut shared) = self.line.shared.try_lock()
            && shared
                .made
                .is_some_and(|made| made.elapsed() >= TRUSTED_FOR)
        {
            shared.sender = None;
        }
    }
}

/// Why a request was not sent, or not answered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Lost(Arc<str>);

impl Line {
    /// Nothing is sent yet.
    pub(super) fn new(config: &Config) -> Result<Self, kube::Error> {
        let tls = config.rustls_client_config()?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        // For HTTP/1.1, which has no question of its own.
        tcp.set_keepalive(Some(ASKED_AFTER));
        tcp.set_keepalive_interval(Some(ANSWERED_WITHIN / 3));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(Some(ASKED_AFTER + ANSWERED_WITHIN));
        let name = config.tls_server_name.clone().map(String::try_into);
        let name = name.transpose().map_err(RustlsTlsError::InvalidServerName);
        let name = name.map_err(kube::Error::RustlsTls)?;
        let builder = || {
            let builder = HttpsConnectorBuilder::new();
            let builder = builder.with_tls_config(tls.clone()).https_or_http();
            match name.clone() {
                Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
                None => builder,
            }
        };
        let http1 = builder().enable_http1().wrap_connector(tcp.clone());
        Ok(Self {
            connector: builder().enable_all_versions().wrap_connector(tcp),
            shared: Mutex::default(),
            one_each: legacy::Client::builder(TokioExecutor::new()).build(http1),
        })
    }

    /// Sends a request. Where its connection turns out to be closed before it was sent, on a new one.
    pub(super) async fn send(
        self: Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, BoxError> {
        for _ in 0..2 {
            let Some(mut sender) = self.sender(request.uri()).await? else {
                return self.send_alone(request).await;
            };
            let mut unanswered = Unanswered {
                line: &self,
                since: Instant::now(),
                is_answered: false,
            };
            let sent = sender.try_send_request(request).await;
            unanswered.is_answered = true;
            match sent {
                Ok(answer) => return Ok(answer),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed.into_error().into()),
                },
            }
        }
        Err("the API server closes every connection".into())
    }

    async fn send_alone(&self, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let sent = self.one_each.request(request).await;
        if sent.is_err() {
            // It may be another server by now.
            self.shared.lock().await.speaks_http1 = false;
        }
        Ok(sent?)
    }

    /// The connection that is there, or a new one; none where each request has its own.
    async fn sender(&self, server: &Uri) -> Result<Option<SendRequest<Body>>, Lost> {
        let came = Instant::now();
        let mut shared = self.shared.lock().await;
        if shared.speaks_http1 {
            return Ok(None);
        }
        if let Some(sender) = shared.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(Some(sender.clone()));
        }
        // Who has waited while it could not be made need not try it again.
        if let Some((at, why)) = &shared.failure
            && *at >= came
        {
            return Err(Lost(Arc::clone(why)));
        }
        match self.connect(server).await {
            Ok(sender) => {
                shared.failure = None;
                shared.speaks_http1 = sender.is_none();
                shared.sender.clone_from(&sender);
                shared.made = Some(Instant::now());
                Ok(sender)
            }
            Err(error) => {
                let why: Arc<str> = reason_of(&*error).into();
                shared.failure = Some((Instant::now(), Arc::clone(&why)));
                Err(Lost(why))
            }
        }
    }

    async fn connect(&self, server: &Uri) -> Result<Option<SendRequest<Body>>, BoxError> {
        if server.scheme() == Some(&Scheme::HTTP) {
            return Ok(None);
        }
        let connector = self.connector.clone();
        let made = tokio::time::timeout(CONNECT, connector.oneshot(server.clone())).await;
        let stream = made.map_err(|_| {
            let seconds = CONNECT.as_secs();
            format!("no connection within {seconds} s")
        })??;
        if !stream.connected().is_negotiated_h2() {
            return Ok(None);
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOWS)
            .keep_alive_interval(ASKED_AFTER)
            .keep_alive_timeout(ANSWERED_WITHIN)
            .keep_alive_while_idle(true)
            .handshake(stream)
            .await?;
        // Ends with the last sender and the last answer, or with the connection.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(
                    error = reason_of(&error),
                    "the connection to the API server"
                );
            }
        });
        Ok(Some(sender))
    }
}
