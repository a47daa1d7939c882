//! A machine of the test cluster: namespaces and a cgroup root of its own, and real programs in them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::netns::Netns;
use tests::process::Process;
use tests::wait::eventually;

use crate::cgroups::CgroupRoot;
use crate::spawner;

/// Makes the node's root; the first process of the node.
const SETUP: &str = include_str!("node-setup.sh");

/// How long the first process may take to make the node's root.
const START: Duration = Duration::from_secs(30);

/// How long the node's processes may take to be gone after the first one was killed.
const END: Duration = Duration::from_secs(30);

/// A machine; dropping it ends all its processes and removes what it was made of.
#[derive(Debug)]
pub struct Node {
    name: String,
    dir: PathBuf,
    folders: Vec<PathBuf>,
    programs: BTreeMap<String, Program>,
    first: Option<First>,
    cgroups: CgroupRoot,
    netns: Netns,
}

/// The node's first process, and the `unshare` that waits for it.
#[derive(Debug)]
struct First {
    pid: i32,
    launcher: Process,
}

/// A program of the node, and its process as the machine outside counts.
#[derive(Debug)]
struct Program {
    pid: i32,
    launcher: Process,
    command: (PathBuf, Vec<String>),
}

impl Node {
    /// A machine of this name in `netns`, up and with nothing running. `dir` will hold what it has on disk; the
    /// `folders` of the host are seen in it at the same place.
    ///
    /// # Errors
    /// When a namespace, mount or cgroup can't be made.
    pub fn start(name: &str, netns: Netns, dir: &Path, folders: &[&Path]) -> Result<Self> {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir)?;
        let cgroups = CgroupRoot::new(&format!("{}/{name}", lab_name(&dir)?))?;
        let mut node = Self {
            name: name.to_owned(),
            dir,
            folders: folders.iter().map(|&folder| folder.to_owned()).collect(),
            programs: BTreeMap::new(),
            first: None,
            cgroups,
            netns,
        };
        node.power_on()?;
        Ok(node)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its folder, seen at the same place inside and outside.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its cgroups.
    #[must_use]
    pub fn cgroups(&self) -> &CgroupRoot {
        &self.cgroups
    }

