//! Load generators, and what they say: wrk for HTTP/1.1, h2load for HTTP/2.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::lab::HOST;
use crate::policy::quantile;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    /// HTTP/1.1 in plain text.
    Http,
    /// HTTP/1.1 by TLS.
    Https,
    /// HTTP/2 by TLS.
    Http2,
}

/// What one run said.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Requests a second.
    pub(super) rate: f64,
    /// Microseconds.
    pub(super) p50: f64,
    /// Microseconds.
    pub(super) p99: f64,
    /// Requests that were not answered by 2xx.
    pub(super) failed: u64,
    /// The proxy's processor time a request, microseconds.
    pub(super) processor: f64,
    /// The proxy's peak, MiB.
    pub(super) memory: f64,
}

impl Load {
    pub(super) const ALL: [Self; 3] = [Self::Http, Self::Https, Self::Http2];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Http => "HTTP/1.1",
            Self::Https => "HTTP/1.1, TLS",
            Self::Http2 => "HTTP/2, TLS",
        }
    }

    pub(super) const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Http2)
    }

    /// Asks a port of this machine for so long.
    pub(super) fn run(self, port: u16, seconds: usize, folder: &Path) -> Result<Outcome> {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}/some/path?q=1");
        match self {
            Self::Http | Self::Https => wrk(&url, seconds),
            Self::Http2 => h2load(&url, seconds, folder),
        }
    }
}

fn wrk(url: &str, seconds: usize) -> Result<Outcome> {
    let header = format!("Host: {HOST}");
    let duration = format!("{seconds}s");
    let arguments = [
        "-t1",
        "-c32",
        "--latency",
        "-d",
        &duration,
        "-H",
        &header,
        url,
    ];
    let text = said("wrk", &arguments)?;
    let after = |start: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(start));
        line.map(|rest| rest.trim().to_owned())
    };
    let rate = after("Requests/sec:").and_then(|rate| rate.parse().ok());
    let time = |part: &str| after(part).and_then(|text| microseconds(&text));
    let errors = after("Non-2xx or 3xx responses:").and_then(|count| count.parse().ok());
    // Socket errors: connect 0, read 0, write 0, timeout 0
    let broken = after("Socket errors:").unwrap_or_default();
    let broken = broken.split(|c: char| !c.is_ascii_digit());
    let broken: u64 = broken.filter_map(|count| count.parse::<u64>().ok()).sum();
    let outcome = || {
        Some(Outcome {
            rate: rate?,
            p50: time("50%")?,
            p99: time("99%")?,
            failed: broken + errors.unwrap_or(0),
            ..Outcome::default()
        })
    };
    outcome().with_context(|| format!("wrk said {text}"))
}

fn h2load(url: &str, seconds: usize, folder: &Path) -> Result<Outcome> {
    let log = folder.join("h2load.log");
    let _ = std::fs::remove_file(&log);
    let file = log.display().to_string();
    let authority = format!(":authority: {HOST}");
    let duration = seconds.to_string();
    let arguments = [
        "-t1",
        "-c8",
        "-m8",
        "-D",
        &duration,
        "--log-file",
        &file,
        "-H",
        &authority,
        url,
    ];
    let text = said("h2load", &arguments)?;
    // Its start, its status, its microseconds; of each request.
    let lines = std::fs::read_to_string(&log)?;
    let mut times = Vec::new();
    let mut failed = 0;
    for line in lines.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (status, time) = (words.next(), words.next());
        match (status, time.and_then(|time| time.parse().ok())) {
            (Some("200"), Some(time)) => times.push(time),
            _ => failed += 1,
        }
    }
    ensure!(times.len() > 100, "h2load said {text}");
    Ok(Outcome {
        rate: times.len() as f64 / seconds as f64,
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
        failed,
        ..Outcome::default()
    })
}

fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("can't start {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {text}{problem}");
    Ok(text)
}

/// `950.00us`, `1.20ms`, `2.00s`.
fn microseconds(text: &str) -> Option<f64> {
    let (number, factor) = match text {
        text if text.ends_with("us") => (text.strip_suffix("us")?, 1.0),
        text if text.ends_with("ms") => (text.strip_suffix("ms")?, 1e3),
        text => (text.strip_suffix('s')?, 1e6),
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::microseconds;

    #[test]
    fn times_are_read_in_every_unit() {
        assert_eq!(microseconds("950.50us"), Some(950.5));
        assert_eq!(microseconds("1.25ms"), Some(1250.0));
        assert_eq!(microseconds("2.00s"), Some(2e6));
        assert_eq!(microseconds("soon"), None);
    }
}
