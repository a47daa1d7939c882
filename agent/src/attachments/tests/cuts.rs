//! The store against every instant at which a process, a disk or a machine can stop: each file operation is recorded,
//! and each beginning of the record is carried out and opened.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use ipam::{Holder, Request};

use super::super::disk::{Disk, JOURNAL, SNAPSHOT};
use super::super::{Leases, Settings};

/// Small, so that snapshots come often.
const BOUND: u64 = 1_500;

#[derive(Clone, Debug, PartialEq)]
enum Op {
    Append { at: usize, bytes: Vec<u8> },
    Cut(usize),
    SyncJournal,
    WriteNew(Vec<u8>),
    SyncNew,
    RenameNew,
    SyncFolder,
}

impl Op {
    /// How many bytes it writes: it can stop at each of them.
    fn length(&self) -> usize {
        match self {
            Self::Append { bytes, .. } | Self::WriteNew(bytes) => bytes.len(),
            Self::Cut(_)
            | Self::SyncJournal
            | Self::SyncNew
            | Self::RenameNew
            | Self::SyncFolder => 0,
        }
    }

    /// Only its first bytes.
    fn torn(&self, length: usize) -> Self {
        match self {
            Self::Append { at, bytes } => Self::Append {
                at: *at,
                bytes: bytes[..length].to_vec(),
            },
            Self::WriteNew(bytes) => Self::WriteNew(bytes[..length].to_vec()),
            other => other.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Files {
    snapshot: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
    journal: Option<Vec<u8>>,
}

impl Files {
    fn carry_out(&mut self, op: &Op) {
        match op {
            Op::Append { at, bytes } => {
                let journal = self.journal.get_or_insert_default();
                // Whatever is behind stays, as in a file.
                let end = at + bytes.len();
                journal.resize(journal.len().max(end), 0);
                journal[*at..end].copy_from_slice(bytes);
            }
            Op::Cut(length) => self.journal.get_or_insert_default().resize(*length, 0),
            Op::WriteNew(bytes) => self.new = Some(bytes.clone()),
            Op::RenameNew => self.snapshot = Some(self.new.take().expect("it was written")),
            Op::SyncJournal | Op::SyncNew | Op::SyncFolder => {}
        }
    }
}

/// A disk in memory that writes down what is done to it, and fails when it is told to.
#[derive(Clone, Debug, Default)]
struct Recorder {
    files: Files,
    ops: Rc<RefCell<Vec<Op>>>,
    /// From this operation on, for so many, with so many quarters of the bytes written before each fails.
    fails: Option<(usize, usize, usize)>,
    tried: usize,
    boot: &'static str,
}

impl Recorder {
    fn of(files: Files) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    fn carry_out(&mut self, op: Op) -> io::Result<()> {
        let now = self.tried;
        self.tried += 1;
        if let Some((first, count, quarters)) = self.fails
            && (first..first + count).contains(&now)
        {
            let written = op.length() * quarters / 4;
            if written > 0 {
                self.files.carry_out(&op.torn(written));
            }
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.files.carry_out(&op);
        self.ops.borrow_mut().push(op);
        Ok(())
    }
}

impl Disk for Rc<RefCell<Recorder>> {
    fn place(&self) -> String {
        "memory".to_owned()
    }
    fn boot(&self) -> String {
        self.borrow().boot.to_owned()
    }
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        let files = &self.borrow().files;
        Ok(match file {
            SNAPSHOT => files.snapshot.clone(),
            JOURNAL => files.journal.clone(),
            other => panic!("{other} is no file of the store"),
        })
    }
    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (at, bytes) = (usize::try_from(at).unwrap(), bytes.to_vec());
        self.borrow_mut().carry_out(Op::Append { at, bytes })
    }
    fn cut(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap();
        self.borrow_mut().carry_out(Op::Cut(length))
    }
    fn sync_journal_soon(&self) {
        self.borrow().ops.borrow_mut().push(Op::SyncJournal);
    }
    fn write_new(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.borrow_mut().carry_out(Op::WriteNew(bytes.to_vec()))
    }
    fn sync_new(&mut self) -> io::Result<()> {
        self.borrow_mut().carry_out(Op::SyncNew)
    }
    fn rename_new(&mut self) -> io::Result<()> {
        self.borrow_mut().carry_out(Op::RenameNew)
    }
    fn sync_folder(&mut self) -> io::Result<()> {
        self.borrow_mut().carry_out(Op::SyncFolder)
    }
    fn sync_problem(&self) -> Option<String> {
        None
    }
}

type Store = Leases<Rc<RefCell<Recorder>>>;
type State = BTreeMap<Holder, (Vec<IpAddr>, Settings)>;

fn open(recorder: Recorder) -> (Rc<RefCell<Recorder>>, Store) {
    let disk = Rc::new(RefCell::new(recorder));
    let mut store = Leases::open_on(Rc::clone(&disk), BOUND).expect("what a crash left is read");
    store.set_cidrs(vec![
        "10.0.0.0/28".parse().unwrap(),
        "fd00::/124".parse().unwrap(),
    ]);
    store.set_cool_down(3);
    (disk, store)
}

fn state(store: &Store) -> State {
    store
        .iter()
        .map(|lease| {
            let settings = store.settings(&lease.holder);
            (lease.holder.clone(), (lease.addresses.clone(), settings))
        })
        .collect()
}

/// Nobody has what another has, and what rests is nobody's.
fn assert_sound(store: &Store) {
    let held = store.iter().flat_map(|lease| lease.addresses.clone());
    let held: Vec<IpAddr> = held.collect();
    let distinct: BTreeSet<_> = held.iter().collect();
    assert_eq!(distinct.len(), held.len());
    let resting: Vec<IpAddr> = store.ipam().cooling(0).map(|entry| entry.address).collect();
    assert!(resting.iter().all(|address| !distinct.contains(address)));
}

/// One call in a fixed sequence that has all kinds of them in it; whether the store took it.
fn call(store: &mut Store, step: usize) -> bool {
    // Coprime steps: every holder comes and goes, at different distances.
    let holder = Holder {
        container_id: format!("c{}", step * 7 % 11),
        interface: "eth0".to_owned(),
    };
    let now = 100 + step as u64;
    if store.lease(&holder).is_some() && !step.is_multiple_of(3) {
        return store.release(&holder, now).is_ok();
    }
    let ports = step.is_multiple_of(4).then(|| cni_spec::PortMapping {
        host_port: 8000 + u16::try_from(step).unwrap(),
        container_port: 80,
        protocol: cni_spec::PortProtocol::Tcp,
        host_ip: None,
    });
    let settings = Settings {
        ports: ports.into_iter().collect(),
        ..Settings::default()
    };
    let request = Request {
        uid: format!("u{step}"),
        ..Request::new(holder, now)
    };
    store.allocate(&request, settings).is_ok()
}

/// What was done to the disk, and after how many operations which state was acknowledged.
fn run(steps: usize) -> (Vec<Op>, Vec<(usize, State)>) {
    let (mut disk, mut store) = open(Recorder::default());
    let ops = Rc::clone(&disk.borrow().ops);
    let mut acknowledged = vec![(0, State::new()), (ops.borrow().len(), state(&store))];
    for step in 0..steps {
        if step % 9 == 5 {
            let recorder = Recorder {
                ops: Rc::clone(&ops),
                ..Recorder::of(disk.borrow().files.clone())
            };
            (disk, store) = open(recorder);
        }
        assert!(call(&mut store, step));
        acknowledged.push((ops.borrow().len(), state(&store)));
    }
    let ops = ops.borrow().clone();
    (ops, acknowledged)
}

/// The state acknowledged before an operation, and the one that the call it belongs to leads to.
fn around(acknowledged: &[(usize, State)], op: usize) -> [&State; 2] {
    let next = acknowledged.partition_point(|(after, _)| *after <= op);
    let last = acknowledged.len() - 1;
    [&acknowledged[next - 1].1, &acknowledged[next.min(last)].1]
}

#[test]
fn a_process_that_stops_at_any_byte_of_any_write_has_all_that_it_acknowledged_and_no_more() {
    let (ops, acknowledged) = run(60);
    let count = |wanted: fn(&Op) -> bool| ops.iter().filter(|op| wanted(op)).count();
    let (appends, snapshots) = (
        count(|op| matches!(op, Op::Append { .. })),
        count(|op| matches!(op, Op::RenameNew)),
    );
    assert!(appends >= 50 && snapshots >= 8, "{appends}, {snapshots}");
    let (mut before, mut cuts, mut within) = (Files::default(), 0, 0);
    for (at, op) in ops.iter().enumerate() {
        let [old, new] = around(&acknowledged, at);
        for length in 0..=op.length() {
            let mut files = before.clone();
            if op.length() > 0 && length > 0 {
                files.carry_out(&op.torn(length));
            }
            let (disk, mut store) = open(Recorder::of(files));
            let found = state(&store);
            let is_begun = acknowledged.iter().all(|(after, _)| *after != at) || length > 0;
            assert!(
                found == *old || (is_begun && found == *new),
                "operation {at}, byte {length}"
            );
            assert_sound(&store);
            cuts += 1;
            // A piece of a write, or the first and last of an operation, and then it goes on.
            if length % 16 == 0 || length == op.length() {
                within += goes_on(&disk, &mut store, at);
            }
        }
        before.carry_out(op);
        let found = state(&open(Recorder::of(before.clone())).1);
        assert!(
            around(&acknowledged, at + 1).contains(&&found),
            "after operation {at}"
        );
    }
    println!(
        "{cuts} cuts, {within} cuts of what followed, {appends} records, {snapshots} snapshots"
    );
    assert!(cuts > 10_000 && within > 1_000, "{cuts}, {within}");
}

/// The store that was opened works, what it wrote when it was opened can be cut as well, and another start finds all.
fn goes_on(disk: &Rc<RefCell<Recorder>>, store: &mut Store, step: usize) -> usize {
    let opened = state(store);
    let recovery = disk.borrow().ops.borrow().clone();
    let mut files = disk.borrow().files.clone();
    for following in 0..3 {
        assert!(call(store, step + following * 5), "the store goes on");
        assert_sound(store);
    }
    let done = state(store);
    let end = disk.borrow().files.clone();
    assert_eq!(state(&open(Recorder::of(end)).1), done);
    let mut cuts = 0;
    // The snapshot that replaced what was found, stopped half-way.
    files.new = None;
    for op in recovery.iter().rev() {
        if let Op::WriteNew(bytes) = op {
            files.new = Some(bytes[..bytes.len() / 2].to_vec());
            assert_eq!(state(&open(Recorder::of(files.clone())).1), opened);
            cuts += 1;
        }
    }
    cuts + 1
}

#[test]
fn a_second_crash_while_the_first_is_mended_loses_nothing() {
    let (ops, acknowledged) = run(24);
    let (mut before, mut cuts) = (Files::default(), 0);
    for (at, op) in ops.iter().enumerate() {
        let mut files = before.clone();
        if op.length() > 0 {
            files.carry_out(&op.torn(op.length() / 2));
        }
        let (disk, store) = open(Recorder::of(files.clone()));
        let found = state(&store);
        assert!(around(&acknowledged, at).contains(&&found));
        let mending = disk.borrow().ops.borrow().clone();
        for (done, stopped) in mending.iter().enumerate() {
            // Every byte of it has been tried on a state of its own above; here the ends, and some between.
            let between = (0..stopped.length()).step_by(23);
            for length in between.chain([stopped.length()]) {
                let mut again = files.clone();
                mending[..done].iter().for_each(|op| again.carry_out(op));
                if length > 0 {
                    again.carry_out(&stopped.torn(length));
                }
                assert_eq!(
                    state(&open(Recorder::of(again)).1),
                    found,
                    "{at}, {done}, {length}"
                );
                cuts += 1;
            }
        }
        before.carry_out(op);
    }
    println!("{cuts} second cuts");
    assert!(cuts > 2_000, "{cuts}");
}

#[test]
fn a_disk_that_fails_at_any_operation_gives_nothing_takes_nothing_and_stays_readable() {
    let steps = 30;
    let total = run(steps).0.len();
    let (mut refused, mut runs) = (0, 0);
    for first in 0..total {
        for (count, quarters) in [(1, 0), (1, 2), (2, 3), (3, 1), (7, 2)] {
            let (disk, mut store) = open(Recorder {
                fails: Some((first, count, quarters)),
                ..Recorder::default()
            });
            for step in 0..steps {
                let before = state(&store);
                if !call(&mut store, step) {
                    refused += 1;
                    assert_eq!(state(&store), before, "what was refused has no effect");
                }
                assert_sound(&store);
                // The process may stop here.
                let files = disk.borrow().files.clone();
                assert_eq!(state(&open(Recorder::of(files)).1), state(&store));
            }
            assert!(!state(&store).is_empty());
            runs += 1;
        }
    }
    println!("{runs} runs, {refused} calls refused");
    assert!(runs > 200 && refused > 200, "{runs}, {refused}");
}

#[test]
fn a_machine_that_stops_at_any_operation_is_started_with_a_state_it_had_and_no_address_twice() {
    let (ops, acknowledged) = run(120);
    let (mut now, mut synced) = (Files::default(), 0);
    // What is on the disk for certain: the journal as of the last call for it, the snapshot as of the last rename.
    let mut disk = Files::default();
    let mut cuts = 0;
    for (at, op) in ops.iter().enumerate() {
        now.carry_out(op);
        match op {
            // Every third call has not been followed by the thread yet.
            Op::SyncJournal if at % 3 != 0 => {
                disk.journal.clone_from(&now.journal);
                synced = at;
            }
            Op::SyncNew => disk.new.clone_from(&now.new),
            Op::SyncFolder => {
                assert_eq!(
                    disk.new.take(),
                    now.snapshot,
                    "synced before it was renamed"
                );
                disk.snapshot.clone_from(&now.snapshot);
                synced = at;
            }
            Op::SyncJournal | Op::Append { .. } | Op::Cut(_) | Op::WriteNew(_) | Op::RenameNew => {}
        }
        let possible = possible_states(&acknowledged, synced, at);
        for journal in lost_ends(&disk, &now) {
            // The rename may have reached the disk before it was asked for.
            for snapshot in [&disk.snapshot, &now.snapshot] {
                let is_new = snapshot == &now.snapshot && snapshot != &disk.snapshot;
                if is_new && disk.new.is_none() {
                    continue;
                }
                let files = Files {
                    snapshot: snapshot.clone(),
                    new: None,
                    journal: journal.clone(),
                };
                let (_, store) = open(Recorder {
                    boot: "another",
                    ..Recorder::of(files)
                });
                assert_sound(&store);
                assert!(possible.contains(&&state(&store)), "operation {at}");
                cuts += 1;
            }
        }
    }
    println!("{cuts} stops of the machine");
    assert!(cuts > 800, "{cuts}");
}

/// What was acknowledged since the last synced operation, and what was under way.
fn possible_states(acknowledged: &[(usize, State)], synced: usize, at: usize) -> Vec<&State> {
    let first = acknowledged.partition_point(|(after, _)| *after <= synced);
    let last = acknowledged.partition_point(|(after, _)| *after <= at);
    let states = &acknowledged[first.saturating_sub(1)..=last.min(acknowledged.len() - 1)];
    states.iter().map(|(_, state)| state).collect()
}

/// The journal as it may be found: all of it, what was synced, and the rest as zeros or with a hole in it.
fn lost_ends(disk: &Files, now: &Files) -> Vec<Option<Vec<u8>>> {
    let (old, new) = (
        disk.journal.clone(),
        now.journal.clone().unwrap_or_default(),
    );
    let known = old.as_deref().unwrap_or_default();
    let mut ends = vec![Some(new.clone()), old.clone()];
    if new.starts_with(known) && new.len() > known.len() {
        let mut zeros = new.clone();
        zeros[known.len()..].fill(0);
        ends.push(Some(zeros));
        // Only where a record says which start of the machine wrote it: otherwise it is damage, and is said.
        if !known.is_empty() {
            let mut hole = new.clone();
            let middle = known.len() + (new.len() - known.len()) / 2;
            hole[known.len()..middle].fill(0);
            ends.push(Some(hole));
        }
    }
    ends
}
