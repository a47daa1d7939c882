//! The process: what is known to what is served, from the first list to the last request.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::Args;
use crate::kubernetes::Verdict;
use crate::objects::Objects;
use crate::problem::Problem;
use crate::proxy::{
    AccessLog, Listeners, LogQueue, Numbers, Order, Resolver, Shared, Snapshot, Total, Worker,
    server_config,
};
use crate::settings::Settings;
use crate::source::{self, Event, Source};
use crate::status::{self, Status};
use crate::{Compiled, compile};

/// Where it goes what came of a compilation.
pub type Verdicts = watch::Sender<Option<Arc<Verdict>>>;

/// Changes that come together are compiled together.
const SETTLE: Duration = Duration::from_millis(10);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// A flag, a socket or the source is wrong.
pub async fn run(args: Args, source: Source, verdicts: Option<Verdicts>) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let (delay, patience) = args.drain()?;
    let (orders, received) = watch::channel(Order::Wait);
    let resolver = Arc::new(Resolver::default());
    let numbers: Arc<[Arc<Numbers>]> = (0..workers(args.workers)).map(|_| Arc::default()).collect();
    let shared = Arc::new(Shared {
        limits: args.limits()?,
        trusted: args.trusted_proxies.clone(),
        connections: AtomicUsize::new(0),
        is_leaving: AtomicBool::new(false),
        is_draining: AtomicBool::new(false),
        id: getrandom::u64().context("no random numbers")?,
        resolver: resolver.clone(),
    });
    let listeners = Listeners {
        http: listen(&args.http)?,
        https: listen(&args.https)?,
    };
    let (log, writer) = access_log(&args.access_log)?.unzip();
    let tls = server_config(resolver.clone())?;
    let workers = Worker::several(&listeners, &shared, &tls, &received, log.as_ref(), &numbers)?;
    drop((listeners, log, received));
    let threads = workers
        .into_iter()
        .map(|worker| {
            std::thread::Builder::new()
                .name("serve".to_owned())
                .spawn(|| worker.run())
        })
        .collect::<io::Result<Vec<_>>>()?;
    let status = Arc::new(Status::new(Total(numbers)));
    let socket = tokio::net::TcpListener::bind(args.status).await;
    let socket = socket.with_context(|| format!("--status: cannot listen on {}", args.status))?;
    tokio::spawn(status::serve(socket, status.clone()));
    let (sender, events) = mpsc::channel(source::QUEUE);
    let mut told = tokio::spawn(source.run(sender));
    let follow = tokio::spawn(follow(
        events,
        settings,
        orders.clone(),
        resolver,
        status.clone(),
        verdicts,
    ));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = &mut told => match ended {
            Ok(Err(error)) => return Err(error),
            _ => bail!("the source of objects has ended"),
        },
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    status.set_ready(false, "draining");
    shared.is_leaving.store(true, Ordering::Relaxed);
    tracing::info!(?delay, "draining: connections are still taken");
    tokio::time::sleep(delay).await;
    // What changes from here on is not followed: requests under way have their endpoints.
    follow.abort();
    orders.send_replace(Order::Drain);
    drain(threads, &shared, patience).await;
    if let Some(writer) = writer {
        let _ = tokio::task::spawn_blocking(move || writer.join()).await;
    }
    Ok(())
}

/// Follows the source: what it says is compiled, told and served.
async fn follow(
    mut events: mpsc::Receiver<Event>,
    settings: Settings,
    orders: watch::Sender<Order>,
    resolver: Arc<Resolver>,
    status: Arc<Status>,
    verdicts: Option<Verdicts>,
) {
    let mut objects = Objects::default();
    let mut problems = Vec::new();
    let mut is_in_sync = false;
    let mut batch = Vec::new();
    while events.recv_many(&mut batch, source::QUEUE).await > 0 {
        let mut is_changed = false;
        for event in batch.drain(..) {
            match event {
                Event::Change(change) => is_changed |= objects.apply(change),
                Event::Fault(why) => tracing::warn!("{why}"),
                Event::InSync => {
                    is_in_sync = true;
                    is_changed = true;
                }
            }
        }
        if !is_changed || !is_in_sync {
            continue;
        }
        if !events.is_empty() {
            continue;
        }
        let compiled = compile(&objects, &settings);
        tell(&compiled, &mut problems, &status);
        if let Some(verdicts) = &verdicts {
            verdicts.send_replace(Some(Arc::new(Verdict {
                served: compiled.served.clone(),
                problems: compiled.problems.clone(),
            })));
        }
        resolver.swap(compiled.certificates.clone());
        let snapshot = Snapshot {
            table: compiled.table,
            certificates: compiled.certificates,
        };
        orders.send_replace(Order::Serve(Arc::new(snapshot)));
        status.set_ready(true, "");
        tokio::time::sleep(SETTLE).await;
    }
}

/// Logs what is newly wrong and what is no longer.
fn tell(compiled: &Compiled, known: &mut Vec<Problem>, status: &Status) {
    for problem in compiled
        .problems
        .iter()
        .filter(|problem| !known.contains(problem))
    {
        tracing::warn!(object = %problem.object, reason = %problem.reason, "{}", problem.message);
    }
    for problem in known
        .iter()
        .filter(|problem| !compiled.problems.contains(problem))
    {
        tracing::info!(object = %problem.object, reason = %problem.reason, "is no longer so");
    }
    known.clone_from(&compiled.problems);
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    status.compiled.compilations.inc();
    status.compiled.ingresses.set(count(compiled.served.len()));
    status.compiled.problems.set(count(compiled.problems.len()));
    status
        .compiled
        .certificates
        .set(count(compiled.certificates.len()));
}

/// Waits until the workers have ended, at most so long.
async fn drain(threads: Vec<JoinHandle<io::Result<()>>>, shared: &Shared, patience: Duration) {
    let until = Instant::now() + patience;
    while threads.iter().any(|thread| !thread.is_finished()) {
        if Instant::now() > until {
            let left = shared.connections.load(Ordering::Relaxed);
            tracing::warn!(
                connections = left,
                "cut off: they took longer than --drain-timeout"
            );
            // Their threads hold the log; the process ends all the same.
            std::process::exit(0);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::info!("drained");
}

fn workers(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}

fn listen(addresses: &[SocketAddr]) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let listen = |address: &SocketAddr| -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(
            Domain::for_address(*address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // [::] is for IPv4, too, whatever the host's default.
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&(*address).into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    addresses
        .iter()
        .map(|address| listen(address).with_context(|| format!("cannot listen on {address}")))
        .collect()
}

/// The queue of the access log and the thread that writes it.
fn access_log(to: &str) -> anyhow::Result<Option<(LogQueue, JoinHandle<()>)>> {
    let out: Box<dyn Write + Send> = match to {
        "none" => return Ok(None),
        "-" => Box::new(io::stdout()),
        path => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Box::new(file.with_context(|| format!("--access-log: cannot open {path}"))?)
        }
    };
    let (queue, log) = AccessLog::new();
    let writer = std::thread::Builder::new().name("access-log".to_owned());
    Ok(Some((queue, writer.spawn(move || log.write_to(out))?)))
}
