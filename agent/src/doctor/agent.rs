//! Checks of the agent itself: it answers, in the right namespace, of this release, in sync and without errors.

use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};

use super::bound;
use super::catalog::{AGENT_ANSWERS, AGENT_NAMESPACE, AGENT_READY, AGENT_SOURCE, AGENT_VERSION};
use super::finding::Finding;
use crate::control;
use crate::report::Report;

/// The agent's labels, and this node: what `kubectl delete pod` needs to have it started anew.
pub(super) const RESTART: &str = "kubectl -n portolan delete pod -l app.kubernetes.io/name=portolan,app.kubernetes.io/component=agent \
     --field-selector spec.nodeName=$(hostname)";

/// What was found out about the agent.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    socket: PathBuf,
    answer: Answer,
    /// Its process, and whether that is in our network namespace; none where it cannot be told.
    namespace: Option<(i32, bool)>,
    /// How this command was called.
    command: String,
}

/// What came back on its socket.
#[derive(Clone, Debug)]
enum Answer {
    Report(Box<Report>),
    /// The socket is not there.
    NoSocket,
    /// It is, and nobody listens, or not to us.
    Refused(String),
    /// Someone listens and says nothing that is understood.
    Silent(String),
}

impl Facts {
    /// Asks it.
    pub(super) fn gather(run_dir: &Path) -> Self {
        let socket = run_dir.join(control::SOCKET);
        let path = socket.clone();
        let dir = run_dir.to_owned();
        let process = std::os::unix::net::UnixStream::connect(&path)
            .map(|stream| getsockopt(&stream, sockopt::PeerCredentials));
        let answer = match &process {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Answer::NoSocket,
            Err(error) => Answer::Refused(error.to_string()),
            Ok(_) => match bound::blocking(move || control::report(&dir)) {
                Ok(Ok(report)) => Answer::Report(Box::new(report)),
                Ok(Err(error)) => Answer::Silent(format!("{error:#}")),
                Err(late) => Answer::Silent(late.to_string()),
            },
        };
        let process = process.ok().and_then(Result::ok).map(|peer| peer.pid());
        // 0: it is in a process namespace that we do not see.
        let process = process.filter(|process| *process > 0);
        let namespace = process.and_then(|process| Some((process, is_in_ours(process)?)));
        let command: Vec<String> = std::env::args().collect();
        Self {
            socket,
            answer,
            namespace,
            command: command.join(" "),
        }
    }

    /// What it says of itself.
    pub(super) fn report(&self) -> Option<&Report> {
        match &self.answer {
            Answer::Report(report) => Some(report),
            _ => None,
        }
    }

    /// Whether it is known to be in another network namespace.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.namespace, Some((_, false)))
    }
}

fn is_in_ours(process: i32) -> Option<bool> {
    let link = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    Some(link(&process.to_string())? == link("self")?)
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![answers(facts), namespace(facts)];
    match facts.report() {
        Some(report) => {
            findings.push(version(report));
            findings.extend(ready(report));
            findings.extend(source(report));
        }
        None => {
            let others = [&AGENT_VERSION, &AGENT_READY, &AGENT_SOURCE];
            findings.extend(others.map(|check| check.skipped("the agent does not answer")));
        }
    }
    findings
}

fn answers(facts: &Facts) -> Finding {
    let socket = facts.socket.display();
    match &facts.answer {
        Answer::Report(report) => AGENT_ANSWERS.ok(format!(
            "the agent of node {} answers on {socket}",
            report.node
        )),
        Answer::NoSocket => AGENT_ANSWERS.failure(
            format!("{socket} is not there"),
            "the agent has not been started, has been stopped, or has another --run-dir: what it wrote keeps forwarding, \
             no pod can be attached, and no change of policy or routes reaches this node",
            RESTART,
        ),
        Answer::Refused(why) => AGENT_ANSWERS.failure(
            format!("nobody listens on {socket} ({why})"),
            "the agent was killed, or this is not root: what it wrote keeps forwarding, no pod can be attached, and no change \
             of policy or routes reaches this node",
            RESTART,
        ),
        Answer::Silent(why) => AGENT_ANSWERS.failure(
            format!("the agent on {socket} does not answer: {why}"),
            "it is stopped by a debugger or SIGSTOP, starved of CPU, or of a release that this command does not understand",
            RESTART,
        ),
    }
}

fn namespace(facts: &Facts) -> Finding {
    match facts.namespace {
        None => AGENT_NAMESPACE.skipped("the agent's process is not to be seen from here"),
        Some((process, true)) => AGENT_NAMESPACE.ok(format!(
            "the agent (process {process}) is in this network namespace"
        )),
        Some((process, false)) => AGENT_NAMESPACE.failure(
            format!("the agent (process {process}) is in another network namespace"),
            "this command was started inside of a pod, or the agent's pod lacks hostNetwork: true; routes and rules here are \
             not the ones that it writes",
            format!("nsenter --target {process} --net {}", facts.command),
        ),
    }
}

fn version(report: &Report) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    if report.version == own {
        return AGENT_VERSION.ok(format!("agent and command are of release {own}"));
    }
    AGENT_VERSION.warning(
        format!(
            "the agent is of release {}, this command of {own}",
            report.version
        ),
        "the program was replaced while the agent ran, or another one is first in PATH",
        RESTART,
    )
}

fn ready(report: &Report) -> Vec<Finding> {
    let mut findings: Vec<Finding> = report
        .waits_for
        .iter()
        .map(|reason| {
            AGENT_READY.failure(
                format!("the agent is not ready: {reason}"),
                "until then it writes nothing more, and new pods wait",
                "portolan status",
            )
        })
        .collect();
    let policy = &report.policy.unsupported;
    for error in report.errors.iter().chain(policy) {
        findings.push(AGENT_READY.warning(
            error.clone(),
            "the agent says so of itself; the rest of what it was told is in force",
            "portolan status",
        ));
    }
    AGENT_READY.or_ok(
        findings,
        format!(
            "in sync; {} policies and {} routes in force",
            report.policy.policies, report.routes.in_kernel
        ),
    )
}

fn source(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &report.sources {
        let path = &source.path;
        if let Some(seconds) = source.away_seconds {
            findings.push(AGENT_SOURCE.failure(
                format!("the API server ({path}) has not answered the agent for {seconds} s"),
                "it is down, its address is wrong, or this node cannot reach it; what it said last stays in force",
                match path.starts_with('/') {
                    true => format!("kubectl --kubeconfig {path} get --raw /livez"),
                    false => "kubectl get --raw /livez".to_owned(),
                },
            ));
        }
        findings.extend(source.problems.iter().map(|problem| {
            AGENT_SOURCE.warning(
                problem.clone(),
                "this object is left out; its last good state, if there was one, holds",
                "portolan status",
            )
        }));
    }
    let kinds: Vec<String> = report
        .sources
        .iter()
        .map(|source| format!("{} {}", source.kind, source.path))
        .collect();
    AGENT_SOURCE.or_ok(findings, format!("{} can be read", kinds.join(", ")))
}
