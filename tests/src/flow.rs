//! Probes under load: flows of a planned rate, with what was sent, lost and leaked counted per flow.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, interval_at, sleep, timeout};

use crate::netns::{Netns, run};

/// Below the one second after which the kernel repeats a lost SYN, so that a lost SYN is a lost probe.
const PATIENCE: Duration = Duration::from_millis(900);

/// What a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each probe is a connection: handshake, echo, close.
    NewTcp,
    /// The same with a web server: `GET /`, and its 200.
    NewHttp,
    /// Each probe is a message on one connection. Lost are the segments, of both directions, that had to
    /// be sent again because they did not arrive, and messages without an answer.
    EstablishedTcp,
    /// Each probe is a datagram.
    Udp,
}

impl Kind {
    /// As the tables name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NewTcp => "new TCP",
            Self::NewHttp => "new HTTP",
            Self::EstablishedTcp => "established TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A flow to be measured.
#[derive(Clone, Debug)]
pub struct Flow {
    /// As the tables name it: `outside → shop/web`.
    pub name: String,
    /// What its probes are.
    pub kind: Kind,
    /// Whether policy allows it: a denied flow loses nothing, it can only leak.
    pub is_allowed: bool,
    /// The echo server.
    pub to: SocketAddr,
    /// The namespace the server is in: what it had to send again counts as well.
    pub server: String,
    /// Probes per second.
    pub rate: u32,
}

/// What came of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rate times duration.
    pub planned: u64,
    /// Probes that went out.
    pub sent: u64,
    /// Of an allowed flow: sent and not answered.
    pub lost: u64,
    /// Of a denied flow: sent and answered.
    pub leaked: u64,
}

impl Outcome {
    /// Whether at least 90 % of the plan was sent: less proves nothing.
    #[must_use]
    pub fn is_meaningful(&self) -> bool {
        self.sent * 10 >= self.planned * 9
    }
}

/// Sends every flow for `duration`, all at once, each from its namespace. `during` runs on this thread
/// meanwhile, after all have begun.
///
/// # Errors
/// When a namespace can't be entered, an established flow can't be established, or `during` fails.
pub fn measure(
    flows: &[(&Netns, Flow)],
    duration: Duration,
    during: impl FnOnce() -> Result<()>,
) -> Result<Vec<Outcome>> {
    measure_until(flows, &Until::new(Some(duration)), during)
}

/// Sends every flow as long as `during` runs, in whole seconds.
///
/// # Errors
/// As [`measure`].
pub fn measure_while(
    flows: &[(&Netns, Flow)],
    during: impl FnOnce() -> Result<()>,
) -> Result<Vec<Outcome>> {
    let until = Until::new(None);
    measure_until(flows, &until, || {
        // Told on a panic, too: the flows would never end.
        let _told = Told(&until);
        during()
    })
}

/// When flows end.
#[derive(Debug)]
struct Until {
    /// Whole seconds after the start; 0 as long as nobody knows.
    seconds: AtomicU64,
    start: Instant,
}

impl Until {
    fn new(duration: Option<Duration>) -> Self {
        Self {
            seconds: AtomicU64::new(duration.map_or(0, |duration| duration.as_secs())),
            start: Instant::now(),
        }
    }

    /// The probes of a flow, once it is known how long it lasts.
    fn planned(&self, flow: &Flow) -> Option<u64> {
        match self.seconds.load(Ordering::Relaxed) {
            0 => None,
            seconds => Some(u64::from(flow.rate) * seconds),
        }
    }

    /// Whether another probe is to be sent: one second of grace for a busy machine.
    fn goes_on(&self, flow: &Flow, sent: u64, begun: Instant) -> bool {
        let seconds = self.seconds.load(Ordering::Relaxed);
        let is_late = begun.elapsed() >= Duration::from_secs(seconds + 1);
        self.planned(flow)
            .is_none_or(|planned| sent < planned && !is_late)
    }
}

