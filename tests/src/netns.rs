//! Network namespaces with unique names, the veth links between them, and work done inside them.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// Counts the namespaces of this process, so that their names differ.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A named network namespace; dropping it ends the processes in it and removes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    kept: AtomicBool,
    /// Made by others, who end what is in it: only our name of it goes.
    is_borrowed: bool,
}

impl Netns {
    /// Makes `ptl-<tag>-<pid>-<n>-<role>` with loopback up.
    ///
    /// # Errors
    /// When `ip netns add` fails.
    pub fn new(tag: &str, role: &str) -> Result<Self> {
        let name = next_name(tag, role);
        run("ip", &["netns", "add", &name])?;
        let netns = Self {
            name,
            kept: AtomicBool::new(false),
            is_borrowed: false,
        };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A name, `ptl-<tag>-<pid>-<n>-<role>`, for the namespace that a process is in. Dropping it ends nothing.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_process(tag: &str, role: &str, process: i32) -> Result<Self> {
        let name = next_name(tag, role);
        run("ip", &["netns", "attach", &name, &process.to_string()])?;
        Ok(Self {
            name,
            kept: AtomicBool::new(false),
            is_borrowed: true,
        })
    }

    /// Its name, as `ip netns list` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file: what a container runtime passes in `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Leaves it in place when dropped.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// A command that will run inside. `ip netns exec` becomes the program, so the child's process id is
    /// the program's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program inside to its end and gives its standard output.
    ///
    /// # Errors
    /// When it can't be started or fails; the error holds what it said.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(args);
        finish(command)
    }

    /// Runs `ip -n <name> <words>`; the words are split at blanks.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut args = vec!["-n", self.name.as_str()];
        args.extend(words.split_whitespace());
        run("ip", &args)
    }

    /// What `ip -j <words>` says, parsed. No output at all is an empty list.
    ///
    /// # Errors
    /// When `ip` fails or doesn't answer in JSON.
    pub fn ip_json(&self, words: &str) -> Result<serde_json::Value> {
        let text = self.ip(&format!("-j {words}"))?;
        if text.trim().is_empty() {
            return Ok(serde_json::Value::Array(Vec::new()));
        }
        serde_json::from_str(&text).with_context(|| format!("ip -j {words} in {}", self.name))
    }

    /// Sets a sysctl inside, named with dots.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = value.to_owned();
        self.inside(move || std::fs::write(&path, value).with_context(|| path.clone()))?
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let handle = File::open(self.path()).with_context(|| self.name.clone())?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                setns(handle, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The processes inside.
    ///
    /// # Errors
    /// When `ip netns pids` fails.
    pub fn processes(&self) -> Result<Vec<i32>> {
        processes_in(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the next run's names differ anyway.
        if self.is_borrowed {
            let _ = run("ip", &["netns", "del", &self.name]);
        } else if !self.kept.load(Ordering::Relaxed) {
            let _ = remove(&self.name);
        }
    }
}

fn next_name(tag: &str, role: &str) -> String {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("ptl-{tag}-{}-{number}-{role}", std::process::id())
}

/// Joins two namespaces by a veth pair, both ends up.
///
/// # Errors
/// When `ip link` fails.
pub fn join(left: (&Netns, &str), right: (&Netns, &str)) -> Result<()> {
    run(
        "ip",
        &[
            "link",
            "add",
            left.1,
            "netns",
            left.0.name(),
            "type",
            "veth",
            "peer",
            "name",
            right.1,
            "netns",
            right.0.name(),
        ],
    )?;
    left.0.ip(&format!("link set {} up", left.1))?;
    right.0.ip(&format!("link set {} up", right.1))?;
    Ok(())
}

/// Ends every process inside the namespace of this name (a `ptl-` one: all in it were started for the
/// lab) and removes it.
///
/// # Errors
/// When the name isn't the lab's or `ip netns del` fails.
pub fn remove(name: &str) -> Result<()> {
    ensure!(
        name.starts_with("ptl-"),
        "{name} is not a namespace of the lab"
    );
    for pid in processes_in(name)? {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    run("ip", &["netns", "del", name]).map(drop)
}

fn processes_in(name: &str) -> Result<Vec<i32>> {
    let text = run("ip", &["netns", "pids", name])?;
    Ok(text
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect())
}

/// A command that will run in the network namespace of the thread that starts it, with nothing started before it.
#[must_use]
pub fn here(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// When it can't be started or fails; the error holds what it said.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    finish(command)
}

fn finish(mut command: Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
