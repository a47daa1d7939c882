//! The one place that starts programs: iptables-save, iptables-restore, ipset and the CNI plugin, with a time limit each.

use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

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
    let stdin = match input {
        Some(_) => Stdio::piped(),
        None => Stdio::null(),
    };
    let started = Started::new(program, arguments, stdin)?;
    started.finish(input.unwrap_or_default()).await
}

/// A program that has been started and gets its input later; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Started {
    program: &'static str,
    child: Child,
}

impl Started {
    /// Starts a program that will read its standard input.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn waiting(program: &'static str, arguments: &[&str]) -> Result<Self, ExecError> {
        Self::new(program, arguments, Stdio::piped())
    }

    fn new(program: &'static str, arguments: &[&str], stdin: Stdio) -> Result<Self, ExecError> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ExecError::Start { program, source })?;
        Ok(Self { program, child })
    }

    /// Whether it has not ended by itself.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Gives it the beginning of its input; [`Self::finish`] gives it the rest.
    pub(crate) async fn feed(&mut self, beginning: &str) {
        if let Some(stdin) = &mut self.child.stdin {
            let fed = stdin.write_all(beginning.as_bytes());
            // A program that stops reading says why on its standard error; one that hangs is killed at the end.
            let _ = tokio::time::timeout(TIME_LIMIT, fed).await;
        }
    }

    /// Gives it its input and waits for its end.
    ///
    /// # Errors
    /// If it fails, or does not finish in time (it is killed then).
    pub(crate) async fn finish(self, input: &str) -> Result<Done, ExecError> {
        let Self { program, child } = self;
        tokio::time::timeout(TIME_LIMIT, finish(program, child, input))
            .await
            .unwrap_or(Err(ExecError::TimedOut { program }))
    }
}

async fn finish(program: &'static str, mut child: Child, input: &str) -> Result<Done, ExecError> {
    let process = child.id();
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that stops reading says why on its standard error.
            let _ = stdin.write_all(input.as_bytes()).await;
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

    #[tokio::test]
    async fn a_program_started_early_waits_for_its_input_and_ends_with_it() {
        let mut early = Started::waiting("cat", &[]).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(early.is_running());
        early.feed("at first, ").await;
        let done = early.finish("later").await.unwrap();
        assert_eq!(done.output, "at first, later");
        let mut ended = Started::waiting("true", &[]).unwrap();
        let end = async {
            while ended.is_running() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), end)
            .await
            .unwrap();
    }
}
