//! What the fake server holds, and every change of it since it was last compacted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::sync::watch;

/// Something that goes wrong with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// An HTTP status, perhaps with Retry-After.
    Status(u16, Option<u64>),
    /// The answer is cut after so many objects, in the midst of the next.
    CutAfter(usize),
    /// The connection is reset instead of an answer.
    Reset,
    /// After the answer's objects comes a line that is no JSON.
    Garbage,
    /// The watch has an event ERROR 410.
    ExpiredInWatch,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The collection: `pods`.
    pub(crate) collection: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) at: std::time::Instant,
}

impl Asked {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) version: u64,
    /// Changes up to here are forgotten.
    pub(crate) compacted: u64,
    /// Counts what ends every watch.
    pub(crate) ends: u64,
    pub(crate) objects: BTreeMap<(String, String), Value>,
    pub(crate) log: Vec<(u64, &'static str, String, Value)>,
    pub(crate) faults: HashMap<String, VecDeque<Fault>>,
    pub(crate) asked: Vec<Asked>,
    /// Collections that the server does not know.
    pub(crate) absent: Vec<String>,
    pub(crate) streams_lists: bool,
    pub(crate) page_bound: usize,
    /// Whether it can be reached.
    pub(crate) is_away: bool,
    pub(crate) sends_bookmarks: bool,
}

/// The server's state; whoever waits for a change of it is woken.
pub(crate) struct Store {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Store {
    pub(crate) fn new() -> Self {
        let state = State {
            version: 100,
            streams_lists: true,
            page_bound: 500,
            sends_bookmarks: true,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let value = work(&mut self.state.lock().unwrap());
        self.changed.send_modify(|count| *count += 1);
        value
    }

    pub(crate) fn read<T>(&self, work: impl FnOnce(&State) -> T) -> T {
        work(&self.state.lock().unwrap())
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes or changes an object.
    pub(crate) fn put(&self, collection: &str, mut object: Value) {
        self.with(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let name = name_of(&object);
            let key = (collection.to_owned(), name);
            let type_ = match state.objects.insert(key, object.clone()) {
                None => "ADDED",
                Some(_) => "MODIFIED",
            };
            let version = state.version;
            state
                .log
                .push((version, type_, collection.to_owned(), object));
        });
    }

    pub(crate) fn delete(&self, collection: &str, name: &str) {
        self.with(|state| {
            state.version += 1;
            let key = (collection.to_owned(), name.to_owned());
            let mut object = state.objects.remove(&key).expect("it is there");
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let version = state.version;
            state
                .log
                .push((version, "DELETED", collection.to_owned(), object));
        });
    }

    /// Forgets what has happened, and ends every watch.
    pub(crate) fn compact(&self) {
        self.with(|state| {
            state.compacted = state.version;
            state.log.clear();
            state.ends += 1;
        });
    }

    pub(crate) fn end_watches(&self) {
        self.with(|state| state.ends += 1);
    }

    pub(crate) fn fault(&self, collection: &str, faults: &[Fault]) {
        self.with(|state| {
            let queue = state.faults.entry(collection.to_owned()).or_default();
            queue.extend(faults.iter().cloned());
        });
    }

    /// The requests for a collection so far.
    pub(crate) fn asked(&self, collection: &str) -> Vec<Asked> {
        self.read(|state| {
            let asked = state.asked.iter();
            asked
                .filter(|asked| asked.collection == collection)
                .cloned()
                .collect()
        })
    }
}

pub(crate) fn name_of(object: &Value) -> String {
    let field = |name| object["metadata"][name].as_str().unwrap_or_default();
    match field("namespace") {
        "" => field("name").to_owned(),
        namespace => format!("{namespace}/{}", field("name")),
    }
}
