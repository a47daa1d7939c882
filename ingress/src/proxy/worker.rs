//! A worker: one thread, one runtime; it accepts connections, keeps watch over them, and drains them when it is told to.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::HeaderValue;
use rustls::ServerConfig;
use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::log::LogBuffer;
use super::numbers::Numbers;
use super::pool::Pool;
use super::stream::{Activity, State};
use super::{LogQueue, Shared, Snapshot, connection};

/// How often connections are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How many connections wait for a worker that another accepted for.
const HANDED_OVER: usize = 1024;

/// What the workers are told.
#[derive(Clone, Debug)]
pub enum Order {
    /// Nothing is known yet: nobody is accepted.
    Wait,
    /// Serve this.
    Serve(Arc<Snapshot>),
    /// Accept no more, finish what is under way.
    Drain,
}

/// The sockets that clients connect to.
#[derive(Debug)]
pub struct Listeners {
    /// Plain text.
    pub http: Vec<std::net::TcpListener>,
    /// TLS.
    pub https: Vec<std::net::TcpListener>,
}

impl Listeners {
    fn again(&self) -> io::Result<Self> {
        let again = |sockets: &[std::net::TcpListener]| -> io::Result<Vec<_>> {
            sockets
                .iter()
                .map(std::net::TcpListener::try_clone)
                .collect()
        };
        Ok(Self {
            http: again(&self.http)?,
            https: again(&self.https)?,
        })
    }
}

/// A connection that one worker accepted for another.
struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    is_tls: bool,
}

/// A worker before its thread.
pub struct Worker {
    listeners: Listeners,
    shared: Arc<Shared>,
    tls: Arc<ServerConfig>,
    orders: watch::Receiver<Order>,
    log: Option<LogQueue>,
    numbers: Arc<Numbers>,
    loads: Arc<[AtomicUsize]>,
    own: usize,
    inbox: mpsc::Receiver<Accepted>,
    others: Vec<mpsc::Sender<Accepted>>,
}

/// What a worker's tasks share; it never leaves its thread.
pub(super) struct Local {
    pub(super) shared: Arc<Shared>,
    pub(super) snapshot: RefCell<Rc<Served>>,
    pub(super) pool: Rc<Pool>,
    pub(super) numbers: Arc<Numbers>,
    pub(super) log: RefCell<LogBuffer>,
    pub(super) next_id: Cell<u64>,
    connections: RefCell<Slab<Rc<Watched>>>,
    tls: TlsAcceptor,
    loads: Arc<[AtomicUsize]>,
    own: usize,
}

/// What is served, as the requests of one worker hold it: without a count that other cores write, too.
#[derive(Default)]
pub(super) struct Served(pub(super) Arc<Snapshot>);

/// A connection of a client, as its worker watches it.
pub(super) struct Watched {
    pub(super) activity: Arc<Activity>,
    pub(super) verdict: Cell<Verdict>,
    pub(super) waker: RefCell<Option<Waker>>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Stay,
    /// It ends when its requests have.
    Finish,
    /// It ends now.
    Cut,
}

impl Worker {
    /// As many as `numbers` has members, all accepting from the same sockets.
    ///
    /// # Errors
    /// A socket cannot be shared.
    pub fn several(
        listeners: &Listeners,
        shared: &Arc<Shared>,
        tls: &Arc<ServerConfig>,
        orders: &watch::Receiver<Order>,
        log: Option<&LogQueue>,
        numbers: &[Arc<Numbers>],
    ) -> io::Result<Vec<Self>> {
        let loads: Arc<[AtomicUsize]> = numbers.iter().map(|_| AtomicUsize::new(0)).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            numbers.iter().map(|_| mpsc::channel(HANDED_OVER)).unzip();
        let workers = receivers.into_iter().zip(numbers).enumerate();
        workers
            .map(|(own, (inbox, numbers))| {
                Ok(Self {
                    listeners: listeners.again()?,
                    shared: shared.clone(),
                    tls: tls.clone(),
                    orders: orders.clone(),
                    log: log.cloned(),
                    numbers: numbers.clone(),
                    loads: loads.clone(),
                    own,
                    inbox,
                    others: senders.clone(),
                })
            })
            .collect()
    }