    /// A command that will run in all of the node's namespaces.
    ///
    /// # Errors
    /// When the node is off.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = die_with_us();
        command
            .args(["nsenter", "--target", &self.first()?.pid.to_string()])
            .args([
                "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/", "--",
            ])
            .arg(program);
        Ok(command)
    }

    /// Runs a program in it to its end and gives its standard output.
    ///
    /// # Errors
    /// When the node is off, or the program fails; the error holds what it said.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(program)?;
        let output = command.args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{program} {args:?} on {}: {}: {}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            said.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a file that the node sees at `path`, an absolute path.
    ///
    /// # Errors
    /// When the node is off or the path is not in it.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.path(path)?, text)?)
    }

    /// Where the machine outside sees the node's absolute `path`.
    ///
    /// # Errors
    /// When the node is off.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let root = format!("/proc/{}/root", self.first()?.pid);
        Ok(Path::new(&root).join(path.trim_start_matches('/')))
    }

    /// Starts a program that stays; its output goes to [`Self::log`].
    ///
    /// # Errors
    /// When the node is off or the program can't be started.
    pub fn start_program(&mut self, name: &str, program: &Path, args: &[String]) -> Result<()> {
        let mut command = self.command(program)?;
        command.args(args);
        let launcher = spawner::start(name, command, &self.log_file(name))?;
        let parent = launcher.id();
        // nsenter can't become the program: only its child is in the new PID namespace.
        let pid = eventually(START, &format!("{name} on {}", self.name), || {
            child_of(parent).ok_or_else(|| anyhow!("not started"))
        })?;
        let program = Program {
            pid,
            launcher,
            command: (program.to_owned(), args.to_owned()),
        };
        self.programs.insert(name.to_owned(), program);
        Ok(())
    }

    /// An error with the end of its log if a program started by [`Self::start_program`] is no longer running.
    ///
    /// # Errors
    /// When it has ended or was never started.
    pub fn check_running(&mut self, name: &str) -> Result<()> {
        let program = self.programs.get_mut(name);
        program.context(name.to_owned())?.launcher.check_running()
    }

    /// Sends SIGTERM to a program and waits for its end; after ten seconds it is killed.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn stop_program(&mut self, name: &str) -> Result<()> {
        let program = self.programs.get_mut(name).context(name.to_owned())?;
        end(program)
    }

    /// Starts a program again that was stopped, as it was started.
    ///
    /// # Errors
    /// When it was never started, or can't be.
    pub fn start_program_again(&mut self, name: &str) -> Result<()> {
        let program = self.programs.remove(name).context(name.to_owned())?;
        let (path, args) = program.command;
        self.start_program(name, &path, &args)
    }

    /// What a program has said.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    /// Ends all that runs in it at once, as a power cut does. What is on disk stays.
    ///
    /// # Errors
    /// When a process doesn't end.
    pub fn power_off(&mut self) -> Result<()> {
        let Some(mut first) = self.first.take() else {
            return Ok(());
        };
        // The kernel ends the rest of a PID namespace before the end of its first process can be seen.
        let _ = kill(Pid::from_raw(first.pid), Signal::SIGKILL);
        let what = format!("the end of {}", self.name);
        eventually(END, &what, || {
            ensure!(first.launcher.check_running().is_err(), "still running");
            Ok(())
        })?;
        self.programs.clear();
        let _ = std::fs::remove_file(self.dir.join("ready"));
        // A kubelet asks after the task of every group that it finds, and no reboot leaves any.
        self.cgroups.remove()
    }

    /// Makes its namespaces and its root.
    ///
    /// # Errors
    /// When it is on, or one can't be made.
    pub fn power_on(&mut self) -> Result<()> {
        ensure!(self.first.is_none(), "{} is on", self.name);
        self.cgroups.make()?;
        let setup = self.dir.join("setup.sh");
        std::fs::write(&setup, SETUP)?;
        let mut command = die_with_us();
        command
            .arg("nsenter")
            .arg(format!("--net={}", self.netns.path().display()))
            .args(["unshare", "--mount", "--uts", "--ipc", "--pid"])
            .args(["--fork", "--kill-child", "bash"])
            .arg(&setup)
            .args([&self.dir, Path::new(&self.name)])
            .args(&self.folders);
        let mut launcher = spawner::start(&self.name, command, &self.log_file("setup"))?;
        let ready = self.dir.join("ready");
        let pid = eventually(START, &format!("the root of {}", self.name), || {
            launcher.check_running()?;
            ensure!(ready.exists(), "not ready: {}", launcher.log_end());
            child_of(launcher.id()).ok_or_else(|| anyhow!("no first process"))
        })?;
        self.first = Some(First { pid, launcher });
        Ok(())
    }

    fn first(&self) -> Result<&First> {
        match &self.first {
            Some(first) => Ok(first),
            None => bail!("{} is off", self.name),
        }
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What can't be ended here ends with the network namespace, whose drop kills every process in it.
        let _ = self.power_off();
    }
}

/// A prefix of commands: they end with the thread that starts them.
fn die_with_us() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command
}

fn end(program: &mut Program) -> Result<()> {
    let ends = |launcher: &mut Process| launcher.check_running().is_err();
    let pid = Pid::from_raw(program.pid);
    ensure!(!ends(&mut program.launcher), "it has ended already");
    kill(pid, Signal::SIGTERM)?;
    let gently = eventually(Duration::from_secs(10), "the end of the program", || {
        ensure!(ends(&mut program.launcher), "still running");
        Ok(())
    });
    if gently.is_err() {
        kill(pid, Signal::SIGKILL)?;
        eventually(END, "the end of the program", || {
            ensure!(ends(&mut program.launcher), "still running");
            Ok(())
        })?;
    }
    Ok(())
}

/// The first child of a process.
fn child_of(pid: u32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// The lab's name, which is the name of the folder that holds its nodes' folders.
fn lab_name(node_dir: &Path) -> Result<String> {
    let lab = node_dir.parent().and_then(Path::file_name);
    let lab = lab.with_context(|| format!("{} is in no folder", node_dir.display()))?;
    Ok(lab.to_string_lossy().into_owned())
}
