//! `portolan cni install|uninstall` with the real plugin, a real agent, and a real containerd that watches the folder.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::agent::binaries;
use tests::containerd::{Containerd, NetworkStatus};
use tests::one_node::OneNode;
use tests::require_root;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(10);
const NAME: &str = "10-portolan.conflist";

/// The folders of a node that a runtime looks into.
struct Folders {
    dir: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ptl-install-")
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("net.d")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Option<Value> {
        let bytes = fs::read(self.path("net.d").join(NAME)).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// `portolan cni <words>`, not yet started.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binaries().unwrap().join("portolan"));
        command.arg("cni").args(words);
        command.arg("--bin-dir").arg(self.path("bin"));
        command.arg("--conf-dir").arg(self.path("net.d"));
        command
            .arg("--protocol-names")
            .arg(self.path("rt_protos.d"));
        command
    }

    /// What it printed; an error with what it said.
    fn cni(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
        Ok(format!("{}{said}", String::from_utf8_lossy(&output.stdout)))
    }
}

fn wait_for(
    containerd: &Containerd,
    what: &str,
    is_so: impl Fn(&NetworkStatus) -> bool,
) -> NetworkStatus {
    let looked = eventually(PATIENCE, what, || {
        let status = containerd.network()?;
        ensure!(is_so(&status), "{status:?}");
        Ok(status)
    });
    looked.unwrap_or_else(|error| panic!("{error:#}\n{}", containerd.log()))
}

#[test]
fn containerd_follows_an_install_a_change_a_broken_neighbour_and_an_uninstall() {
    require_root!();
    let mut lab = OneNode::start("inst", "", &[]).unwrap();
    let folders = Folders::new();
    let socket = lab.agent.cni_socket();
    let run_dir = lab.agent.run_dir();
    let run_dir = run_dir.to_str().unwrap();
    let (bin, conf) = (folders.path("bin"), folders.path("net.d"));
    let containerd = Containerd::start(&lab.node, folders.dir.path(), &bin, &conf).unwrap();
    assert!(!containerd.network().unwrap().is_ready);

    // Without an agent the runtime is not told of a network (semantics 166, 168).
    lab.agent.kill().unwrap();
    let error = folders.cni(&["install", "--run-dir", run_dir, "--wait", "500ms"]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("not ready after 0.5 s"), "{error}");
    assert!(bin.join("portolan-cni").exists() && folders.config().is_none());
    assert!(!containerd.network().unwrap().is_ready);

    lab.agent.start(&lab.node).unwrap();
    folders.cni(&["install", "--run-dir", run_dir]).unwrap();
    let status = wait_for(&containerd, "the network to be ready", |status| {
        status.is_ready
    });
    assert_eq!(status.network["Name"], "portolan");
    assert_eq!(status.last_load, "OK");
    // Debian's libcni does not know cniVersions, and takes cniVersion.
    assert_eq!(status.network["CNIVersion"], "1.0.0");
    let capabilities = &status.network["Plugins"][0]["Network"]["capabilities"];
    for name in [
        "portMappings",
        "bandwidth",
        "ips",
        "io.kubernetes.cri.pod-annotations",
    ] {
        assert_eq!(capabilities[name], true, "{capabilities}");
    }

    // A change of a file that is there already (semantics 112): containerd must hear of the rename.
    let elsewhere = folders.path("another.sock");
    let words = [
        "install",
        "--wait",
        "0s",
        "--socket",
        elsewhere.to_str().unwrap(),
    ];
    folders.cni(&words).unwrap();
    wait_for(&containerd, "the new socket", |status| {
        status.network.to_string().contains("another.sock")
    });

    // Semantics 111: an invalid first file fails the load, and we say so.
    fs::write(conf.join("00-broken.conf"), "{").unwrap();
    wait_for(&containerd, "the failed load", |status| {
        status.last_load != "OK"
    });
    let said = folders.cni(&["install", "--run-dir", run_dir]).unwrap();
    assert!(
        said.contains("00-broken.conf") && said.contains("mend or remove it"),
        "{said}"
    );
    fs::remove_file(conf.join("00-broken.conf")).unwrap();
    wait_for(&containerd, "the load to be well again", |status| {
        status.is_ready
            && status
                .network
                .to_string()
                .contains(socket.to_str().unwrap())
    });

    // Semantics 114: the configuration stays when the agent stops.
    lab.agent.terminate().unwrap();
    assert!(folders.config().is_some());
    assert!(containerd.network().unwrap().is_ready);

    folders.cni(&["uninstall"]).unwrap();
    wait_for(&containerd, "the network to be gone", |status| {
        !status.is_ready
    });
    assert_eq!(fs::read_dir(&bin).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&conf).unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(folders.path("rt_protos.d")).unwrap().count(),
        0
    );
}

