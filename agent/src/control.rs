//! The agent's own socket: `status`, `sync`, `bgp`, `ipam` and `policy` for the command line, one JSON line in, one out; and its client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::bgp::{self, BgpAnswer, BgpQuestion};
use crate::cni;
use crate::drops::DropsAnswer;
use crate::ipam::{self, IpamAnswer, IpamQuestion};
use crate::message::Message;
use crate::policy::{self, PolicyAnswer, PolicyQuestion};
use crate::report::Report;
use crate::service::{self, ServiceAnswer, ServiceQuestion};

/// The socket's name in the run folder.
pub(crate) const SOCKET: &str = "agent.sock";
/// A manifest of 1 MiB, however much of it is quoted.
const REQUEST_LIMIT: u64 = 8 << 20;

/// What the command line asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
enum Question {
    Status,
    Sync { timeout_milliseconds: u64 },
    Bgp { question: BgpQuestion },
    Drops { since: u64 },
    Ipam { question: IpamQuestion },
    Policy { question: PolicyQuestion },
    Service { question: ServiceQuestion },
    RotateKeys,
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Status(Box<Report>),
    Bgp(Box<BgpAnswer>),
    Drops(Box<DropsAnswer>),
    Ipam(Box<IpamAnswer>),
    Policy(Box<PolicyAnswer>),
    Service(Box<ServiceAnswer>),
    Synced,
    Asked,
    Error(String),
}