/// Tells the end when it is dropped.
struct Told<'a>(&'a Until);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let seconds = self.0.start.elapsed().as_secs().max(1);
        self.0.seconds.store(seconds, Ordering::Relaxed);
    }
}

fn measure_until(
    flows: &[(&Netns, Flow)],
    until: &Until,
    during: impl FnOnce() -> Result<()>,
) -> Result<Vec<Outcome>> {
    std::thread::scope(|scope| {
        let (ready, all_ready) = mpsc::channel();
        let threads: Vec<_> = flows
            .iter()
            .map(|(from, flow)| {
                let ready = Ready(ready.clone());
                scope.spawn(move || from.inside(|| send(from, flow, until, ready))?)
            })
            .collect();
        drop(ready);
        // Ends when each flow has dropped its `Ready`: at its first probe, or when it failed before.
        let _ = all_ready.recv();
        let happened = during();
        let mut outcomes = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => outcomes.push(outcome?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        happened?;
        Ok(outcomes)
    })
}

/// What a flow holds until it has its socket: a connection that is made while a link is down would fail.
struct Ready(#[expect(dead_code, reason = "dropped is told")] mpsc::Sender<Infallible>);

fn send(from: &Netns, flow: &Flow, until: &Until, ready: Ready) -> Result<Outcome> {
    // One thread, this one, which is in the namespace: every socket of the flow is made here.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answers = runtime.block_on(async {
        match flow.kind {
            Kind::NewTcp | Kind::NewHttp => {
                drop(ready);
                connect_each(flow, until).await
            }
            Kind::EstablishedTcp => talk_on_one(from, flow, until, ready).await,
            Kind::Udp => datagrams(flow, until, ready).await,
        }
    });
    let Answers { sent, unanswered } = answers.with_context(|| flow.name.clone())?;
    let mut outcome = Outcome {
        planned: until.planned(flow).unwrap_or_default(),
        sent,
        ..Outcome::default()
    };
    if flow.is_allowed {
        outcome.lost = unanswered;
    } else {
        outcome.leaked = sent - unanswered;
    }
    Ok(outcome)
}

struct Answers {
    sent: u64,
    unanswered: u64,
}

/// Ticks at the flow's rate, whatever the answers do; missed ticks are caught up with.
fn clock(flow: &Flow) -> tokio::time::Interval {
    let period = Duration::from_secs(1) / flow.rate.max(1);
    interval_at(Instant::now() + period, period)
}

async fn connect_each(flow: &Flow, until: &Until) -> Result<Answers> {
    let (mut ticks, begun) = (clock(flow), Instant::now());
    let mut attempts = tokio::task::JoinSet::new();
    let mut sent = 0;
    while until.goes_on(flow, sent, begun) {
        ticks.tick().await;
        let (to, words) = (flow.to, words(flow.kind));
        attempts.spawn(async move {
            let answer = timeout(PATIENCE, exchange(to, words)).await;
            matches!(answer, Ok(Ok(true)))
        });
        sent += 1;
    }
    let answered = attempts
        .join_all()
        .await
        .into_iter()
        .filter(|answered| *answered)
        .count();
    Ok(Answers {
        sent,
        unanswered: sent - answered as u64,
    })
}

/// What is sent on a new connection, and how many bytes of the answer have to end with what.
fn words(kind: Kind) -> (&'static [u8], usize, &'static [u8]) {
    match kind {
        Kind::NewHttp => (b"GET / HTTP/1.0\r\n\r\n", 12, b" 200"),
        _ => (b"probe", 5, b"probe"),
    }
}

async fn exchange(to: SocketAddr, (words, length, end): (&[u8], usize, &[u8])) -> Result<bool> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let mut stream = socket.connect(to).await?;
    stream.write_all(words).await?;
    let mut answer = vec![0_u8; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer.ends_with(end))
}

