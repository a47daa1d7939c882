//! Watches the directory: a notice, or time, leads to a whole re-read, and differences go out.

use crate::refresh::{self, Refreshes};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::metadata::is_dns_subdomain;
use api::{Change, Event};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc, watch};

use crate::blocks::{BLOCKS_FOLDER, BlockContents};
use crate::directory::{self, STATUS_FOLDER};
use crate::document::Contents;
use crate::held::HeldFiles;
use crate::merge::{State, difference, merge};
use crate::status::{DirectoryWriter, StatusContents, StatusWriter};
use crate::{Error, Problem, Source};

/// `.NAME.bgpnodestatus.json` fits into 255 characters.
const LONGEST_NODE_NAME: usize = 235;

/// How many events wait for the reader before the watcher waits for it.
const QUEUE: usize = 256;

/// How long it must be quiet after a notice, and how long at most to wait for that: some times what the last read cost,
/// so that reading takes a fifth of a core at most while changes never stop.
const QUIET: Duration = Duration::from_millis(50);
const WAIT_PER_COST: u32 = 4;
const SHORTEST_LONGEST_WAIT: Duration = Duration::from_millis(150);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// How often to read without a notice, in case one was lost; and how often while a watch is missing.
const RESCAN: Duration = Duration::from_secs(30);
const RESCAN_UNWATCHED: Duration = Duration::from_millis(500);

/// Reads the directory and watches it from then on. Must be called inside a tokio runtime.
///
/// # Errors
/// The directory cannot be read or watched, or `node` is no name. Broken files are no error: see
/// [`Source::problems`].
pub fn watch_manifests(dir: &Path, node: &str) -> Result<Source, Error> {
    // A node's name becomes that of files, which have at most 255 characters, and no two may be the same.
    let is_taken = directory::is_for_people(&format!("{node}.json"));
    if !is_dns_subdomain(node) || node.len() > LONGEST_NODE_NAME || is_taken {
        return Err(Error::NodeName(node.to_owned()));
    }
    let (problems, problem_reader) = watch::channel(Vec::new());
    let mut source = Folder {
        directory: dir.to_owned(),
        manifests: HeldFiles::default(),
        statuses: HeldFiles::default(),
        blocks: HeldFiles::default(),
        problems,
        settles_at: None,
    };
    // First the watches, then the read: what changes between is noticed.
    let noticed = Arc::new(Notify::new());
    let mut watches = Watches::new(dir, Arc::clone(&noticed))?;
    watches.renew();
    let state = source
        .read(Instant::now())
        .map_err(|source| Error::Directory {
            path: dir.to_owned(),
            source,
        })?;
    let (sender, events) = mpsc::channel(QUEUE);
    let (refresh, refreshes) = refresh::channel();
    tokio::spawn(run(source, watches, noticed, refreshes, (state, sender)));
    Ok(Source {
        events,
        status: StatusWriter::of_directory(DirectoryWriter::new(dir, node)),
        refresh,
        problems: problem_reader,
        away: watch::Sender::default().subscribe(),
        pods: None,
        address_leases: None,
    })
}

/// What is known of the directory.
struct Folder {
    directory: PathBuf,
    manifests: HeldFiles<Contents>,
    statuses: HeldFiles<StatusContents>,
    blocks: HeldFiles<BlockContents>,
    problems: watch::Sender<Vec<Problem>>,
    /// When a loss that is not believed yet will be.
    settles_at: Option<Instant>,
}

impl Folder {
    fn read(&mut self, now: Instant) -> std::io::Result<State> {
        let snapshot = directory::read(&self.directory)?;
        let settling = [
            self.manifests.update(snapshot.manifests, now),
            self.statuses.update(snapshot.statuses, now),
            self.blocks.update(snapshot.blocks, now),
        ];
        self.settles_at = settling.into_iter().flatten().min();
        let (state, problems) = merge(
            &self.directory,
            &self.manifests,
            &self.statuses,
            &self.blocks,
        );
        self.tell(problems);
        Ok(state)
    }

    fn tell(&self, problems: Vec<Problem>) {
        self.problems.send_if_modified(|told| {
            let changed = *told != problems;
            if changed {
                for problem in problems.iter().filter(|problem| !told.contains(problem)) {
                    tracing::warn!(%problem, "manifest");
                }
                *told = problems;
            }
            changed
        });
    }

    /// A directory that is gone or cannot be listed takes nothing away.
    fn tell_unreadable(&self, error: &std::io::Error) {
        let mut problems = self.problems.borrow().clone();
        problems.retain(|problem| problem.file != self.directory);
        problems.push(Problem {
            file: self.directory.clone(),
            line: None,
            object: None,
            message: format!("the directory cannot be read, its last state stays: {error}"),
        });
        problems.sort();
        self.tell(problems);
    }
}

