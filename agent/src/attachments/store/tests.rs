//! What the store keeps and refuses, on real files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cni_spec::{Bandwidth, PortMapping, PortProtocol};

use super::*;

fn holder(id: &str) -> Holder {
    Holder {
        container_id: id.to_owned(),
        interface: "eth0".to_owned(),
    }
}

fn request(id: &str) -> Request {
    Request::new(holder(id), 100)
}

fn open(folder: &Path) -> Leases {
    let mut leases = Leases::open(folder).unwrap();
    leases.set_cidrs(vec!["10.244.1.0/24".parse().unwrap()]);
    leases
}

fn error(folder: &Path) -> String {
    format!("{:#}", Leases::open(folder).unwrap_err())
}

fn give(leases: &mut Leases, id: &str) -> Lease {
    leases.allocate(&request(id), Settings::default()).unwrap()
}

fn settings() -> Settings {
    Settings {
        ports: vec![PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: PortProtocol::Tcp,
            host_ip: None,
        }],
        bandwidth: Some(Bandwidth {
            ingress_rate: 1_000_000,
            ingress_burst: 100_000,
            ..Bandwidth::default()
        }),
        mac: Some([2, 0, 0, 0, 0, 1]),
        delegated: true,
        routes: vec!["192.0.2.0/24".parse().unwrap()],
    }
}

#[test]
fn a_restart_finds_the_same_leases_and_settings_in_the_journal_and_in_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let mut leases = open(folder.path());
    let first = leases.allocate(&request("a"), settings()).unwrap();
    let second = give(&mut leases, "b");
    give(&mut leases, "c");
    // Another ADD of the same one has the settings it asks for.
    let mut other = settings();
    other.ports.clear();
    assert_eq!(
        leases.allocate(&request("b"), other.clone()).unwrap(),
        second
    );
    let gone = leases.release(&holder("c"), 101).unwrap().unwrap();
    assert_eq!(gone.1, Settings::default());
    assert!(leases.release(&holder("c"), 101).unwrap().is_none());
    let written = fs::metadata(folder.path().join("ipam.journal")).unwrap();
    assert!(written.len() > 500);
    assert_eq!(written.permissions().mode() & 0o777, 0o600);
    // The first start reads the journal and makes it a snapshot, the second reads that.
    for _ in 0..2 {
        drop(leases);
        leases = open(folder.path());
        assert_eq!(leases.iter().collect::<Vec<_>>(), [&first, &second]);
        assert_eq!(leases.settings(&holder("a")), settings());
        assert_eq!(leases.settings(&holder("b")), other);
        assert_eq!(leases.ipam().cooling(101).count(), 1);
        assert_eq!(
            fs::metadata(folder.path().join("ipam.journal"))
                .unwrap()
                .len(),
            0
        );
    }
    assert_eq!(give(&mut leases, "a"), first);
    assert_eq!(leases.settings(&holder("a")), Settings::default());
    assert_eq!(
        leases.release(&holder("b"), 102).unwrap(),
        Some((second, other))
    );
    assert_eq!(leases.sync_problem(), None);
}

#[test]
fn what_an_earlier_release_wrote_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ipam.json");
    let old = r#"{"version":1,"leases":[{"containerId":"a","interface":"eth0","pod":{"namespace":"web","name":"a-0"},"uid":"u-1","addresses":["10.244.1.1"]}],"lastGiven":["10.244.1.2"]}"#;
    fs::write(&file, old).unwrap();
    let mut leases = open(folder.path());
    assert_eq!(leases.iter().count(), 1);
    // An earlier release would not see the journal: from now on it must refuse the snapshot.
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains(r#""version":2"#)
    );
    assert_eq!(
        give(&mut leases, "b").addresses[0].to_string(),
        "10.244.1.3"
    );
    drop(leases);
    assert_eq!(open(folder.path()).iter().count(), 2);
}

