//! Others that read the same API server: client-go's informers, and sources of many agents in one process.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use ::tests::netns::Netns;
use ::tests::process::MARK;
use anyhow::{Context as _, Result, ensure};

use super::lab::{Lab, Memory, Reader, Start, received};
use super::{Costs, under_churn};
use crate::daemon::beside;
use crate::usage::with_programs;

/// A reader that is in sync; dropping it ends it.
pub(super) struct Beside {
    process: Child,
    // It ends when this does.
    _input: Option<ChildStdin>,
    netns: Netns,
    start: Start,
}

impl Beside {
    /// client-go's informers; none where they were not built.
    pub(super) fn informers(lab: &Lab) -> Result<Option<Self>> {
        let Ok(program) = beside("portolan-informers") else {
            return Ok(None);
        };
        let kubeconfig = lab.kubeconfig();
        let words = [kubeconfig.to_str().context("a path")?];
        let program = program.to_str().context("a path")?.to_owned();
        Self::start(lab, 1, &program, &words, 1).map(Some)
    }

    /// So many sources; memory is what the API server has more.
    pub(super) fn readers(lab: &Lab, count: usize) -> Result<Self> {
        let program = beside("portolan-reader")?;
        let kubeconfig = lab.kubeconfig();
        let number = count.to_string();
        let words = [
            "--kubeconfig",
            kubeconfig.to_str().context("a path")?,
            "--count",
            &number,
        ];
        let program = program.to_str().context("a path")?.to_owned();
        let before = lab.server()?.memory_now()?;
        let mut readers = Self::start(lab, 2, &program, &words, count)?;
        let more = lab.server()?.memory_now()?.saturating_sub(before);
        readers.start.memory.resident = more << 10;
        Ok(readers)
    }

    /// Starts it and waits until it has said so often that it is in sync.
    fn start(lab: &Lab, number: u8, program: &str, words: &[&str], times: usize) -> Result<Self> {
        let netns = lab.beside(number)?;
        let octets = received(&netns)?;
        let server = lab.server()?;
        let begin = Instant::now();
        let mut process = netns
            .command(program)
            .args(words)
            .env(MARK, std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| program.to_owned())?;
        let input = process.stdin.take();
        let output = process.stdout.take().context("its output")?;
        let mut lines = BufReader::new(output).lines();
        for _ in 0..times {
            let line = lines
                .next()
                .with_context(|| format!("{program} has ended"))??;
            ensure!(line.starts_with("synced "), "{program}: {line}");
        }
        let seconds = begin.elapsed().as_secs_f64();
        let id = i32::try_from(process.id())?;
        let start = Start {
            seconds,
            processor: with_programs(id)?.as_secs_f64(),
            server: server.usage()?.daemon.as_secs_f64(),
            octets: received(&netns)? - octets,
            memory: Memory::of(id)?,
        };
        Ok(Self {
            process,
            _input: input,
            netns,
            start,
        })
    }

    /// What it took to be in sync, and what it costs under churn.
    pub(super) fn cost(
        &self,
        lab: &Lab,
        used: &AtomicUsize,
        lasts: Duration,
    ) -> Result<(Start, Costs)> {
        let reader = Reader {
            netns: &self.netns,
            process: i32::try_from(self.process.id())?,
        };
        let costs = under_churn(lab, used, lasts, Some(reader))?;
        Ok((self.start, costs))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
