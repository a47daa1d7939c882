//! /livez, /readyz and /metrics, on a port of their own.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::proxy::Total;

/// A request for metrics has this long for its head.
const HEAD: Duration = Duration::from_secs(5);

/// What is told about the process.
pub struct Status {
    /// Whether load balancers may send clients here.
    pub is_ready: AtomicBool,
    /// Why not, in words.
    why: Mutex<&'static str>,
    registry: Registry,
    /// Counts of the last compilation.
    pub compiled: Gauges,
}

/// What the last compilation held.
#[derive(Debug, Default)]
pub struct Gauges {
    /// How often was compiled.
    pub compilations: Counter,
    /// Ingresses that are served.
    pub ingresses: Gauge<i64, AtomicI64>,
    /// Problems of objects.
    pub problems: Gauge<i64, AtomicI64>,
    /// Hosts with a certificate.
    pub certificates: Gauge<i64, AtomicI64>,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:?})", self.is_ready)
    }
}

impl Status {
    /// Not ready yet.
    #[must_use]
    pub fn new(total: Total) -> Self {
        let compiled = Gauges::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(total));
        let prefix = registry.sub_registry_with_prefix("portolan_ingress");
        prefix.register(
            "compilations",
            "Tables made of what is known",
            compiled.compilations.clone(),
        );
        prefix.register(
            "ingresses",
            "Ingresses that are served",
            compiled.ingresses.clone(),
        );
        prefix.register(
            "problems",
            "Parts of objects that are not served as they are written",
            compiled.problems.clone(),
        );
        prefix.register(
            "certificates",
            "Hosts with a certificate",
            compiled.certificates.clone(),
        );
        Self {
            is_ready: AtomicBool::new(false),
            why: Mutex::new("not everything is known yet"),
            registry,
            compiled,
        }
    }

    /// Says from now on whether the process is ready, and why not.
    pub fn set_ready(&self, is_ready: bool, why: &'static str) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.is_ready.store(is_ready, Ordering::Relaxed);
    }

    fn answer(&self, path: &str) -> (StatusCode, String) {
        match path {
            "/livez" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" if self.is_ready.load(Ordering::Relaxed) => {
                (StatusCode::OK, "ok\n".to_owned())
            }
            "/readyz" => {
                let why = *self.why.lock().unwrap_or_else(PoisonError::into_inner);
                (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
            }
            "/metrics" => {
                let mut text = String::new();
                match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
                    Ok(()) => (StatusCode::OK, text),
                    Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
                }
            }
            _ => (
                StatusCode::NOT_FOUND,
                "there are /livez, /readyz and /metrics\n".to_owned(),
            ),
        }
    }
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, status: Arc<Status>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let status = status.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (code, text) = status.answer(request.uri().path());
            let mut response = Response::new(Whole(Some(Bytes::from(text))));
            *response.status_mut() = code;
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .keep_alive(false);
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// A body that is there.
struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let length = self.0.as_ref().map_or(0, Bytes::len);
        http_body::SizeHint::with_exact(u64::try_from(length).unwrap_or_default())
    }
}