/// Prints the agent's report.
///
/// # Errors
/// If no agent answers.
pub(crate) fn print_status(run_dir: &Path, json: bool) -> anyhow::Result<()> {
    let report = report(run_dir)?;
    let text = if json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.table()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Asks for the agent's report.
///
/// # Errors
/// If no agent answers.
pub(crate) fn report(run_dir: &Path) -> anyhow::Result<Report> {
    match ask(run_dir, &Question::Status, Duration::from_secs(10))? {
        Answer::Status(report) => Ok(*report),
        Answer::Error(error) => anyhow::bail!("{error}"),
        _ => anyhow::bail!("the agent answered something else"),
    }
}

/// Waits until all that the source holds now is in the kernel.
///
/// # Errors
/// If it is not so within `timeout`; the text says what is missing.
pub(crate) fn sync(run_dir: &Path, timeout: Duration) -> anyhow::Result<()> {
    let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let question = Question::Sync {
        timeout_milliseconds: milliseconds,
    };
    match ask(run_dir, &question, timeout + Duration::from_secs(5))? {
        Answer::Synced => Ok(()),
        Answer::Error(error) => anyhow::bail!("not in the kernel yet: {error}"),
        Answer::Status(_)
        | Answer::Bgp(_)
        | Answer::Drops(_)
        | Answer::Ipam(_)
        | Answer::Policy(_)
        | Answer::Service(_)
        | Answer::Asked => anyhow::bail!("the agent answered something else"),
    }
}

/// Asks the speaker.
///
/// # Errors
/// If no agent answers, or it says why it cannot.
pub(crate) fn ask_bgp(run_dir: &Path, question: BgpQuestion) -> anyhow::Result<BgpAnswer> {
    match ask(
        run_dir,
        &Question::Bgp { question },
        Duration::from_secs(30),
    )? {
        Answer::Bgp(answer) => Ok(*answer),
        Answer::Error(error) => anyhow::bail!("{error}"),
        Answer::Status(_)
        | Answer::Drops(_)
        | Answer::Ipam(_)
        | Answer::Policy(_)
        | Answer::Service(_)
        | Answer::Synced
        | Answer::Asked => anyhow::bail!("the agent answered something else"),
    }
}

/// Asks for denied packets, from a number on.
///
/// # Errors
/// If no agent answers, or it shows none.
pub(crate) fn ask_drops(run_dir: &Path, since: u64) -> anyhow::Result<DropsAnswer> {
    match ask(run_dir, &Question::Drops { since }, Duration::from_secs(10))? {
        Answer::Drops(answer) => Ok(*answer),
        Answer::Error(error) => anyhow::bail!("{error}"),
        Answer::Status(_)
        | Answer::Bgp(_)
        | Answer::Ipam(_)
        | Answer::Policy(_)
        | Answer::Service(_)
        | Answer::Synced
        | Answer::Asked => anyhow::bail!("the agent answered something else"),
    }
}

/// Asks about policy.
///
/// # Errors
/// If no agent answers, or it says why it cannot.
pub(crate) fn ask_policy(run_dir: &Path, question: PolicyQuestion) -> anyhow::Result<PolicyAnswer> {
    let question = Question::Policy { question };
    // `try` on a large cluster judges 200,000 connections.
    match ask(run_dir, &question, Duration::from_secs(120))? {
        Answer::Policy(answer) => Ok(*answer),
        Answer::Error(error) => anyhow::bail!("{error}"),
        Answer::Status(_)
        | Answer::Bgp(_)
        | Answer::Drops(_)
        | Answer::Ipam(_)
        | Answer::Service(_)
        | Answer::Synced
        | Answer::Asked => anyhow::bail!("the agent answered something else"),
    }
}

/// Asks about addresses.
///
/// # Errors
/// If no agent answers, or it says why it cannot.
pub(crate) fn ask_ipam(run_dir: &Path, question: IpamQuestion) -> anyhow::Result<IpamAnswer> {
    let question = Question::Ipam { question };
    match ask(run_dir, &question, Duration::from_secs(30))? {
        Answer::Ipam(answer) => Ok(*answer),
        Answer::Error(error) => anyhow::bail!("{error}"),
        Answer::Status(_)
        | Answer::Bgp(_)
        | Answer::Drops(_)
        | Answer::Policy(_)
        | Answer::Service(_)
        | Answer::Synced
        | Answer::Asked => anyhow::bail!("the agent answered something else"),
    }
}

/// Asks about Services.
///
/// # Errors
/// If no agent answers, or it says why it cannot.
pub(crate) fn ask_service(
    run_dir: &Path,
    question: ServiceQuestion,
) -> anyhow::Result<ServiceAnswer> {
    let question = Question::Service { question };
    match ask(run_dir, &question, Duration::from_secs(30))? {
        Answer::Service(answer) => Ok(*answer),
        Answer::Error(error) => anyhow::bail!("{error}"),
        _ => anyhow::bail!("the agent answered something else"),
    }
}

/// Asks for new WireGuard keys of this node.
///
/// # Errors
/// If no agent answers, or it has no such keys.
pub(crate) fn rotate_keys(run_dir: &Path) -> anyhow::Result<()> {
    match ask(run_dir, &Question::RotateKeys, Duration::from_secs(10))? {
        Answer::Asked => Ok(()),
        Answer::Error(error) => anyhow::bail!("{error}"),
        _ => anyhow::bail!("the agent answered something else"),
    }
}

/// Whether an agent answers in this run folder.
pub(crate) fn agent_answers(run_dir: &Path) -> bool {
    BlockingStream::connect(run_dir.join(SOCKET)).is_ok()
}

fn ask(run_dir: &Path, question: &Question, patience: Duration) -> anyhow::Result<Answer> {
    let path = run_dir.join(SOCKET);
    let mut stream = BlockingStream::connect(&path).with_context(|| {
        format!(
            "no agent answers at {}: is it running, and is --run-dir its own?",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(patience))?;
    let mut line = serde_json::to_string(question)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .context("the agent did not answer in time")?;
    serde_json::from_str(&answer)
        .context("the agent's answer is not understood: is it of this version?")
}

/// Whom questions are passed on to.
#[derive(Clone)]
pub(crate) struct Parts {
    /// The task that owns the state.
    pub(crate) core: mpsc::Sender<Message>,
    /// Who attaches pods; none where nobody does.
    pub(crate) cni: Option<cni::Server>,
}

/// Answers one connection.
pub(crate) async fn serve(stream: UnixStream, parts: Parts) {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reading.take(REQUEST_LIMIT));
    if !matches!(reader.read_line(&mut line).await, Ok(count) if count > 0) {
        return;
    }
    let answer = match serde_json::from_str(&line) {
        Ok(question) => answer(question, &parts).await,
        Err(error) => Answer::Error(format!("the question is not understood: {error}")),
    };
    let mut text = serde_json::to_string(&answer).unwrap_or_default();
    text.push('\n');
    // A client that went away needs no answer.
    let _ = writing.write_all(text.as_bytes()).await;
}

async fn answer(question: Question, parts: &Parts) -> Answer {
    let core = &parts.core;
    let stopping = || Answer::Error("the agent is stopping".to_owned());
    match question {
        Question::Status => {
            let (reply, report) = oneshot::channel();
            if core.send(Message::Report(reply)).await.is_err() {
                return stopping();
            }
            report
                .await
                .map_or_else(|_| stopping(), |report| Answer::Status(Box::new(report)))
        }
        Question::Bgp { question } => {
            let (reply, speaker) = oneshot::channel();
            if core.send(Message::Speaker(reply)).await.is_err() {
                return stopping();
            }
            let Ok(speaker) = speaker.await else {
                return stopping();
            };
            match bgp::answer(speaker, question).await {
                Ok(answer) => Answer::Bgp(Box::new(answer)),
                Err(error) => Answer::Error(error),
            }
        }
        Question::Policy { question } => match policy::answer(core, question).await {
            Ok(answer) => Answer::Policy(Box::new(answer)),
            Err(error) => Answer::Error(error),
        },
        Question::Service { question } => match service::answer(core, question).await {
            Ok(answer) => Answer::Service(Box::new(answer)),
            Err(error) => Answer::Error(error),
        },
        Question::Ipam { question } => {
            match ipam::answer(core, parts.cni.as_ref(), question).await {
                Ok(answer) => Answer::Ipam(Box::new(answer)),
                Err(error) => Answer::Error(error),
            }
        }
        Question::Drops { since } => {
            let (reply, drops) = oneshot::channel();
            if core.send(Message::Drops { since, reply }).await.is_err() {
                return stopping();
            }
            match drops.await {
                Ok(Ok(answer)) => Answer::Drops(Box::new(answer)),
                Ok(Err(error)) => Answer::Error(error),
                Err(_) => stopping(),
            }
        }
        Question::RotateKeys => {
            let (reply, outcome) = oneshot::channel();
            if core.send(Message::RotateKeys(reply)).await.is_err() {
                return stopping();
            }
            match outcome.await {
                Ok(Ok(())) => Answer::Asked,
                Ok(Err(error)) => Answer::Error(error),
                Err(_) => stopping(),
            }
        }
        Question::Sync {
            timeout_milliseconds,
        } => {
            let (reply, outcome) = oneshot::channel();
            let timeout = Duration::from_millis(timeout_milliseconds);
            if core.send(Message::Sync { timeout, reply }).await.is_err() {
                return stopping();
            }
            match outcome.await {
                Ok(Ok(())) => Answer::Synced,
                Ok(Err(error)) => Answer::Error(error),
                Err(_) => stopping(),
            }
        }
    }
}
