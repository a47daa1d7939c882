//! The store in a process of its own that is killed at random instants, again and again on the same files.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use ipam::{Holder, Request};

use super::super::disk::Folder;
use super::super::{Leases, Settings};

/// Where the child is to work; who finds it set is the child.
const FOLDER: &str = "PORTOLAN_TEST_KILLS_FOLDER";
const TEST: &str =
    "attachments::tests::kills::a_process_killed_at_random_instants_has_all_that_it_acknowledged";
const KILLS: u64 = 60;
/// Small, so that snapshots come often.
const BOUND: u64 = 6_000;

fn holder(id: u64) -> Holder {
    Holder {
        container_id: format!("c{id}"),
        interface: "eth0".to_owned(),
    }
}

fn open(folder: &Path) -> Leases {
    let mut leases = Leases::open_on(Folder::open(folder).unwrap(), BOUND).unwrap();
    leases.set_cidrs(vec!["10.0.0.0/24".parse().unwrap()]);
    leases
}

/// A sequence that looks random and is the same for the same start (xorshift).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Gives and takes for ever; says before and after each call what it is about.
fn child(folder: &Path) {
    let mut leases = open(folder);
    let mut seed = u64::from(std::process::id()) << 20 | 1;
    let mut out = std::io::stdout();
    let mut now = 100;
    // Ends the line that the test harness has begun.
    writeln!(out).unwrap();
    loop {
        let id = random(&mut seed) % 120;
        now += 1;
        if leases.lease(&holder(id)).is_some() {
            writeln!(out, "release {id}").unwrap();
            leases.release(&holder(id), now).unwrap();
            writeln!(out, "released {id}").unwrap();
        } else {
            writeln!(out, "give {id}").unwrap();
            let request = Request::new(holder(id), now);
            let lease = leases.allocate(&request, Settings::default()).unwrap();
            writeln!(out, "given {id} {}", lease.addresses[0]).unwrap();
        }
    }
}

/// What the child has said: who holds what, and the call that was under way.
#[derive(Default)]
struct Told {
    held: BTreeMap<u64, String>,
    under_way: Option<u64>,
    acknowledged: usize,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["give" | "release", id] => self.under_way = Some(id.parse().unwrap()),
            ["given", id, address] => {
                self.held.insert(id.parse().unwrap(), address.to_owned());
                (self.under_way, self.acknowledged) = (None, self.acknowledged + 1);
            }
            ["released", id] => {
                self.held.remove(&id.parse().unwrap());
                (self.under_way, self.acknowledged) = (None, self.acknowledged + 1);
            }
            // What the test harness says itself.
            _ => {}
        }
    }

    /// Holds what is on disk against what was said; what was under way may have happened or not.
    fn compare(&mut self, found: BTreeMap<u64, String>) {
        let under_way = self.under_way.take();
        let without = |map: &BTreeMap<u64, String>| {
            let mut map = map.clone();
            map.retain(|id, _| Some(*id) != under_way);
            map
        };
        assert_eq!(without(&found), without(&self.held));
        let addresses: std::collections::BTreeSet<_> = found.values().collect();
        assert_eq!(addresses.len(), found.len(), "an address is held twice");
        self.held = found;
    }
}

fn found(folder: &Path) -> BTreeMap<u64, String> {
    let leases = open(folder);
    let read = |lease: &ipam::Lease| {
        let id = lease.holder.container_id.trim_start_matches('c');
        (id.parse().unwrap(), lease.addresses[0].to_string())
    };
    leases.iter().map(read).collect()
}

/// Runs a child and kills it when it has acknowledged so many calls, and done some more by then.
fn kill_one(folder: &Path, after: usize, told: &mut Told) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--test-threads", "1", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut line, mut worked) = (String::new(), false);
    let enough = told.acknowledged + after;
    loop {
        line.clear();
        let read = lines.read_line(&mut line).unwrap();
        // A line without its end was not said.
        if read == 0 || !line.ends_with('\n') {
            break;
        }
        told.hear(line.trim_end());
        worked |= told.under_way.is_some();
        if worked && told.acknowledged >= enough {
            // Said already or still in the pipe: it counts, and is read to the end.
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(
        !status.success() && status.code().is_none(),
        "it was killed, and did not end: {status}"
    );
    worked
}

#[test]
fn a_process_killed_at_random_instants_has_all_that_it_acknowledged() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        child(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut told, mut seed, mut worked, mut torn) = (Told::default(), 0x5eed, 0, 0);
    for _ in 0..KILLS {
        let after = usize::try_from(random(&mut seed) % 200).unwrap();
        worked += u64::from(kill_one(folder.path(), after, &mut told));
        // A copy is opened, so that the next child itself finds what this one left.
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            torn += usize::from(entry.file_name() == "ipam.json.new");
        }
        told.compare(found(copy.path()));
    }
    let snapshot = std::fs::read_to_string(folder.path().join("ipam.json")).unwrap();
    let snapshot: serde_json::Value = serde_json::from_str(&snapshot).unwrap();
    let epoch = snapshot["epoch"].as_u64().unwrap();
    println!(
        "{worked} kills at work, {} calls acknowledged, {epoch} snapshots, {torn} stopped in one",
        told.acknowledged
    );
    assert_eq!(worked, KILLS);
    assert!(told.acknowledged > 2_000, "{}", told.acknowledged);
    assert!(epoch > KILLS, "{epoch}");
}
