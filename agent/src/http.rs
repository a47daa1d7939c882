//! `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::message::Message;
use crate::report::Report;

/// The core must answer within this, or the agent is not alive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until the process ends.
///
/// # Errors
/// If the address cannot be used.
pub(crate) async fn listen(address: SocketAddr, core: mpsc::Sender<Message>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve metrics on {address}: choose another --metrics"))?;
    info!(%address, "serving /metrics, /livez and /readyz");
    let app = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
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
            let why = if report.errors.is_empty() {
                "sources are not in sync, or the first program is not in the kernel".to_owned()
            } else {
                report.errors.join("\n")
            };
            (StatusCode::SERVICE_UNAVAILABLE, why + "\n")
        }
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent's core does not answer\n".to_owned(),
        ),
    }
}

async fn metrics(State(core): State<mpsc::Sender<Message>>) -> (StatusCode, String) {
    let Some(report) = report(&core).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    };
    match render(&report) {
        Ok(text) => (StatusCode::OK, text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    }
}

/// Gauges of the present state; no pod names as labels.
fn render(report: &Report) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("portolan");
    let policy = &report.policy;
    let single: [(&str, &str, usize); 9] = [
        (
            "agent_ready",
            "1 if the present state is in the kernel",
            usize::from(report.ready),
        ),
        ("agent_problems", "Problems of inputs", problems(report)),
        (
            "cni_endpoints",
            "Pod attachments of this node",
            report.endpoints.len(),
        ),
        (
            "routes_desired",
            "Routes that are to be in the kernel",
            report.routes.desired,
        ),
        (
            "routes_installed",
            "Routes of ours in the kernel",
            report.routes.in_kernel,
        ),
        (
            "routes_failed",
            "Routes that could not be written",
            report.routes.failed.len(),
        ),
        ("policy_policies", "NetworkPolicies known", policy.policies),
        ("policy_chains", "Chains of ours", policy.chains),
        ("policy_sets", "Sets of ours", policy.sets),
    ];
    for (name, help, value) in single {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let apply: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
    apply.set(Duration::from_millis(policy.last_apply_milliseconds).as_secs_f64());
    registry.register_with_unit(
        "policy_last_apply",
        "Time of the last write",
        Unit::Seconds,
        apply,
    );
    sessions(report, &mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn problems(report: &Report) -> usize {
    report.errors.len()
        + report.policy.unsupported.len()
        + report
            .sources
            .iter()
            .map(|source| source.problems.len())
            .sum::<usize>()
}

type PeerLabel = Vec<(String, String)>;

fn sessions(report: &Report, registry: &mut Registry) {
    let up = Family::<PeerLabel, Gauge>::default();
    let received = Family::<PeerLabel, Gauge>::default();
    let sent = Family::<PeerLabel, Gauge>::default();
    for session in &report.sessions {
        let label = vec![("peer".to_owned(), session.name.clone())];
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        up.get_or_create(&label)
            .set(i64::from(session.state == "Established"));
        received
            .get_or_create(&label)
            .set(number(session.prefixes_received));
        sent.get_or_create(&label)
            .set(number(session.prefixes_sent));
    }
    registry.register(
        "bgp_session_established",
        "1 if the session is Established",
        up,
    );
    registry.register(
        "bgp_prefixes_received",
        "Prefixes accepted from the peer",
        received,
    );
    registry.register("bgp_prefixes_sent", "Prefixes announced to the peer", sent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_name_the_part_and_the_unit_and_no_pod() {
        let text = render(&crate::report::tests::example()).unwrap();
        assert!(
            text.contains("portolan_bgp_session_established{peer=\"tor\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("portolan_policy_last_apply_seconds 0.012"),
            "{text}"
        );
        assert!(text.contains("portolan_agent_problems 1"), "{text}");
        assert!(!text.contains("web"), "{text}");
    }
}
