//! A source that watches a control plane, through a proxy that can be cut, and what came of it.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cluster::{ControlPlane, Options};
use datastore::{ClusterSettings, NodeWrites, watch_kubernetes};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::heard::Heard;

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
    heard: Heard,
    connections: Arc<AtomicUsize>,
    line: watch::Sender<Line>,
    _folder: Option<TempDir>,
}

impl Watched {
    pub(crate) async fn start(plane: &ControlPlane) -> Self {
        Self::start_as(plane, plane.admin_kubeconfig()).await
    }

    pub(crate) async fn start_as(plane: &ControlPlane, kubeconfig: &Path) -> Self {
        Self::open_as(plane, kubeconfig, settings).await
    }

    /// One that reads Services and EndpointSlices, too.
    pub(crate) async fn start_with_services(plane: &ControlPlane) -> Self {
        let with_services = |kubeconfig| ClusterSettings {
            services: true,
            ..settings(kubeconfig)
        };
        Self::open_as(plane, plane.admin_kubeconfig(), with_services).await
    }

    /// With a kubeconfig made in this folder from one whose files are there; the line is whole at the start, or cut.
    pub(crate) async fn start_in(
        plane: &ControlPlane,
        kubeconfig: &Path,
        folder: &Path,
        is_whole: bool,
    ) -> Self {
        Self::open(plane, kubeconfig, folder, is_whole, settings).await
    }

    async fn open_as(
        plane: &ControlPlane,
        kubeconfig: &Path,
        settings: impl Fn(PathBuf) -> ClusterSettings,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut watched = Self::open(plane, kubeconfig, folder.path(), true, settings).await;
        watched._folder = Some(folder);
        watched
    }

    async fn open(
        plane: &ControlPlane,
        kubeconfig: &Path,
        folder: &Path,
        is_whole: bool,
        settings: impl Fn(PathBuf) -> ClusterSettings,
    ) -> Self {
        let (connections, line, port) =
            proxy(plane.url().trim_start_matches("https://"), is_whole).await;
        let path = folder.join("proxied");
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let text = text.replace(&plane.url(), &format!("https://127.0.0.1:{port}"));
        std::fs::write(&path, text).unwrap();
        Self {
            heard: Heard::new(watch_kubernetes(&settings(path)).await.unwrap(), LONG),
            connections,
            line,
            _folder: None,
        }
    }

    /// How many connections have been made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Cuts every connection, and lets none through until [`Self::mend`].
    pub(crate) fn cut(&self) {
        self.line.send_modify(|line| {
            line.is_whole = false;
            line.cuts += 1;
        });
    }

    pub(crate) fn mend(&self) {
        self.line.send_modify(|line| line.is_whole = true);
    }
}

impl Deref for Watched {
    type Target = Heard;

    fn deref(&self) -> &Heard {
        &self.heard
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Heard {
        &mut self.heard
    }
}

pub(crate) fn settings(kubeconfig: PathBuf) -> ClusterSettings {
    ClusterSettings {
        kubeconfig: Some(kubeconfig),
        node: "n1".to_owned(),
        namespace: "portolan".to_owned(),
        services: false,
        node_writes: NodeWrites::default(),
    }
}

/// The state of a proxy's line.
#[derive(Clone, Copy)]
struct Line {
    is_whole: bool,
    /// How often it has been cut: who is late sees a cut that has been mended.
    cuts: usize,
}

/// Passes bytes on while the line is whole. How many connections there have been, its end that cuts it, and its port.
async fn proxy(server: &str, is_whole: bool) -> (Arc<AtomicUsize>, watch::Sender<Line>, u16) {
    let (line, state) = watch::channel(Line { is_whole, cuts: 0 });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server.to_owned();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, mut state) = (server.clone(), state.clone());
            count.fetch_add(1, Ordering::Relaxed);
            let Line { is_whole, cuts } = *state.borrow();
            tokio::spawn(async move {
                if !is_whole {
                    return;
                }
                let Ok(mut server) = TcpStream::connect(server).await else {
                    return;
                };
                tokio::select! {
                    // How a connection ends is its two ends' business.
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = state.wait_for(|line| line.cuts != cuts) => {}
                }
            });
        }
    });
    (made, line, port)
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
