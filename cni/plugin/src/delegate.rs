//! The IPAM plugin that a configuration names: found, started with what we were given, and waited for.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cni_spec::socket::MAX_FRAME;
use cni_spec::{AddResult, CniError, CniVersion, Command, ErrorCode, NetworkConfig};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;

/// How long it may take: less than what the agent waits for a request on an open connection.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is seen whether it has ended while something else holds its standard output.
const LOOK: Duration = Duration::from_millis(100);

/// An IPAM plugin, ready to be started.
#[derive(Debug)]
pub(crate) struct Delegate<'a> {
    name: &'a str,
    program: PathBuf,
    config: &'a [u8],
    version: CniVersion,
    patience: Duration,
}

impl<'a> Delegate<'a> {
    /// The one the configuration names, if any; `bytes` is that configuration as it came.
    ///
    /// # Errors
    /// If its name is no name, or it is in none of the folders of `CNI_PATH` (code 7).
    pub(crate) fn find(
        config: &'a NetworkConfig,
        bytes: &'a [u8],
        search: &str,
    ) -> Result<Option<Self>, CniError> {
        let Some(name) = config.ipam_plugin()? else {
            return Ok(None);
        };
        // Not "not found": containerd takes a DEL with those words for done.
        let missing = || {
            CniError::new(ErrorCode::InvalidConfig, "the IPAM plugin is missing").details(format!(
                "{name} is in none of the folders of CNI_PATH {search:?}: install it, or take ipam out of network {}",
                config.name
            ))
        };
        let mut folders = search.split(':').filter(|folder| !folder.is_empty());
        let program = folders
            .find_map(|folder| Some(Path::new(folder).join(name)).filter(|path| path.is_file()))
            .ok_or_else(missing)?;
        Ok(Some(Self {
            name,
            program,
            config: bytes,
            version: config.cni_version,
            patience: PATIENCE,
        }))
    }

    /// Has it give addresses; what it gave before it failed is given back.
    ///
    /// # Errors
    /// Its own, or that it took too long (code 11), or gave no address (code 100).
    pub(crate) fn add(&self) -> Result<AddResult, CniError> {
        let added = self.call(Command::Add).and_then(|said| self.result(&said));
        if added.is_err() {
            self.give_back();
        }
        added
    }

    /// Undoes an ADD that came to nothing; a failure is only said, since the runtime's DEL comes after.
    pub(crate) fn give_back(&self) {
        if let Err(error) = self.call(Command::Del) {
            crate::say(&format!("a failed ADD could not be undone: {error}"));
        }
    }

    /// Runs a verb that has no result.
    ///
    /// # Errors
    /// Its own, or that it took too long (code 11).
    pub(crate) fn run(&self, command: Command) -> Result<(), CniError> {
        self.call(command).map(drop)
    }

    fn result(&self, said: &[u8]) -> Result<AddResult, CniError> {
        let value: Value = serde_json::from_slice(said).map_err(|error| {
            CniError::new(ErrorCode::Decoding, "cannot decode an IPAM plugin's result")
                .details(format!("{}: {error}", self.name))
        })?;
        let result = AddResult::from_json(&value, self.version)?;
        if result.ips.is_empty() {
            return Err(
                CniError::new(ErrorCode::Failed, "the IPAM plugin gave no address")
                    .details(format!("{} said {value}", self.name)),
            );
        }
        Ok(result)
    }

    fn call(&self, command: Command) -> Result<Vec<u8>, CniError> {
        let failed = |error: io::Error| {
            CniError::new(ErrorCode::Io, "cannot run the IPAM plugin")
                .details(format!("{} {command}: {error}", self.program.display()))
        };
        let mut child = process::Command::new(&self.program)
            .env("CNI_COMMAND", command.to_string())
            .stdin(self.standard_input().map_err(failed)?)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let deadline = Instant::now() + self.patience;
        let mut said = Vec::new();
        match wait(&mut child, &mut said, deadline).map_err(failed)? {
            Some(status) if status.success() => Ok(said),
            Some(status) => Err(self.refusal(command, status, &said)),
            None => {
                // It may end by itself just now, which is no failure.
                drop(child.kill());
                drop(child.wait());
                let msg = "the IPAM plugin took too long";
                Err(
                    CniError::new(ErrorCode::TryAgainLater, msg).details(format!(
                        "{} {command} was ended after {} s",
                        self.name,
                        self.patience.as_secs_f32()
                    )),
                )
            }
        }
    }

    /// The configuration as a file that needs nobody to write it while the plugin reads.
    fn standard_input(&self) -> io::Result<Stdio> {
        let mut file = File::from(memfd_create(c"cni-config", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(self.config)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// The error it printed, or one about what it printed instead.
    fn refusal(&self, command: Command, status: ExitStatus, said: &[u8]) -> CniError {
        serde_json::from_slice(said).unwrap_or_else(|_| {
            CniError::new(ErrorCode::Failed, "the IPAM plugin failed").details(format!(
                "{} {command}: {status}: {}",
                self.name,
                String::from_utf8_lossy(said).trim()
            ))
        })
    }
}

/// Collects what a child prints until it has ended; `None` when it has not by the deadline.
fn wait(
    child: &mut Child,
    said: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<Option<ExitStatus>> {
    let Some(mut output) = child.stdout.take() else {
        return child.wait().map(Some);
    };
    let mut buffer = [0; 4096];
    let mut is_open = true;
    let mut pause = Duration::from_micros(100);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let is_readable = is_open && {
            let milliseconds = u16::try_from(left.min(LOOK).as_millis()).unwrap_or(u16::MAX);
            let mut polled = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::from(milliseconds)) {
                Ok(count) => count > 0,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        if is_readable {
            let count = output.read(&mut buffer)?;
            is_open = count > 0 && said.len() < MAX_FRAME;
            said.extend(buffer.iter().take(count));
            continue;
        }
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if left.is_zero() {
            return Ok(None);
        }
        if !is_open {
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Runs a script as the IPAM plugin, with as much patience.
    fn run(script: &str, config: &[u8], patience: Duration) -> Result<Vec<u8>, CniError> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("ipam");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let delegate = Delegate {
            name: "ipam",
            program,
            config,
            version: CniVersion::LATEST,
            patience,
        };
        delegate.call(Command::Status)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn semantics_108_an_ipam_plugin_that_hangs_is_ended_and_the_verb_is_to_be_tried_again() {
        // Both with its standard output open and with it closed.
        for script in ["exec sleep 300", "exec sleep 300 >&-"] {
            let started = Instant::now();
            let error = run(script, b"", Duration::from_millis(300)).unwrap_err();
            assert_eq!(error.code, ErrorCode::TryAgainLater as u32, "{error}");
            assert!(started.elapsed() < LONG);
        }
    }

    #[test]
    fn what_an_ipam_plugin_leaves_running_is_not_waited_for() {
        let started = Instant::now();
        let said = run("sleep 60 & echo done", b"", LONG).unwrap();
        assert_eq!(said, b"done\n");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_large_configuration_arrives_whole_and_one_that_is_not_read_holds_nothing_up() {
        let large = vec![b'x'; MAX_FRAME];
        assert_eq!(run("wc -c", &large, LONG).unwrap(), b"1048576\n");
        assert_eq!(run("true", &large, LONG).unwrap(), b"");
    }

    #[test]
    fn an_ipam_plugin_that_never_stops_talking_is_ended() {
        let error = run("exec yes", b"", Duration::from_secs(2)).unwrap_err();
        assert_eq!(error.code, ErrorCode::TryAgainLater as u32, "{error}");
    }
}
