//! A server, the source that watches it, and what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use api::{Event, Key, Resource};
use datastore::{ClusterSettings, NodeWrites, Source, watch_kubernetes};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::server::Server;
use crate::store::Store;

/// Longer than some backoffs one after another.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What has not come by then does not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);

pub(crate) struct Lab {
    pub(crate) source: Source,
    pub(crate) store: Arc<Store>,
    pub(crate) state: BTreeMap<Key, Resource>,
    /// Every change as `+key` or `-key`, and `InSync`.
    pub(crate) told: Vec<String>,
    _server: Server,
    _folder: TempDir,
}

impl Lab {
    /// A server on which `prepare` has been done before the source starts.
    pub(crate) async fn start(prepare: impl FnOnce(&Store)) -> Self {
        let server = Server::start().await;
        prepare(&server.store);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let mut text = String::new();
        write!(
            text,
            "{{apiVersion: v1, kind: Config, current-context: c, \
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
             clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{}'}}}}], users: [{{name: u, user: {{}}}}]}}",
            server.port
        )
        .unwrap();
        std::fs::write(&path, text).unwrap();
        let settings = ClusterSettings {
            kubeconfig: Some(path),
            node: "n1".to_owned(),
            namespace: "portolan".to_owned(),
            node_writes: NodeWrites::default(),
        };
        Self {
            source: watch_kubernetes(&settings).await.unwrap(),
            store: Arc::clone(&server.store),
            state: BTreeMap::new(),
            told: Vec::new(),
            _server: server,
            _folder: folder,
        }
    }

    /// One that is in sync.
    pub(crate) async fn in_sync(prepare: impl FnOnce(&Store)) -> Self {
        let mut lab = Self::start(prepare).await;
        lab.until(|lab| lab.is_in_sync()).await;
        lab
    }

    pub(crate) fn is_in_sync(&self) -> bool {
        self.told.iter().any(|word| word == "InSync")
    }

    fn take(&mut self, event: Event) {
        let Event::Change(change) = event else {
            return self.told.push("InSync".to_owned());
        };
        let sign = if change.value.is_some() { '+' } else { '-' };
        self.told.push(format!("{sign}{}", change.key));
        match change.value {
            Some(value) => self.state.insert(change.key, value),
            None => self.state.remove(&change.key),
        };
    }

    /// Takes events until a condition holds.
    pub(crate) async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        let waited = timeout(LONG, async {
            while !condition(self) {
                let event = self.source.events.recv().await.expect("the source lives");
                self.take(event);
            }
        });
        let result = waited.await;
        let asked = self.store.read(|state| state.asked.len());
        assert!(
            result.is_ok(),
            "told: {:?}\nrequests: {asked}\nproblems: {:?}",
            self.told,
            self.problems()
        );
    }

    /// Takes events until none comes.
    pub(crate) async fn until_silent(&mut self) {
        while let Ok(Some(event)) = timeout(SILENCE, self.source.events.recv()).await {
            self.take(event);
        }
    }

    /// Has all read that the server holds now, and takes it in.
    pub(crate) async fn refresh(&mut self) {
        let refresh = self.source.refresh.clone();
        let mut done = Box::pin(async move { refresh.refresh().await });
        let waited = timeout(LONG, async {
            loop {
                tokio::select! {
                    biased;
                    Some(event) = self.source.events.recv() => self.take(event),
                    () = &mut done => return,
                }
            }
        });
        waited.await.expect("the refresh is answered");
        while let Ok(event) = self.source.events.try_recv() {
            self.take(event);
        }
    }

    /// The names of the pods that are there.
    pub(crate) fn pods(&self) -> Vec<String> {
        let names = self.state.keys().filter_map(|key| match key {
            Key::Pod(name) => Some(name.name.clone()),
            _ => None,
        });
        names.collect()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.source.problems.borrow();
        problems.iter().map(ToString::to_string).collect()
    }
}

/// Waits until a condition of the server holds.
pub(crate) async fn eventually<F: Future<Output = ()>>(
    condition: impl Fn() -> bool,
    pause: impl Fn() -> F,
) {
    let waited = timeout(LONG, async {
        while !condition() {
            pause().await;
        }
    });
    waited.await.expect("it comes in time");
}