#[test]
fn a_full_journal_gives_way_to_a_snapshot_and_nothing_is_lost_by_that() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let mut leases = Leases::open_on(Folder::open(folder.path()).unwrap(), 4096).unwrap();
        leases.set_cidrs(vec!["10.244.0.0/16".parse().unwrap()]);
        leases
    };
    let mut leases = open();
    for n in 0..200 {
        give(&mut leases, &format!("c{n}"));
    }
    let snapshot = fs::metadata(folder.path().join("ipam.json")).unwrap().len();
    let journal = fs::metadata(folder.path().join("ipam.journal"))
        .unwrap()
        .len();
    assert!(snapshot > 5_000, "{snapshot}");
    assert!(journal < 4096.max(2 * snapshot) + 512, "{journal}");
    drop(leases);
    assert_eq!(open().iter().count(), 200);
}

#[test]
fn a_snapshot_that_cannot_be_written_takes_no_running_pods_address_away() {
    let folder = tempfile::tempdir().unwrap();
    let first = give(&mut open(folder.path()), "a");
    // A folder where the temporary file should be makes that write fail, for root too.
    fs::create_dir(folder.path().join("ipam.json.new")).unwrap();
    let mut leases = open(folder.path());
    // The journal still takes records behind the snapshot there is.
    let second = give(&mut leases, "b");
    drop(leases);
    assert_eq!(
        open(folder.path()).iter().collect::<Vec<_>>(),
        [&first, &second]
    );
    // Without any snapshot nothing can be given, and that is said.
    let other = tempfile::tempdir().unwrap();
    fs::create_dir(other.path().join("ipam.json.new")).unwrap();
    let mut leases = open(other.path());
    let error = leases
        .allocate(&request("a"), Settings::default())
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("ipam.json: no address is given"),
        "{error:#}"
    );
    assert_eq!(leases.iter().count(), 0);
    fs::remove_dir(other.path().join("ipam.json.new")).unwrap();
    give(&mut leases, "a");
}

#[test]
fn a_journal_that_cannot_be_written_gives_nothing_and_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut leases = open(folder.path());
    let first = give(&mut leases, "a");
    drop(leases);
    // Another start has it in the snapshot.
    drop(open(folder.path()));
    // A device that is always full, in the journal's place.
    fs::remove_file(folder.path().join("ipam.journal")).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("ipam.journal")).unwrap();
    let disk = FullDisk(Folder::open(folder.path()).unwrap());
    let mut leases = Leases::open_on(disk, BOUND).unwrap();
    leases.set_cidrs(vec!["10.244.1.0/24".parse().unwrap()]);
    let before = leases.ipam().snapshot();
    let error = leases
        .allocate(&request("b"), Settings::default())
        .unwrap_err();
    assert!(format!("{error:#}").contains("No space left"), "{error:#}");
    assert!(leases.allocate(&request("a"), settings()).is_err());
    assert!(leases.release(&holder("a"), 101).is_err());
    assert_eq!(leases.ipam().snapshot(), before);
    assert_eq!(leases.settings(&holder("a")), Settings::default());
    assert_eq!(leases.lease(&holder("a")), Some(&first));
}

/// A folder whose journal reads as empty and cannot be cut, as `/dev/full` is.
struct FullDisk(Folder);

impl Disk for FullDisk {
    fn place(&self) -> String {
        self.0.place()
    }
    fn boot(&self) -> String {
        self.0.boot()
    }
    fn read(&self, file: &str) -> std::io::Result<Option<Vec<u8>>> {
        if file == "ipam.json" {
            return self.0.read(file);
        }
        Ok(None)
    }
    fn append(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.append(at, bytes)
    }
    fn cut(&mut self, length: u64) -> std::io::Result<()> {
        self.0.cut(length)
    }
    fn sync_journal_soon(&self) {
        self.0.sync_journal_soon();
    }
    fn write_new(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_new(bytes)
    }
    fn sync_new(&mut self) -> std::io::Result<()> {
        self.0.sync_new()
    }
    fn rename_new(&mut self) -> std::io::Result<()> {
        self.0.rename_new()
    }
    fn sync_folder(&mut self) -> std::io::Result<()> {
        self.0.sync_folder()
    }
    fn sync_problem(&self) -> Option<String> {
        self.0.sync_problem()
    }
}

