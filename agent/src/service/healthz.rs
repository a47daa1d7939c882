//! `/healthz`: whether load balancers that know nodes alone should send new connections here; where kube-proxy answers it, too.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::health::{bind, bind_all};
use super::soundness::Soundness;

/// How soon a port that another has, kube-proxy as a rule, is asked for again.
const RETRY: Duration = Duration::from_secs(5);

/// Where it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthzAt {
    /// Nowhere but on the port of metrics.
    Off,
    /// There; `[::]` stands for all addresses of both families.
    Address(SocketAddr),
}

impl FromStr for HealthzAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            text => crate::http::address(text)
                .map(Self::Address)
                .map_err(|why| format!("{why}; or off")),
        }
    }
}

/// `/healthz` (KEP-3836: a node that is about to go wants no new connections).
pub(crate) fn router<S: Clone + Send + Sync + 'static>(soundness: Soundness) -> Router<S> {
    Router::new()
        .route("/healthz", get(healthz))
        .with_state(soundness)
}

/// Listens until the process ends.
pub(super) async fn run_task(
    at: SocketAddr,
    report: watch::Sender<Option<String>>,
    soundness: Soundness,
) {
    let listeners = loop {
        match listeners(at) {
            Ok(listeners) => break listeners,
            Err(error) => {
                let why = format!(
                    "/healthz of Services cannot be served on {at}: {error}; end what listens there (kube-proxy does), or choose another --service-healthz, or off"
                );
                report.send_if_modified(|old| {
                    let is_new = old.as_ref() != Some(&why);
                    if is_new {
                        warn!("{why}");
                        *old = Some(why);
                    }
                    is_new
                });
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    report.send_replace(None);
    info!(%at, "serving /healthz of Services");
    let app = Router::new()
        .route("/livez", get(livez))
        .merge(router(soundness.clone()))
        .with_state(soundness);
    let mut servers = JoinSet::new();
    for listener in listeners {
        let app = app.clone();
        servers.spawn(async move { axum::serve(listener, app).await });
    }
    while servers.join_next().await.is_some() {}
}

fn listeners(at: SocketAddr) -> std::io::Result<Vec<TcpListener>> {
    match at.ip().is_unspecified() && at.is_ipv6() {
        true => bind_all(at.port()),
        false => Ok(vec![bind(at)?]),
    }
}

async fn healthz(State(soundness): State<Soundness>) -> Response {
    let sound = soundness.now();
    answer(sound.wants_connections(), sound.leaving.is_none())
}

/// Whether it works at all: a node that is about to go does.
async fn livez(State(soundness): State<Soundness>) -> Response {
    let sound = soundness.now();
    let is_eligible = sound.leaving.is_none();
    answer(sound.behind.map_or(Ok(()), Err), is_eligible)
}

/// In kube-proxy's words, and why not.
fn answer(outcome: Result<(), String>, is_eligible: bool) -> Response {
    let status = match outcome {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::json!({
        "currentTime": k8s_openapi::jiff::Timestamp::now().to_string(),
        "nodeEligible": is_eligible,
        "reason": outcome.err(),
    });
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, format!("{body}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_either_family_or_off() {
        assert_eq!("off".parse(), Ok(HealthzAt::Off));
        for text in ["[::]:10256", "0.0.0.0:10256", "192.0.2.1:80"] {
            let address = HealthzAt::Address(text.parse().unwrap());
            assert_eq!(text.parse(), Ok(address));
        }
        let wrong: Result<HealthzAt, String> = "10256".parse();
        assert!(wrong.unwrap_err().ends_with("; or off"));
    }
}