#[test]
fn an_install_that_is_killed_at_any_moment_never_shows_half_a_file_and_the_next_one_mends_it() {
    require_root!();
    let folders = Folders::new();
    let conf = folders.path("net.d");
    let stop = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                read_all(&conf);
                looks += 1;
            }
            looks
        });
        for kill in 0..60_u64 {
            // Two configurations by turns, one of them long, so that each install has something to write.
            let socket = [
                "/run/a.sock".to_owned(),
                format!("/run/{}.sock", "b".repeat(50_000)),
            ];
            let socket = &socket[usize::from(kill % 2 == 0)];
            let mut command = folders.command(&["install", "--wait", "0s", "--socket", socket]);
            let mut child = command.stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(kill * 500));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(looks > 100, "{looks}");
    folders.cni(&["install", "--wait", "0s"]).unwrap();
    let names: Vec<_> = fs::read_dir(&conf)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [NAME]);
    assert_eq!(fs::read_dir(folders.path("bin")).unwrap().count(), 1);
}

/// What runtimes would read must be whole, and name a plugin that is there.
fn read_all(conf: &Path) {
    for entry in fs::read_dir(conf).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "conflist") {
            let bytes = fs::read(&path).unwrap();
            let config: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(config["plugins"][0]["type"], "portolan-cni");
            assert!(conf.with_file_name("bin").join("portolan-cni").exists());
        }
    }
}

#[test]
fn a_plugin_that_is_running_is_replaced_and_ends_well() {
    require_root!();
    let folders = Folders::new();
    folders.cni(&["install", "--wait", "0s"]).unwrap();
    let installed = folders.path("bin/portolan-cni");
    let mut running = Command::new(&installed)
        .env("CNI_COMMAND", "STATUS")
        .env("CNI_PATH", folders.path("bin"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The same program with a byte more is another file.
    let newer = folders.path("newer");
    fs::copy(&installed, &newer).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(&newer)
        .unwrap()
        .write_all(&[0])
        .unwrap();
    let said = folders
        .cni(&[
            "install",
            "--wait",
            "0s",
            "--plugin",
            newer.to_str().unwrap(),
        ])
        .unwrap();
    assert!(
        said.contains(&format!("written           {}", installed.display())),
        "{said}"
    );
    assert_eq!(fs::read(&installed).unwrap(), fs::read(&newer).unwrap());
    let config = br#"{"cniVersion":"1.1.0","name":"portolan","socket":"/nonexistent/cni.sock"}"#;
    running.stdin.take().unwrap().write_all(config).unwrap();
    let output = running.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["code"], 50, "{answer}");
}

#[test]
fn what_install_says_can_be_read_by_programs() {
    require_root!();
    let folders = Folders::new();
    let text = folders
        .cni(&["install", "--dry-run", "-o", "json"])
        .unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["dryRun"], true);
    assert_eq!(report["files"].as_array().unwrap().len(), 3, "{report}");
    let configuration = report["configuration"].as_str().unwrap();
    let configuration: Value = serde_json::from_str(configuration).unwrap();
    assert_eq!(
        configuration["plugins"][0]["socket"],
        "/run/portolan/cni.sock"
    );
    assert!(!folders.path("bin").exists());
}
