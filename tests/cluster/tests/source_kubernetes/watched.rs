//! A source that watches a control plane, through a proxy that can be cut, and what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::{Event, Key, Resource};
use cluster::{ControlPlane, Options};
use datastore::{ClusterSettings, NodeWrites, Source, watch_kubernetes};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a busy machine may take.
const LONG: Duration = Duration::from_secs(90);

pub(crate) fn plane(feature_gates: &str, flags: &[&str]) -> ControlPlane {
    ControlPlane::start(Options {
        feature_gates: feature_gates.to_owned(),
        api_server_flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        // The proxy's address.
        names: vec!["127.0.0.1".to_owned()],
        ..Options::default()
    })
}

pub(crate) struct Watched {
    pub(crate) source: Source,
    pub(crate) state: BTreeMap<Key, Resource>,
    /// Every change as `+key` or `-key`, and `InSync`.
    pub(crate) told: Vec<String>,
    line: watch::Sender<bool>,
    _folder: TempDir,
}

impl Watched {
    pub(crate) async fn start(plane: &ControlPlane) -> Self {
        Self::start_as(plane, plane.admin_kubeconfig()).await
    }

    pub(crate) async fn start_as(plane: &ControlPlane, kubeconfig: &Path) -> Self {
        let (line, port) = proxy(plane.url().trim_start_matches("https://")).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let text = text.replace(&plane.url(), &format!("https://127.0.0.1:{port}"));
        std::fs::write(&path, text).unwrap();
        Self {
            source: watch_kubernetes(&settings(path)).await.unwrap(),
            state: BTreeMap::new(),
            told: Vec::new(),
            line,
            _folder: folder,
        }
    }

    /// Cuts every connection, and lets none through until [`Self::mend`].
    pub(crate) fn cut(&self) {
        self.line.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.line.send_replace(true);
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

    /// Takes events until a condition holds; how long that took.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        condition: impl Fn(&Self) -> bool,
    ) -> Duration {
        let began = Instant::now();
        let waited = timeout(LONG, async {
            while !condition(self) {
                let event = self.source.events.recv().await.expect("the source lives");
                self.take(event);
            }
        });
        if waited.await.is_err() {
            let told = &self.told[self.told.len().saturating_sub(30)..];
            panic!(
                "not {what}; told last: {told:?}; problems: {:?}",
                self.problems()
            );
        }
        began.elapsed()
    }

    pub(crate) async fn until_in_sync(&mut self) -> Duration {
        let in_sync = |watched: &Self| watched.told.iter().any(|word| word == "InSync");
        self.until("in sync", in_sync).await
    }

    /// Has all read that the server holds now, and takes it in; how long that took.
    pub(crate) async fn refresh(&mut self) -> Duration {
        let began = Instant::now();
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
        began.elapsed()
    }

    /// The keys of a kind that are there, as text.
    pub(crate) fn keys(&self, kind: &str) -> Vec<String> {
        let keys = self.state.keys().map(ToString::to_string);
        let start = format!("{kind} ");
        keys.filter_map(|key| Some(key.strip_prefix(&start)?.to_owned()))
            .collect()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.source.problems.borrow();
        problems.iter().map(ToString::to_string).collect()
    }
}

pub(crate) fn settings(kubeconfig: PathBuf) -> ClusterSettings {
    ClusterSettings {
        kubeconfig: Some(kubeconfig),
        node: "n1".to_owned(),
        namespace: "portolan".to_owned(),
        node_writes: NodeWrites::default(),
    }
}

/// Passes bytes on while the line is whole; its end that cuts it, and its port.
async fn proxy(server: &str) -> (watch::Sender<bool>, u16) {
    let (line, whole) = watch::channel(true);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server.to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, mut whole) = (server.clone(), whole.clone());
            tokio::spawn(async move {
                if !*whole.borrow() {
                    return;
                }
                let Ok(mut server) = TcpStream::connect(server).await else {
                    return;
                };
                tokio::select! {
                    // How a connection ends is its two ends' business.
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = whole.wait_for(|whole| !*whole) => {}
                }
            });
        }
    });
    (line, port)
}

/// Requests for a collection that the server has answered, as its audit log has them: verb and query.
pub(crate) fn requests(plane: &ControlPlane, resource: &str) -> Vec<(String, String)> {
    let requests = plane.requests().into_iter();
    let ours = requests.filter(|request| {
        request.resource == resource
            && !request.agent.starts_with("kube")
            && request.name.is_empty()
    });
    ours.map(|request| (request.verb, request.uri)).collect()
}
