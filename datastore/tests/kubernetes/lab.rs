//! A server, the source that watches it, and what came of it.

use std::fmt::Write as _;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use datastore::{ClusterSettings, NodeWrites, watch_kubernetes};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::heard::Heard;
use crate::server::Server;
use crate::store::Store;

/// Longer than some backoffs one after another.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What has not come by then does not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);

pub(crate) struct Lab {
    heard: Heard,
    pub(crate) store: Arc<Store>,
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
            services: false,
            node_writes: NodeWrites::default(),
        };
        Self {
            heard: Heard::new(watch_kubernetes(&settings).await.unwrap(), LONG),
            store: Arc::clone(&server.store),
            _server: server,
            _folder: folder,
        }
    }

    /// One that is in sync.
    pub(crate) async fn in_sync(prepare: impl FnOnce(&Store)) -> Self {
        let mut lab = Self::start(prepare).await;
        lab.until_in_sync().await;
        lab
    }

    /// Takes events until none comes.
    pub(crate) async fn until_silent(&mut self) {
        self.heard.until_silent(SILENCE).await;
    }
}

impl Deref for Lab {
    type Target = Heard;

    fn deref(&self) -> &Heard {
        &self.heard
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Heard {
        &mut self.heard
    }
}

/// The names of the pods that are there.
pub(crate) fn pod_names(heard: &Heard) -> Vec<String> {
    let keys = heard.keys("Pod").into_iter();
    keys.filter_map(|key| Some(key.split_once('/')?.1.to_owned()))
        .collect()
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
