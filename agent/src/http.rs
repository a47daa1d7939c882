//! `/livez`, `/readyz` and `/metrics`; and `/healthz` where Services are served.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::message::Message;
use crate::metrics;
use crate::report::Report;
use crate::service::{self, Soundness};

/// The core must answer within this, or the agent is not alive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Parses `192.0.2.1:9179` and `[2001:db8::1]:9179`, and `2001:db8::1:9179`: a manifest that puts a node's address before
/// `:9179` does not know its family.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let plain = || {
        let (address, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(
            address.parse::<IpAddr>().ok()?,
            port.parse().ok()?,
        ))
    };
    let address = text.parse().ok().or_else(plain);
    address.ok_or_else(|| format!("'{text}' is not an address and a port such as 192.0.2.1:9179"))
}

/// Serves until the process ends.
///
/// # Errors
/// If the address cannot be used.
pub(crate) async fn listen(
    address: SocketAddr,
    core: mpsc::Sender<Message>,
    services: Option<Soundness>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve metrics on {address}: choose another --metrics"))?;
    info!(%address, "serving /metrics, /livez and /readyz");
    let healthz = services.map_or_else(Router::new, service::router);
    let app = healthz
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exported))
        .with_state(core);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(())
}

async fn report(core: &mpsc::Sender<Message>) -> Option<Report> {
    let (reply, answer) = oneshot::channel();
    let ask = async {
        core.send(Message::Report(reply)).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(PATIENCE, ask).await.ok().flatten()
}

/// Alive: the one task that owns the state answers. No API server is asked.
async fn livez(State(core): State<mpsc::Sender<Message>>) -> (StatusCode, &'static str) {
    match report(&core).await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent's core does not answer\n",
        ),
    }
}

async fn readyz(State(core): State<mpsc::Sender<Message>>) -> (StatusCode, String) {
    match report(&core).await {
        Some(report) if report.ready => (StatusCode::OK, "ok\n".to_owned()),
        Some(report) => {
            let why = report.waits_for.join("\n") + "\n";
            (StatusCode::SERVICE_UNAVAILABLE, why)
        }
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent's core does not answer\n".to_owned(),
        ),
    }
}

async fn exported(State(core): State<mpsc::Sender<Message>>) -> (StatusCode, String) {
    let Some(report) = report(&core).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    };
    match metrics::render(&report) {
        Ok(text) => (StatusCode::OK, text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_either_family_stands_before_the_port() {
        for (text, expected) in [
            ("192.0.2.1:9179", "192.0.2.1:9179"),
            ("[2001:db8::1]:9179", "[2001:db8::1]:9179"),
            ("2001:db8::1:9179", "[2001:db8::1]:9179"),
        ] {
            assert_eq!(address(text), Ok(expected.parse().unwrap()));
        }
        for wrong in ["192.0.2.1", ":9179", "host:9179", "192.0.2.1:99999"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