    /// Serves until it is told to drain and has drained. Call it on a thread of its own.
    ///
    /// # Errors
    /// The runtime or a socket fails.
    pub fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(31)
            .build_local(tokio::runtime::LocalOptions::default())?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> io::Result<()> {
        let local = Rc::new(Local {
            pool: Rc::new(Pool::new(self.shared.limits.clone(), self.numbers.clone())),
            shared: self.shared,
            snapshot: RefCell::default(),
            numbers: self.numbers,
            log: RefCell::new(LogBuffer::new(self.log)),
            next_id: Cell::new(0),
            connections: RefCell::default(),
            tls: TlsAcceptor::from(self.tls),
            loads: self.loads,
            own: self.own,
        });
        let mut orders = self.orders;
        // Who connects before everything is known waits in the socket's queue.
        let first = orders.wait_for(|order| !matches!(order, Order::Wait)).await;
        let first = first.map(|order| order.clone()).unwrap_or(Order::Drain);
        local.obey(&first);
        let mut accepting = Vec::new();
        for (sockets, is_tls) in [(self.listeners.http, false), (self.listeners.https, true)] {
            for socket in sockets {
                let listener = TcpListener::from_std(socket)?;
                let task = accept(local.clone(), listener, is_tls, self.others.clone());
                accepting.push(tokio::task::spawn_local(task));
            }
        }
        accepting.push(tokio::task::spawn_local(take_over(
            local.clone(),
            self.inbox,
        )));
        let mut ticks = tokio::time::interval(TICK);
        while !local.is_draining() {
            tokio::select! {
                changed = orders.changed() => {
                    let order = orders.borrow_and_update().clone();
                    local.obey(if changed.is_ok() { &order } else { &Order::Drain });
                }
                _ = ticks.tick() => local.tick(Instant::now()),
            }
        }
        local.obey(&Order::Drain);
        for task in accepting {
            task.abort();
        }
        while !local.connections.borrow().is_empty() {
            ticks.tick().await;
            local.tick(Instant::now());
        }
        local.flush_log();
        Ok(())
    }
}

impl Local {
    fn is_draining(&self) -> bool {
        self.shared.is_draining.load(Ordering::Relaxed)
    }

    fn obey(&self, order: &Order) {
        match order {
            Order::Wait => {}
            Order::Serve(snapshot) => {
                self.pool.keep_only(
                    snapshot
                        .table
                        .routes()
                        .flat_map(|route| route.backend.endpoints.iter().copied()),
                );
                *self.snapshot.borrow_mut() = Rc::new(Served(snapshot.clone()));
            }
            Order::Drain => {
                self.shared.is_draining.store(true, Ordering::Relaxed);
                for (_, connection) in &*self.connections.borrow() {
                    connection.judge(Verdict::Finish);
                }
            }
        }
    }

    /// Ends what has waited too long, and hands on what was logged.
    fn tick(&self, now: Instant) {
        let limits = &self.shared.limits;
        for (_, connection) in &*self.connections.borrow() {
            let verdict = match connection.activity.state(now) {
                State::Busy(quiet) if quiet > limits.stream_idle.max(limits.response) => {
                    Verdict::Cut
                }
                State::Head(since) if since > limits.head => Verdict::Cut,
                State::Idle(since) if since > limits.keep_alive => Verdict::Finish,
                _ => continue,
            };
            self.numbers.timed_out(verdict == Verdict::Cut);
            connection.judge(verdict);
        }
        self.pool.tick(now);
        self.flush_log();
    }

    fn flush_log(&self) {
        let lost = self.log.borrow_mut().flush();
        self.numbers.lines_lost(lost);
    }

