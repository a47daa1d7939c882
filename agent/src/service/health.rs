//! Answers load balancers that ask whether this node has endpoints of a Service (`healthCheckNodePort`), and whether its
//! rules are in force at all (`/healthz`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::NamespacedName;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use services::proxy::health::{HealthCheck, WEIGHT_HEADER};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::soundness::Soundness;

/// How soon a port that another has is asked for again.
const RETRY: Duration = Duration::from_secs(5);
/// So many connections may wait for each port.
const BACKLOG: u32 = 64;

/// What load balancers ask this node, by Service.
pub(crate) type HealthChecks = BTreeMap<NamespacedName, HealthCheck>;

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthReport {
    /// Ports that are listened at.
    pub(crate) ports: usize,
    /// Services whose port cannot be had, and why.
    pub(crate) refused: BTreeMap<NamespacedName, String>,
    /// How many times was answered since the start: that there are endpoints, and that there are none.
    pub(crate) answered: Arc<Answered>,
}

/// Counts of answers.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// 200.
    pub(crate) healthy: AtomicU64,
    /// 503.
    pub(crate) unhealthy: AtomicU64,
}

impl Answered {
    /// Both.
    pub(super) fn counts(&self) -> [u64; 2] {
        [&self.healthy, &self.unhealthy].map(|count| count.load(Ordering::Relaxed))
    }
}

/// A port that is listened at: of one Service as long as it has it.
struct Open {
    port: u16,
    /// What is to be answered.
    check: watch::Sender<HealthCheck>,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

/// What an answer is made of.
#[derive(Clone)]
struct Asked {
    service: NamespacedName,
    check: watch::Receiver<HealthCheck>,
    soundness: Soundness,
    answered: Arc<Answered>,
}

/// Listens at what is wanted, until its sender is gone.
pub(crate) async fn run_task(
    mut wanted: watch::Receiver<Arc<HealthChecks>>,
    report: watch::Sender<HealthReport>,
    soundness: Soundness,
) {
    let answered = Arc::clone(&report.borrow().answered);
    let mut open: BTreeMap<NamespacedName, Open> = BTreeMap::new();
    loop {
        let goal = Arc::clone(&wanted.borrow_and_update());
        // First what goes: its port may be another's now.
        open.retain(|name, held| goal.get(name).is_some_and(|check| check.port == held.port));
        let mut refused = BTreeMap::new();
        for (name, check) in goal.iter() {
            if let Some(held) = open.get(name) {
                held.check.send_if_modified(|old| {
                    let is_new = old != check;
                    old.clone_from(check);
                    is_new
                });
                continue;
            }
            match listen(name, check, (&soundness, &answered)) {
                Ok(held) => drop(open.insert(name.clone(), held)),
                Err(why) => drop(refused.insert(name.clone(), why)),
            }
        }
        tell(&report, open.len(), refused);
        let is_whole = report.borrow().refused.is_empty();
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if !is_whole => {}
        }
    }
}

fn tell(
    report: &watch::Sender<HealthReport>,
    ports: usize,
    refused: BTreeMap<NamespacedName, String>,
) {
    report.send_if_modified(|state| {
        for (name, why) in &refused {
            if state.refused.get(name) != Some(why) {
                warn!("{why}");
            }
        }
        let is_new = state.ports != ports || state.refused != refused;
        if is_new {
            info!(ports, "ports for health checks of Services");
        }
        (state.ports, state.refused) = (ports, refused);
        is_new
    });
}

fn listen(
    service: &NamespacedName,
    check: &HealthCheck,
    (soundness, answered): (&Soundness, &Arc<Answered>),
) -> Result<Open, String> {
    let listeners = bind_all(check.port).map_err(|error| {
        format!(
            "Service {service}: its healthCheckNodePort {} cannot be served on this node: {error}; end what listens there, or give the Service another one",
            check.port
        )
    })?;
    let (sender, receiver) = watch::channel(check.clone());
    let asked = Asked {
        service: service.clone(),
        check: receiver,
        soundness: soundness.clone(),
        answered: Arc::clone(answered),
    };
    let app = Router::new().fallback(answer).with_state(asked);
    let serve = |listener: TcpListener| {
        let app = app.clone();
        tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        })
    };
    Ok(Open {
        port: check.port,
        check: sender,
        servers: listeners.into_iter().map(serve).collect(),
    })
}

/// Listens at a port of all this node's addresses. A kernel without IPv6 has those of IPv4 alone.
///
/// # Errors
/// If another listens there in either family.
pub(super) fn bind_all(port: u16) -> std::io::Result<Vec<TcpListener>> {
    let v4 = bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
    let mut listeners = vec![v4];
    match bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
        Ok(v6) => listeners.push(v6),
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {}
        Err(error) => return Err(error),
    }
    Ok(listeners)
}

/// One listener of one family.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6V6Only, &true)?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The same for every path and method, as load balancers ask what their makers like.
async fn answer(State(asked): State<Asked>) -> Response {
    let is_healthy = asked.soundness.now().rules_are_in_force();
    let answer = asked.check.borrow().answer(&asked.service, is_healthy);
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let count = match status {
        StatusCode::OK => &asked.answered.healthy,
        _ => &asked.answered.unhealthy,
    };
    count.fetch_add(1, Ordering::Relaxed);
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/json".to_owned()),
        (
            header::X_CONTENT_TYPE_OPTIONS.as_str(),
            "nosniff".to_owned(),
        ),
        (WEIGHT_HEADER, answer.weight.to_string()),
    ];
    (status, headers, answer.body + "\n").into_response()
}
