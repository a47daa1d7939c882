//! Installs and uninstalls cut at every step, read all the while, and beside others' files.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::conflist::{Owner, Version};
use super::disk::{Disk, RealDisk, Rehearsal, lock};
use super::folder::Folder;
use super::report::{Change, Report};
use super::stay::Said;
use super::{install, uninstall};

/// A plugin that speaks all versions; the comment is the mark by which an uninstall knows it.
const PLUGIN: &str = r#"#!/bin/sh
# CNI plugin of the Portolan agent
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}';;
STATUS) exit 0;;
esac
"#;
const OLD: &str = r#"{"cniVersion":"0.4.0","name":"portolan","plugins":[{"type":"portolan-cni"}]}"#;
const NEW_NAME: &str = "10-portolan.conflist";
const OLD_NAME: &str = "05-portolan.conflist";

/// A node's folders, and the plugin to install.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::write(node.path("plugin"), PLUGIN).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(node.path("plugin"), executable).unwrap();
        node
    }

    /// As an older release left it: another binary, a configuration under another name, a half-written file.
    fn with_old_release() -> Self {
        let node = Self::new();
        fs::create_dir(node.path("net.d")).unwrap();
        fs::create_dir(node.path("bin")).unwrap();
        fs::write(node.path("net.d").join(OLD_NAME), OLD).unwrap();
        fs::write(node.path("bin/portolan-cni"), "#!/bin/sh\n# an old one\n").unwrap();
        let half = node.path("net.d/.10-portolan.conflist.portolan-new");
        fs::write(half, "{\"cniVer").unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> install::Settings {
        install::Settings {
            bin_dir: self.path("bin"),
            conf_dir: self.path("net.d"),
            conf_name: NEW_NAME.to_owned(),
            plugin: self.path("plugin"),
            version: Version::Auto,
            socket: "/run/portolan/cni.sock".to_owned(),
            state_dir: "/var/lib/portolan".to_owned(),
            wait: Duration::from_secs(5),
            chain: Vec::new(),
            protocol_names: Some(self.path("rt_protos.d")),
            dry_run: false,
        }
    }

    fn install(&self) -> anyhow::Result<Report> {
        install::install(&mut RealDisk, &self.settings())
    }

    fn uninstall(&self, disk: &mut impl Disk) -> anyhow::Result<Report> {
        let settings = uninstall::Settings {
            bin_dir: self.path("bin"),
            conf_dir: self.path("net.d"),
            conf_name: NEW_NAME.to_owned(),
            protocol_names: Some(self.path("rt_protos.d")),
            dry_run: false,
        };
        uninstall::uninstall(disk, &settings)
    }

    fn config(&self) -> Option<String> {
        fs::read_to_string(self.path("net.d").join(NEW_NAME)).ok()
    }

    /// All files below the node's folders, with what they hold.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        for folder in ["bin", "net.d", "rt_protos.d"] {
            let Ok(entries) = fs::read_dir(self.path(folder)) else {
                continue;
            };
            let paths = entries.map(|entry| entry.unwrap().path());
            files.extend(paths.map(|path| (path.clone(), fs::read(path).unwrap())));
        }
        files.sort();
        files
    }
}

/// A disk whose machine dies after so many steps; writing a file is three.
struct Dying {
    left: usize,
}

impl Dying {
    fn step(&mut self) -> io::Result<()> {
        let left = self.left.checked_sub(1);
        self.left = left.ok_or_else(|| io::Error::other("dead"))?;
        Ok(())
    }
}

impl Disk for Dying {
    fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.make_folder(path)
    }

    fn write(&mut self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.step()?;
        fs::File::create_new(path)?;
        self.step()?;
        fs::write(path, &bytes[..bytes.len() / 2])?;
        self.step()?;
        fs::remove_file(path)?;
        RealDisk.write(path, bytes, mode)
    }

    fn set_mode(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        self.step()?;
        RealDisk.set_mode(path, mode)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<bool> {
        self.step()?;
        RealDisk.remove(path)
    }

    fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.sync_folder(path)
    }
}