async fn run(
    mut source: Folder,
    mut watches: Watches,
    noticed: Arc<Notify>,
    mut refreshes: Refreshes,
    (first, sender): (State, mpsc::Sender<Event>),
) {
    let mut told = State::new();
    let changes = difference(&told, &first);
    told = first;
    if tell(&sender, changes).await.is_none() || sender.send(Event::InSync).await.is_err() {
        return;
    }
    let mut cost = Duration::ZERO;
    loop {
        let longest = (cost * WAIT_PER_COST).clamp(SHORTEST_LONGEST_WAIT, LONGEST_WAIT);
        let wait = source
            .settles_at
            .map(|at| at.saturating_duration_since(Instant::now()));
        let rescan = if watches.complete {
            RESCAN
        } else {
            RESCAN_UNWATCHED
        };
        let mut asked = Vec::new();
        tokio::select! {
            () = sender.closed() => return,
            Some(reply) = refreshes.recv() => asked.push(reply),
            () = quiet_after_notice(&noticed, longest) => {}
            () = tokio::time::sleep(wait.unwrap_or(rescan).min(rescan)) => {}
        }
        while let Ok(reply) = refreshes.try_recv() {
            asked.push(reply);
        }
        let start = Instant::now();
        let read = tokio::task::spawn_blocking(move || {
            watches.renew();
            // Comparing and forgetting thousands of objects takes its time, too: not on the thread of others' tasks.
            let changes = source.read(Instant::now()).map(|state| {
                let changes = difference(&told, &state);
                told = state;
                changes
            });
            (source, watches, told, changes)
        });
        // The reading task ends by itself; only a runtime that shuts down takes it away.
        let Ok((source_back, watches_back, told_back, changes)) = read.await else {
            return;
        };
        (source, watches, told) = (source_back, watches_back, told_back);
        cost = start.elapsed();
        match changes {
            Ok(changes) => {
                if tell(&sender, changes).await.is_none() {
                    return;
                }
            }
            Err(error) => source.tell_unreadable(&error),
        }
        for reply in asked {
            // Who went away needs no answer.
            let _ = reply.send(());
        }
    }
}

/// Sends what differs from what was told; waits for a slow reader. `None` if there is no reader.
async fn tell(sender: &mpsc::Sender<Event>, changes: Vec<Change>) -> Option<()> {
    for change in changes {
        sender.send(Event::Change(change)).await.ok()?;
    }
    Some(())
}

async fn quiet_after_notice(noticed: &Notify, longest: Duration) {
    noticed.notified().await;
    let longest = tokio::time::Instant::now() + longest;
    while tokio::time::Instant::now() < longest {
        if tokio::time::timeout(QUIET, noticed.notified())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// The inotify watches: of the directory, its status folder and the blocks in it, which may be replaced or not be there.
struct Watches {
    watcher: RecommendedWatcher,
    folders: [Watched; 3],
    /// Whether the directory itself is watched as it is now.
    complete: bool,
}

struct Watched {
    path: PathBuf,
    /// Which folder the watch is on.
    identity: Option<(u64, u64)>,
}

impl Watches {
    fn new(directory: &Path, noticed: Arc<Notify>) -> Result<Self, Error> {
        let handler = move |event: notify::Result<notify::Event>| {
            // Our own reading is no news; an error (an overflow, say) is a reason to read.
            let ours =
                matches!(&event, Ok(event) if is_mere_reading(event.kind) || is_for_people(event));
            if !ours {
                noticed.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(handler).map_err(|source| Error::Watch {
            path: directory.to_owned(),
            source,
        })?;
        let watched = |path: PathBuf| Watched {
            path,
            identity: None,
        };
        let folders = [
            watched(directory.to_owned()),
            watched(directory.join(STATUS_FOLDER)),
            watched(directory.join(STATUS_FOLDER).join(BLOCKS_FOLDER)),
        ];
        Ok(Self {
            watcher,
            folders,
            complete: false,
        })
    }

    /// Sets the watches that are missing or on a folder that has been replaced.
    fn renew(&mut self) {
        for folder in &mut self.folders {
            let identity = directory::identity(&folder.path);
            if identity == folder.identity {
                continue;
            }
            // The old watch may be gone already with its folder.
            let _ = self.watcher.unwatch(&folder.path);
            folder.identity = None;
            if identity.is_some() {
                match self
                    .watcher
                    .watch(&folder.path, RecursiveMode::NonRecursive)
                {
                    Ok(()) => folder.identity = identity,
                    Err(error) => {
                        tracing::warn!(folder = %folder.path.display(), %error, "not watched")
                    }
                }
            }
        }
        self.complete = self
            .folders
            .first()
            .is_some_and(|folder| folder.identity.is_some());
    }
}

/// Whether only files are concerned that nobody reads configuration from.
fn is_for_people(event: &notify::Event) -> bool {
    let is_one = |path: &PathBuf| {
        directory::is_for_people(&path.to_string_lossy())
            && path
                .parent()
                .is_some_and(|folder| folder.ends_with(STATUS_FOLDER))
    };
    !event.need_rescan() && !event.paths.is_empty() && event.paths.iter().all(is_one)
}

fn is_mere_reading(kind: EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn our_own_reading_is_no_notice_and_another_s_writing_is() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(STATUS_FOLDER)).expect("a folder");
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "# nothing").expect("a file");
        let noticed = Arc::new(Notify::new());
        let mut watches = Watches::new(folder.path(), Arc::clone(&noticed)).expect("watches");
        watches.renew();
        assert!(watches.complete);
        for _ in 0..3 {
            watches.renew();
            directory::read(folder.path()).expect("it can be read");
        }
        let wait = || tokio::time::timeout(Duration::from_millis(300), noticed.notified());
        assert!(
            wait().await.is_err(),
            "else every read would lead to the next"
        );
        let status = folder.path().join(STATUS_FOLDER);
        for ending in [directory::BGP_STATUS_ENDING, directory::EVENTS_ENDING] {
            std::fs::write(status.join(format!("n1{ending}")), "{}").expect("a file");
            assert!(wait().await.is_err(), "what agents tell people");
        }
        std::fs::write(&file, "# something").expect("a file");
        assert!(wait().await.is_ok());
    }
}
