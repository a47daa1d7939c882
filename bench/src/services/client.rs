//! A pod of the node that asks Services, and endpoints that say which of them they are.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::tests::netns::Netns;
use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::objects::{PER_SERVICE, PORT, TARGET, cluster_ip, endpoint};
use crate::random::Random;

/// One connection takes no longer; a whole second is what TCP waits before it asks again.
const PATIENCE: Duration = Duration::from_millis(900);
/// Between two looks at what is not there yet.
const PAUSE: Duration = Duration::from_millis(1);
/// A connection to what is not served yet takes no longer: TCP minds no ICMP error, and would wait for a second.
const GLANCE: Duration = Duration::from_millis(10);

/// All endpoints in one: who connects is told which of them it has reached.
pub(super) struct Endpoints {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    at: SocketAddr,
}

impl Endpoints {
    pub(super) fn start(netns: &Netns) -> Result<Self> {
        let listener = netns.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET)))??;
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = is_over.clone();
        let thread = std::thread::spawn(move || serve(&listener, &flag));
        Ok(Self {
            is_over,
            thread: Some(thread),
            at,
        })
    }
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoints at {}", self.at)
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say but that it has ended.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, is_over: &AtomicBool) {
    let mut waiting = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(listener),
        nix::poll::PollFlags::POLLIN,
    )];
    while !is_over.load(Ordering::Relaxed) {
        // An interrupted wait is a look too early, no more.
        let _ = nix::poll::poll(&mut waiting, 100_u8);
        while let Ok((mut stream, _)) = listener.accept() {
            if let Ok(SocketAddr::V4(own)) = stream.local_addr() {
                // Who has gone away needs no answer.
                let _ = stream.write_all(&own.ip().octets());
            }
        }
    }
}

/// Asks a Service once: which endpoint answered, and after how many seconds the connection stood.
fn ask(number: usize, patience: Duration) -> Result<(Ipv4Addr, f64)> {
    let to = SocketAddr::from((cluster_ip(number), PORT));
    let begin = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    let took = begin.elapsed().as_secs_f64();
    stream.set_read_timeout(Some(PATIENCE))?;
    // Nothing is left of it: ports are few.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    let mut octets = [0; 4];
    stream.read_exact(&mut octets)?;
    Ok((Ipv4Addr::from(octets), took))
}

/// Waits until each of these Services answers; seconds since `begin`. None when that was too long.
pub(super) fn wait_for(
    client: &Netns,
    numbers: &[usize],
    begin: Instant,
    most: Duration,
) -> Result<Option<f64>> {
    client.inside(|| {
        for number in numbers {
            while ask(*number, GLANCE).is_err() {
                if begin.elapsed() > most {
                    return None;
                }
                std::thread::sleep(PAUSE);
            }
        }
        Some(begin.elapsed().as_secs_f64())
    })
}

/// Waits until this endpoint answers for a Service; milliseconds since `begin`.
pub(super) fn wait_for_endpoint(
    client: &Netns,
    number: usize,
    of: usize,
    begin: Instant,
    most: Duration,
) -> Result<f64> {
    client.inside(|| {
        loop {
            match ask(number, GLANCE) {
                Ok((address, _)) if address == endpoint(number, of) => {
                    return Ok(begin.elapsed().as_secs_f64() * 1e3);
                }
                last => ensure!(begin.elapsed() < most, "not after {most:?}: {last:?}"),
            }
        }
    })?
}

/// How connections went that were opened one after the other.
#[derive(Debug, Default)]
pub(super) struct Connects {
    /// Microseconds until each stood.
    pub(super) times: Vec<f64>,
    /// Connections a second: opened, answered and closed.
    pub(super) rate: f64,
}

/// Connects so often, each time to a Service by chance. Each must be answered by one of its own endpoints.
pub(super) fn connects(client: &Netns, services: usize, count: usize) -> Result<Connects> {
    client.inside(|| {
        let begin = Instant::now();
        let mut random = Random::new(7);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let number = random.below(services as u32) as usize;
            let (address, took) =
                ask(number, PATIENCE).with_context(|| format!("Service {number}"))?;
            let is_its = (0..PER_SERVICE).any(|of| endpoint(number, of) == address);
            ensure!(is_its, "Service {number} is answered by {address}");
            times.push(took * 1e6);
        }
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        Ok(Connects { times, rate })
    })?
}
