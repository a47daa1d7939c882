//! A directory, its watcher and what came of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use api::{Change, Event, Key, NamespacedName, Resource};
use datastore::{Problem, Source, watch_manifests};
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than any debounce and settling; the rescan every 30 s is beyond it, so notices are what is tested.
pub(crate) const LONG: Duration = Duration::from_secs(8);

/// Longer than the debounce: what has not come by then does not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

pub(crate) struct Lab {
    pub(crate) folder: TempDir,
    pub(crate) source: Source,
    pub(crate) state: BTreeMap<Key, Resource>,
    pub(crate) events: usize,
}

impl Lab {
    /// Starts on a directory with these files.
    pub(crate) async fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            put(folder.path(), name, text);
        }
        let source = watch_manifests(folder.path(), "node1").unwrap();
        let mut lab = Self {
            folder,
            source,
            state: BTreeMap::new(),
            events: 0,
        };
        loop {
            match timeout(LONG, lab.source.events.recv())
                .await
                .unwrap()
                .unwrap()
            {
                Event::InSync => return lab,
                Event::Change(change) => lab.take(change),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn take(&mut self, change: Change) {
        self.events += 1;
        match change.value {
            Some(value) => {
                let old = self.state.insert(change.key, value.clone());
                assert_ne!(old, Some(value), "an event says something new");
            }
            None => assert!(
                self.state.remove(&change.key).is_some(),
                "a removal takes something"
            ),
        }
    }

    /// Takes events until the state is so.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        holds: impl Fn(&BTreeMap<Key, Resource>) -> bool,
    ) {
        while !holds(&self.state) {
            match timeout(LONG, self.source.events.recv())
                .await
                .expect(what)
                .unwrap()
            {
                Event::InSync => panic!("InSync is sent once"),
                Event::Change(change) => self.take(change),
            }
        }
    }

    pub(crate) async fn is_silent(&mut self) {
        let event = timeout(SILENCE, self.source.events.recv()).await;
        assert!(event.is_err(), "unexpected {event:?}");
    }

    pub(crate) async fn until_problems(
        &mut self,
        what: &str,
        holds: impl Fn(&[Problem]) -> bool,
    ) -> Vec<Problem> {
        let wanted = self.source.problems.wait_for(|problems| holds(problems));
        timeout(LONG, wanted).await.expect(what).unwrap().clone()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state.keys().map(ToString::to_string).collect()
    }
}

/// Writes in place, as `cp` does.
pub(crate) fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Not cut to nothing first: who reads at that moment would see an empty file.
    let options = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let mut file = options.unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_len(text.len() as u64).unwrap();
}

/// Writes beside and renames, as careful editors do.
pub(crate) fn replace(folder: &Path, name: &str, text: &str) {
    put(folder, ".draft", text);
    fs::rename(folder.join(".draft"), folder.join(name)).unwrap();
}

pub(crate) fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n")
}

pub(crate) fn labelled(name: &str, value: &str) -> String {
    format!("{}  labels:\n    a: {value}\n", namespace(name))
}

pub(crate) fn node(name: &str, cidr: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  podCIDRs: [{cidr}]\n")
}

pub(crate) fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: shop\n  name: {name}\nspec:\n  \
         nodeName: {node}\n  containers: []\n"
    )
}

pub(crate) fn has(state: &BTreeMap<Key, Resource>, name: &str) -> bool {
    state.contains_key(&Key::Namespace(name.to_owned()))
}

pub(crate) fn label_of(state: &BTreeMap<Key, Resource>, name: &str) -> Option<String> {
    match state.get(&Key::Namespace(name.to_owned())) {
        Some(Resource::Namespace(namespace)) => namespace.labels.get("a").cloned(),
        _ => None,
    }
}

pub(crate) fn ips_of(state: &BTreeMap<Key, Resource>, name: &str) -> Vec<String> {
    match state.get(&Key::Pod(NamespacedName::new("shop", name))) {
        Some(Resource::Pod(pod)) => pod.pod_ips.iter().map(ToString::to_string).collect(),
        _ => panic!("no pod {name}"),
    }
}

pub(crate) fn status(node: &str, pods: &[(&str, &[&str])]) -> String {
    let pods: Vec<_> = pods
        .iter()
        .map(|(name, ips)| {
            serde_json::json!({"namespace": "shop", "name": name, "uid": "", "podIPs": ips})
        })
        .collect();
    serde_json::json!({"node": node, "generation": 1, "pods": pods}).to_string()
}