/// What a runtime finds: nothing it could not read, and no new configuration before the new binary.
fn check_what_a_runtime_sees(node: &Node, new: &str, had_one: bool, at: usize) {
    let folder = Folder::read(&node.path("net.d")).unwrap();
    for entry in &folder.entries {
        assert_eq!(
            entry.owner,
            Owner::Ours,
            "cut at {at}: {}",
            entry.path.display()
        );
    }
    assert!(
        !had_one || !folder.entries.is_empty(),
        "cut at {at}: no network is left"
    );
    if let Some(config) = node.config() {
        assert_eq!(config, new, "cut at {at}");
        let binary = fs::read_to_string(node.path("bin/portolan-cni")).unwrap();
        assert_eq!(
            binary, PLUGIN,
            "cut at {at}: a configuration without its binary"
        );
    }
}

#[test]
fn an_install_cut_at_any_step_leaves_the_old_or_the_new_and_a_second_one_mends_it() {
    let whole = Node::with_old_release();
    whole.install().unwrap();
    let new = whole.config().unwrap();
    for (had_one, make) in [
        (false, Node::new as fn() -> Node),
        (true, Node::with_old_release),
    ] {
        let mut cuts = 0;
        loop {
            let node = make();
            let outcome = install::install(&mut Dying { left: cuts }, &node.settings());
            check_what_a_runtime_sees(&node, &new, had_one, cuts);
            let done = is_whole(outcome);
            node.install().unwrap();
            assert_eq!(
                names_and_bytes(&node),
                names_and_bytes(&whole),
                "cut at {cuts}"
            );
            if done {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 15, "only {cuts} steps were cut");
    }
}

/// A name of a protocol that could not be written is a warning only.
fn is_whole(outcome: anyhow::Result<Report>) -> bool {
    outcome.is_ok_and(|report| !report.warnings.iter().any(|text| text.contains("dead")))
}

fn names_and_bytes(node: &Node) -> Vec<(PathBuf, Vec<u8>)> {
    let files = node.files().into_iter();
    let relative = files.map(|(path, bytes)| {
        let path = path.strip_prefix(node.dir.path()).unwrap().to_owned();
        (path, bytes)
    });
    relative.collect()
}

#[test]
fn an_uninstall_cut_at_any_step_never_leaves_a_configuration_without_its_binary() {
    let mut cuts = 0;
    loop {
        let node = Node::new();
        node.install().unwrap();
        let outcome = node.uninstall(&mut Dying { left: cuts });
        let config = node.config().is_some();
        let binary = node.path("bin/portolan-cni").exists();
        assert!(binary || !config, "cut at {cuts}");
        let done = is_whole(outcome);
        node.uninstall(&mut RealDisk).unwrap();
        assert_eq!(node.files(), [], "cut at {cuts}");
        if done {
            break;
        }
        cuts += 1;
    }
    assert!(cuts >= 4, "only {cuts} steps were cut");
}

/// Lists the folder as containerd does and reads the first file: what it holds, or `None` when no file counts.
fn first_of(folder: &Path) -> Option<String> {
    loop {
        let mut names: Vec<PathBuf> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| super::folder::has_ending(path))
            .collect();
        names.sort();
        let first = names.first()?;
        match fs::read_to_string(first) {
            Ok(text) => return Some(text),
            // An old name went between the list and the read: containerd is told, and lists again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_reader_sees_whole_files_only_in_ten_thousand_looks_while_installs_go_on() {
    let node = Node::new();
    fs::create_dir(node.path("net.d")).unwrap();
    let mut short = node.settings();
    short.protocol_names = None;
    short.wait = Duration::ZERO;
    let mut long = node.settings();
    long.protocol_names = None;
    long.wait = Duration::ZERO;
    long.conf_name = "20-portolan.conflist".to_owned();
    long.socket = format!("/run/{}/cni.sock", "p".repeat(60_000));
    let mut known = vec![None];
    for settings in [&short, &long] {
        install::install(&mut RealDisk, settings).unwrap();
        known.push(first_of(&node.path("net.d")));
    }
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (looks, seen) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                install::install(&mut RealDisk, &short).unwrap();
                install::install(&mut RealDisk, &long).unwrap();
                node.uninstall(&mut RealDisk).unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (mut looks, mut seen) = (0, [0; 4]);
        let started = Instant::now();
        // The last place is for what should not be.
        while seen[3] == 0 && (looks < 10_000 || rounds.load(Ordering::Relaxed) < 10) {
            let first = first_of(&node.path("net.d"));
            let which = known.iter().position(|one| *one == first);
            seen[which.unwrap_or(3)] += 1;
            looks += 1;
            assert_bounded(started, &stop);
        }
        stop.store(true, Ordering::Relaxed);
        (looks, seen)
    });
    assert_eq!(seen[3], 0, "half a file in {looks} looks: {seen:?}");
    assert!(seen[..3].iter().all(|count| *count > 0), "{seen:?}");
}

