//! The one place that starts programs: iptables-save, iptables-restore, ipset and the CNI plugin, with a time limit each.

use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A program that hangs (a lock held by another, say) is given up after this.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Why a program's work is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// It could not be started.
    #[error("cannot start {program}: {source}; install it (Debian: iptables, ipset)")]
    Start {
        /// Its name.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed: {message}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// Its standard error.
        message: String,
    },
    /// It did not end in time.
    #[error("{program} did not finish within {} s", TIME_LIMIT.as_secs())]
    TimedOut {
        /// Its name.
        program: &'static str,
    },
}

impl ExecError {
    /// Whether another holds the lock of the old tables.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self, Self::Failed { message, .. } if message.contains("xtables lock"))
    }

    /// Whether the program read its input and refused it.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Failed { .. }) && !self.is_locked()
    }
}

/// What a program has done.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its standard output.
    pub(crate) output: String,
    /// The number of its process; another may have it by now.
    pub(crate) process: Option<u32>,
}

/// Runs a program with `input` on its standard input and gives its standard output.
///
/// # Errors
/// If it cannot be started, fails, or does not finish in time (it is killed then).
pub(crate) async fn run(
    program: &'static str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<String, ExecError> {
    let done = run_process(program, arguments, input).await?;
    Ok(done.output)
}

/// The same, and says which process it was.
///
/// # Errors
/// If it cannot be started, fails, or does not finish in time (it is killed then).
pub(crate) async fn run_process(
    program: &'static str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<Done, ExecError> {
    let work = async {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ExecError::Start { program, source })?;
        let process = child.id();
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut stdin), Some(text)) = (stdin, input) {
                // A program that stops reading says why on its standard error.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        let output = output.map_err(|source| ExecError::Start { program, source })?;
        if output.status.success() {
            let output = String::from_utf8_lossy(&output.stdout).into_owned();
            return Ok(Done { output, process });
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ExecError::Failed { program, message })
    };
    tokio::time::timeout(TIME_LIMIT, work)
        .await
        .unwrap_or(Err(ExecError::TimedOut { program }))
}

/// Runs the CNI plugin as a runtime does: with these variables only, and `input` on its standard input.
///
/// # Errors
/// If it cannot be started, or does not end within `patience` (it is killed then). A plugin that says no is no error.
pub(crate) async fn run_plugin(
    plugin: &Path,
    environment: &[(&str, &str)],
    input: &str,
    patience: Duration,
) -> io::Result<Output> {
    let work = async {
        let mut command = Command::new(plugin);
        command.env_clear().envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // VERSION does not read it.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        output
    };
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    tokio::time::timeout(patience, work)
        .await
        .unwrap_or_else(late)
}

/// What tests of the kernel start in their own network namespaces.
#[cfg(test)]
pub(crate) mod testing {
    /// Runs a program and waits for it; blanks part its arguments.
    pub(crate) fn run(program: &str, arguments: &str) {
        let mut command = std::process::Command::new(program);
        command.args(arguments.split_ascii_whitespace());
        let output = command
            .env("XTABLES_LOCKFILE", "/dev/null")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_comes_back_and_errors_carry_the_programs_words() {
        assert_eq!(run("cat", &[], Some("hello")).await.unwrap(), "hello");
        let error = run("sh", &["-c", "echo why >&2; exit 3"], None)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "sh failed: why");
        assert!(matches!(
            run("no-such-program", &[], None).await,
            Err(ExecError::Start { .. })
        ));
    }
}