#[test]
fn a_damaged_file_is_named_with_the_way_out_and_never_guessed_around() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ipam.json"), b"not json").unwrap();
    assert!(error(folder.path()).contains("ipam.json is damaged: put back"));

    let folder = tempfile::tempdir().unwrap();
    let mut leases = open(folder.path());
    for id in ["a", "b", "c"] {
        give(&mut leases, id);
    }
    drop(leases);
    let journal = folder.path().join("ipam.journal");
    let whole = fs::read(&journal).unwrap();
    let mut damaged = whole.clone();
    damaged[200] ^= 1;
    fs::write(&journal, &damaged).unwrap();
    let told = error(folder.path());
    assert!(told.contains("ipam.journal is damaged at byte"), "{told}");
    assert!(told.contains(
        "put back a copy of ipam.json and ipam.journal of one time, or remove both once no pod runs"
    ));
    // A torn end is none.
    fs::write(&journal, &whole[..whole.len() - 3]).unwrap();
    assert_eq!(open(folder.path()).iter().count(), 2);
}

#[test]
fn a_journal_is_never_carried_out_on_a_snapshot_that_is_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let [snapshot, journal] = ["ipam.json", "ipam.journal"].map(|name| folder.path().join(name));
    let mut leases = open(folder.path());
    give(&mut leases, "a");
    drop(leases);
    let (old_snapshot, old_journal) = (fs::read(&snapshot).unwrap(), fs::read(&journal).unwrap());
    let mut leases = open(folder.path());
    leases.release(&holder("a"), 101).unwrap();
    give(&mut leases, "b");
    drop(leases);
    // The journal of the epoch before, left by a crash: all of it is in the snapshot.
    drop(open(folder.path()));
    fs::write(&journal, old_journal).unwrap();
    let leases = open(folder.path());
    assert_eq!(
        leases.iter().map(|lease| &lease.holder).collect::<Vec<_>>(),
        [&holder("b")]
    );
    drop(leases);
    // A snapshot from before the journal: somebody put it there.
    give(&mut open(folder.path()), "c");
    fs::write(&snapshot, old_snapshot).unwrap();
    let told = error(folder.path());
    assert!(told.contains("ipam.json is of epoch 1"), "{told}");
    fs::remove_file(&snapshot).unwrap();
    assert!(error(folder.path()).contains("ipam.json is of epoch 0"));
}

#[test]
fn a_record_that_does_not_fit_the_state_is_damage_too() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("ipam.journal");
    let mut leases = open(folder.path());
    give(&mut leases, "a");
    let before = fs::read(&journal).unwrap().len();
    give(&mut leases, "b");
    drop(leases);
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend_from_within(before..);
    fs::write(&journal, bytes).unwrap();
    let told = error(folder.path());
    assert!(told.contains("does not fit its snapshot"), "{told}");
    assert!(told.contains("container b is there twice"), "{told}");
}

#[test]
fn two_agents_never_keep_their_leases_in_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let leases = open(folder.path());
    let told = error(folder.path());
    assert!(told.contains("another agent keeps its leases in"), "{told}");
    drop(leases);
    open(folder.path());
}

#[test]
fn the_last_breath_of_a_killed_agent_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut killed = open(folder.path());
    give(&mut killed, "a");
    // Its child, which has not become another program yet.
    let child = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(killed);
    });
    let leases = open(folder.path());
    assert_eq!(leases.iter().count(), 1);
    child.join().unwrap();
}

#[test]
fn a_record_costs_little_and_never_waits_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut leases = open(folder.path());
    leases.set_cidrs(vec!["10.0.0.0/16".parse().unwrap()]);
    let mut took: Vec<_> = (0..2_000)
        .map(|n| {
            let request = Request::new(holder(&format!("c{n}")), 100);
            let start = std::time::Instant::now();
            leases.allocate(&request, Settings::default()).unwrap();
            start.elapsed()
        })
        .collect();
    took.sort();
    let (median, worst) = (took[1_000], took[1_999]);
    println!(
        "allocation with its record: p50 {median:?}, p99 {:?}, worst {worst:?}",
        took[1_980]
    );
    // A synced write takes milliseconds; this is some microseconds.
    assert!(median < std::time::Duration::from_millis(1), "{median:?}");
}