    /// A number that no other request has, in 32 hexadecimal digits.
    pub(super) fn request_id(&self) -> HeaderValue {
        let number = self.next_id.get();
        self.next_id.set(number + 1);
        let own = u64::try_from(self.own).unwrap_or_default();
        let second = (own << 48) | (number & 0xffff_ffff_ffff);
        let mut digits = [0; 32];
        let mut rest = (u128::from(self.shared.id) << 64) | u128::from(second);
        for digit in digits.iter_mut().rev() {
            let nibble = u8::try_from(rest & 0xf).unwrap_or_default();
            *digit = nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
            rest >>= 4;
        }
        HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }

    pub(super) fn tls(&self) -> &TlsAcceptor {
        &self.tls
    }
}

impl Watched {
    /// The task of a connection never changes: who is to be woken is noted once.
    pub(super) fn note(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.is_none() {
            *waker = Some(cx.waker().clone());
        }
    }

    fn judge(&self, verdict: Verdict) {
        if self.verdict.get() == verdict || self.verdict.get() == Verdict::Cut {
            return;
        }
        self.verdict.set(verdict);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// A place among the connections, given back when it is dropped.
pub(super) struct Place {
    local: Rc<Local>,
    key: usize,
    pub(super) watched: Rc<Watched>,
}

impl Place {
    fn new(local: &Rc<Local>) -> Self {
        let verdict = match local.is_draining() {
            true => Verdict::Finish,
            false => Verdict::Stay,
        };
        let watched = Rc::new(Watched {
            activity: Activity::new(Instant::now()),
            verdict: Cell::new(verdict),
            waker: RefCell::new(None),
        });
        let key = local.connections.borrow_mut().insert(watched.clone());
        local.numbers.connection_opened();
        Self {
            local: local.clone(),
            key,
            watched,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.local.connections.borrow_mut().try_remove(self.key);
        self.local.numbers.connection_closed();
        self.local
            .shared
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        if let Some(load) = self.local.loads.get(self.local.own) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Accepts, and leaves a connection to the worker that has the fewest: their loads stay level however the kernel wakes them.
async fn accept(
    local: Rc<Local>,
    listener: TcpListener,
    is_tls: bool,
    workers: Vec<mpsc::Sender<Accepted>>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: without a pause the loop would eat the core that could free some.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let most = local.shared.limits.connections;
        if local.shared.connections.fetch_add(1, Ordering::Relaxed) >= most {
            local.shared.connections.fetch_sub(1, Ordering::Relaxed);
            local.numbers.connection_refused();
            continue;
        }
        let loads = local.loads.iter().map(|load| load.load(Ordering::Relaxed));
        let least = loads
            .enumerate()
            .min_by_key(|(index, load)| (*load, *index != local.own));
        let chosen = least.map_or(local.own, |(index, _)| index);
        if let Some(load) = local.loads.get(chosen) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        if chosen == local.own {
            start(&local, stream, peer, is_tls);
            continue;
        }
        let handed = stream.into_std().ok().zip(workers.get(chosen));
        let sent = handed.is_some_and(|(stream, worker)| {
            worker
                .try_send(Accepted {
                    stream,
                    peer,
                    is_tls,
                })
                .is_ok()
        });
        if !sent {
            local.shared.connections.fetch_sub(1, Ordering::Relaxed);
            local.numbers.connection_refused();
            if let Some(load) = local.loads.get(chosen) {
                load.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

async fn take_over(local: Rc<Local>, mut inbox: mpsc::Receiver<Accepted>) {
    while let Some(accepted) = inbox.recv().await {
        match TcpStream::from_std(accepted.stream) {
            Ok(stream) => start(&local, stream, accepted.peer, accepted.is_tls),
            Err(error) => tracing::warn!(%error, "cannot take over a connection"),
        }
    }
}

fn start(local: &Rc<Local>, stream: TcpStream, peer: SocketAddr, is_tls: bool) {
    let place = Place::new(local);
    tokio::task::spawn_local(connection::serve(
        local.clone(),
        place,
        stream,
        peer,
        is_tls,
    ));
}