async fn datagrams(flow: &Flow, until: &Until, ready: Ready) -> Result<Answers> {
    let any: SocketAddr = if flow.to.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    }
    .parse()?;
    let socket = Arc::new(UdpSocket::bind(any).await?);
    socket.connect(flow.to).await?;
    drop(ready);
    let answered = Arc::new(Mutex::new(BTreeSet::new()));
    let reader = tokio::spawn(read_datagrams(Arc::clone(&socket), Arc::clone(&answered)));
    let (mut ticks, begun) = (clock(flow), Instant::now());
    let mut sent = 0_u64;
    while until.goes_on(flow, sent, begun) {
        ticks.tick().await;
        // A refusal is as good as a loss: the number stays unanswered.
        let _ = socket.send(&sent.to_be_bytes()).await;
        sent += 1;
    }
    sleep(PATIENCE).await;
    reader.abort();
    let answered = answered
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .len() as u64;
    Ok(Answers {
        sent,
        unanswered: sent.saturating_sub(answered),
    })
}

async fn read_datagrams(socket: Arc<UdpSocket>, answered: Arc<Mutex<BTreeSet<[u8; 8]>>>) {
    let mut buffer = [0_u8; 8];
    loop {
        if socket
            .recv(&mut buffer)
            .await
            .is_ok_and(|length| length == buffer.len())
        {
            answered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(buffer);
        }
    }
}

async fn talk_on_one(from: &Netns, flow: &Flow, until: &Until, ready: Ready) -> Result<Answers> {
    let stream = timeout(PATIENCE, TcpStream::connect(flow.to))
        .await
        .context("connect")??;
    stream.set_nodelay(true)?;
    drop(ready);
    let local = stream.local_addr()?;
    let (mut reader, mut writer) = stream.into_split();
    let echoed = Arc::new(Mutex::new(0_u64));
    let count = Arc::clone(&echoed);
    let task = tokio::spawn(async move {
        let mut buffer = [0_u8; 8];
        while reader.read_exact(&mut buffer).await.is_ok() {
            *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    });
    let (mut ticks, begun) = (clock(flow), Instant::now());
    let mut sent = 0_u64;
    while until.goes_on(flow, sent, begun) {
        ticks.tick().await;
        if writer.write_all(&sent.to_be_bytes()).await.is_err() {
            break;
        }
        sent += 1;
    }
    // A retransmission still under way answers within the kernel's next two timers.
    sleep(PATIENCE).await;
    let unanswered = sent.saturating_sub(*echoed.lock().unwrap_or_else(PoisonError::into_inner));
    let again = resent_segments(from.name(), &format!("sport = :{}", local.port()))?
        + resent_segments(&flow.server, &format!("dport = :{}", local.port()))?;
    drop(writer);
    task.abort();
    Ok(Answers {
        sent,
        unanswered: unanswered.max(again),
    })
}

/// Segments that the sockets of a filter had to send again, without those the receiver reported to have had
/// already (a probe of the kernel's own against a late acknowledgement).
fn resent_segments(netns: &str, filter: &str) -> Result<u64> {
    let text = run(
        "ip",
        &[
            "netns",
            "exec",
            netns,
            "ss",
            "-tinH",
            "state",
            "established",
            filter,
        ],
    )?;
    let sum = |name: &str| -> Result<u64> {
        let values = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(name));
        // `retrans:` is "now/in all".
        values
            .map(|v| Ok(v.rsplit('/').next().unwrap_or(v).parse::<u64>()?))
            .sum()
    };
    Ok(sum("retrans:")?.saturating_sub(sum("dsack_dups:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_nine_tenths_of_the_plan_is_not_meaningful() {
        let outcome = |sent| Outcome {
            planned: 100,
            sent,
            ..Outcome::default()
        };
        assert!(outcome(90).is_meaningful());
        assert!(!outcome(89).is_meaningful());
    }
}
