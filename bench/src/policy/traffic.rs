//! TCP between two namespaces: how long bulk, one octet there and back, and a new connection take.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tests::netns::Netns;

use super::quantile;

/// Octets of bulk.
const BULK: usize = 32 << 20;
/// Of so many bulks the fastest counts: which processor the scheduler gives to whom makes more than all rules do.
const BULKS: usize = 7;
const PINGS: usize = 500;
const CONNECTIONS: usize = 60;
const PATIENCE: Duration = Duration::from_secs(10);

/// What was measured in one round.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    /// Seconds for the bulk.
    pub(crate) bulk: f64,
    /// Microseconds there and back, median.
    pub(crate) ping: f64,
    /// The same, the 99th of a hundred.
    pub(crate) slow_ping: f64,
    /// Microseconds until a connection stands, median.
    pub(crate) connect: f64,
}

impl Round {
    /// Octets of bulk a second, in GB.
    pub(crate) fn throughput(&self) -> f64 {
        BULK as f64 / self.bulk / 1e9
    }
}

/// A connection that stands between two namespaces.
pub(crate) struct Traffic {
    listener: TcpListener,
    end: SocketAddr,
    client: TcpStream,
    server: TcpStream,
}

impl Traffic {
    /// Opens the connection to an address of the second one.
    pub(crate) fn between((from, to): (&Netns, &Netns), end: SocketAddr) -> Result<Self> {
        let listener = to.inside(|| TcpListener::bind(end))??;
        let client = from.inside(|| TcpStream::connect_timeout(&end, PATIENCE))??;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self {
            listener,
            end,
            client,
            server,
        })
    }

    /// One of each; new connections come from `from`.
    pub(crate) fn round(&self, from: &Netns) -> Result<Round> {
        let pings = self.pings()?;
        let bulks = (0..BULKS)
            .map(|_| self.bulk())
            .collect::<Result<Vec<f64>>>()?;
        Ok(Round {
            bulk: quantile(&bulks, 0.0),
            ping: quantile(&pings, 0.5),
            slow_ping: quantile(&pings, 0.99),
            connect: quantile(&self.connects(from)?, 0.5),
        })
    }

    fn bulk(&self) -> Result<f64> {
        let start = Instant::now();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| -> std::io::Result<()> {
                let chunk = vec![0; 128 << 10];
                let mut stream = &self.client;
                for _ in 0..BULK / chunk.len() {
                    stream.write_all(&chunk)?;
                }
                Ok(())
            });
            let mut buffer = vec![0; 256 << 10];
            let mut left = BULK;
            while left > 0 {
                left = left.saturating_sub((&self.server).read(&mut buffer)?);
            }
            sender
                .join()
                .map_err(|_| anyhow!("the sender panicked"))??;
            Ok(start.elapsed().as_secs_f64())
        })
    }

    fn pings(&self) -> Result<Vec<f64>> {
        std::thread::scope(|scope| {
            let echo = scope.spawn(|| -> std::io::Result<()> {
                let mut octet = [0];
                for _ in 0..PINGS {
                    (&self.server).read_exact(&mut octet)?;
                    (&self.server).write_all(&octet)?;
                }
                Ok(())
            });
            let (mut times, mut octet) = (Vec::with_capacity(PINGS), [1]);
            for _ in 0..PINGS {
                let start = Instant::now();
                (&self.client).write_all(&octet)?;
                (&self.client).read_exact(&mut octet)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            echo.join().map_err(|_| anyhow!("the echo panicked"))??;
            Ok(times)
        })
    }

    pub(crate) fn connects(&self, from: &Netns) -> Result<Vec<f64>> {
        let connect = || -> Result<Vec<f64>> {
            let mut times = Vec::with_capacity(CONNECTIONS);
            for _ in 0..CONNECTIONS {
                let start = Instant::now();
                let stream = TcpStream::connect_timeout(&self.end, PATIENCE)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
                drop(self.listener.accept().context("a connection")?);
                drop(stream);
            }
            Ok(times)
        };
        from.inside(connect)?
    }
}