/// A writer that hangs or fails must not keep the test for ever.
fn assert_bounded(started: Instant, stop: &AtomicBool) {
    if started.elapsed() > Duration::from_secs(120) {
        stop.store(true, Ordering::Relaxed);
        panic!("the installs do not go on");
    }
}

#[test]
fn nothing_is_written_again_that_is_as_it_should_be() {
    let node = Node::new();
    let report = node.install().unwrap();
    assert!(
        report
            .files
            .iter()
            .all(|file| file.change == Change::Written),
        "{report:?}"
    );
    assert_eq!(report.files.len(), 3);
    let inodes = |node: &Node| -> Vec<u64> {
        use std::os::unix::fs::MetadataExt;
        let files = node.files().into_iter();
        files
            .map(|(path, _)| fs::metadata(path).unwrap().ino())
            .collect()
    };
    let before = inodes(&node);
    let report = node.install().unwrap();
    assert!(
        report
            .files
            .iter()
            .all(|file| file.change == Change::Unchanged),
        "{report:?}"
    );
    assert_eq!(inodes(&node), before);
    fs::set_permissions(
        node.path("bin/portolan-cni"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    node.install().unwrap();
    let mode = fs::metadata(node.path("bin/portolan-cni"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn a_plugin_that_does_not_run_or_speak_never_replaces_one_that_does() {
    let node = Node::new();
    node.install().unwrap();
    for (bad, word) in [
        ("\u{1}no program", "cannot run"),
        ("#!/bin/sh\necho hello\n", "VERSION"),
        (
            "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n",
            "does not speak CNI 1.1.0",
        ),
    ] {
        fs::write(node.path("plugin"), bad).unwrap();
        let error = format!("{:#}", node.install().unwrap_err());
        assert!(error.contains(word), "{error}");
        assert_eq!(
            fs::read_to_string(node.path("bin/portolan-cni")).unwrap(),
            PLUGIN
        );
        assert_eq!(fs::read_dir(node.path("bin")).unwrap().count(), 1);
    }
}

#[test]
fn without_a_ready_agent_the_binary_is_there_and_the_configuration_is_not() {
    let node = Node::new();
    let away = PLUGIN.replace(
        "exit 0",
        r#"echo '{"code":50,"msg":"not available","details":"no agent"}'; exit 1"#,
    );
    fs::write(node.path("plugin"), away).unwrap();
    let mut settings = node.settings();
    settings.wait = Duration::from_millis(300);
    let error = format!(
        "{:#}",
        install::install(&mut RealDisk, &settings).unwrap_err()
    );
    assert!(
        error.contains("not ready after 0.3 s") && error.contains("no agent"),
        "{error}"
    );
    assert!(node.path("bin/portolan-cni").exists());
    assert_eq!(fs::read_dir(node.path("net.d")).unwrap().count(), 0);
}

#[test]
fn files_of_others_are_never_touched_and_one_before_ours_is_warned_about() {
    let node = Node::new();
    let others = [
        (
            "net.d/05-lab.conflist",
            r#"{"name":"lab","plugins":[{"type":"bridge"},{"type":"portolan-cni"}]}"#,
        ),
        ("net.d/20-broken.conf", "{"),
        (
            "net.d/30-plain.conf",
            r#"{"name":"x","type":"portolan-cni"}"#,
        ),
        ("bin/bridge", "theirs"),
        ("rt_protos.d/portolan.conf", "200\tportolan\n"),
    ];
    for (name, text) in others {
        fs::create_dir_all(node.path(name).parent().unwrap()).unwrap();
        fs::write(node.path(name), text).unwrap();
    }
    let report = node.install().unwrap();
    let [warning] = report.warnings.as_slice() else {
        panic!("{report:?}");
    };
    assert!(warning.contains("05-lab.conflist"), "{warning}");
    fs::write(
        node.path("bin/portolan-cni"),
        "another's program of that name",
    )
    .unwrap();
    node.uninstall(&mut RealDisk).unwrap();
    for (name, text) in others {
        assert_eq!(fs::read_to_string(node.path(name)).unwrap(), text, "{name}");
    }
    assert_eq!(node.config(), None);
    assert!(node.path("bin/portolan-cni").exists());
}

#[test]
fn a_file_of_our_name_that_is_anothers_is_refused_and_one_nobody_can_read_is_replaced() {
    let node = Node::new();
    fs::create_dir(node.path("net.d")).unwrap();
    let path = node.path("net.d").join(NEW_NAME);
    fs::write(&path, r#"{"name":"lab","plugins":[{"type":"bridge"}]}"#).unwrap();
    let error = format!("{:#}", node.install().unwrap_err());
    assert!(error.contains("of another"), "{error}");
    assert!(
        !node.path("bin").exists(),
        "something was done before it was refused"
    );
    fs::write(&path, "").unwrap();
    node.install().unwrap();
    assert!(node.config().unwrap().contains("portolan-cni"));
}

#[test]
fn a_name_that_no_runtime_would_read_is_refused() {
    let node = Node::new();
    for bad in [
        "10-portolan.conf",
        "../x.conflist",
        ".conflist",
        ".x.conflist",
        "x.conflist.bak",
        "",
    ] {
        let mut settings = node.settings();
        settings.conf_name = bad.to_owned();
        assert!(install::install(&mut RealDisk, &settings).is_err(), "{bad}");
    }
}

#[test]
fn a_plugin_of_the_chain_must_be_there_first() {
    let node = Node::new();
    let mut settings = node.settings();
    settings.chain = vec![serde_json::json!({"type": "tuning"})];
    let error = format!(
        "{:#}",
        install::install(&mut RealDisk, &settings).unwrap_err()
    );
    assert!(error.contains("tuning"), "{error}");
    assert_eq!(node.config(), None);
    fs::write(node.path("bin/tuning"), "").unwrap();
    install::install(&mut RealDisk, &settings).unwrap();
    assert!(node.config().unwrap().contains("tuning"));
}

#[test]
fn a_rehearsal_changes_nothing_and_shows_the_configuration() {
    let node = Node::with_old_release();
    let before = node.files();
    let mut settings = node.settings();
    settings.dry_run = true;
    let report = install::install(&mut Rehearsal, &settings).unwrap();
    assert_eq!(node.files(), before);
    let text = report.table();
    assert!(
        text.contains("would be written") && text.contains("\"cniVersions\""),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "would be removed  {}",
            node.path("net.d").join(OLD_NAME).display()
        )),
        "{text}"
    );
}

#[test]
fn another_install_is_waited_for() {
    let node = Node::new();
    fs::create_dir(node.path("net.d")).unwrap();
    let held = lock(&node.path("net.d")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            node.install().unwrap();
            done.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!done.load(Ordering::SeqCst));
        drop(held);
    });
    assert!(node.config().is_some());
}

#[test]
fn an_installation_that_is_looked_after_speaks_of_what_is_new() {
    let node = Node::new();
    let mut said = Said::default();
    let mut look = || said.news(node.install());
    let first = look().unwrap().unwrap();
    assert!(changed(&first) > 0);
    assert!(look().is_none(), "nothing is new");
    let config = node.path("net.d").join(NEW_NAME);
    fs::remove_file(&config).unwrap();
    let mended = look().unwrap().unwrap();
    assert_eq!(changed(&mended), 1);
    assert!(config.is_file());
    // Another's file is where ours should be: said once, and once more when it is gone.
    fs::write(
        &config,
        r#"{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"x"}]}"#,
    )
    .unwrap();
    let refused = look().unwrap().unwrap_err();
    assert!(format!("{refused:#}").contains("other"), "{refused:#}");
    assert!(look().is_none());
    fs::remove_file(&config).unwrap();
    assert!(look().unwrap().is_ok());
    assert!(look().is_none());
}

fn changed(report: &Report) -> usize {
    let files = report.files.iter();
    files
        .filter(|file| file.change != Change::Unchanged)
        .count()
}
