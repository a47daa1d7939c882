//! Watches the API server: every kind by itself, and in sync when each has been listed whole.

use std::collections::BTreeSet;

use api::{Change, Event, Key};
use futures_util::StreamExt as _;
use kube::api::{Api, DynamicObject, GroupVersionKind};
use kube::core::ApiResource;
use kube_runtime::watcher;
use tokio::sync::{mpsc, watch};

use super::{Connection, Facts, ObjectFacts, PodReader, Writer};
use crate::{ClusterSettings, Error, Problem, Source, StatusWriter, refresh};

/// How many events wait for the reader before the watches wait for it.
const QUEUE: usize = 256;

const KINDS: [(&str, &str, &str); 11] = [
    ("portolan.io", "v1alpha1", "BGPConfiguration"),
    ("portolan.io", "v1alpha1", "BGPFilter"),
    ("portolan.io", "v1alpha1", "BGPPeer"),
    ("portolan.io", "v1alpha1", "IPAMBlock"),
    ("portolan.io", "v1alpha1", "IPPool"),
    ("portolan.io", "v1alpha1", "IPReservation"),
    ("", "v1", "Secret"),
    ("", "v1", "Namespace"),
    ("", "v1", "Node"),
    ("", "v1", "Pod"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
];

/// Watches a cluster. Returns at once, even where the server is away: events come as they are read, and
/// [`Event::InSync`] when every kind has been listed whole. Must be called inside a tokio runtime.
///
/// # Errors
/// There is no kubeconfig, or this process runs in no cluster.
pub async fn watch_kubernetes(settings: &ClusterSettings) -> Result<Source, Error> {
    let connection = Connection::open(settings).await?;
    let facts = Facts::new(&settings.node);
    let (sender, events) = mpsc::channel(QUEUE);
    let (problems, problem_reader) = watch::channel(Vec::new());
    let (refresh, mut refreshes) = refresh::channel();
    let listed = watch::Sender::new(0);
    for kind in KINDS {
        let told = (sender.clone(), problems.clone(), listed.clone());
        tokio::spawn(reflect(connection.clone(), facts.clone(), kind, told));
    }
    let mut all = listed.subscribe();
    let whole = facts.clone();
    tokio::spawn(async move {
        if all.wait_for(|count| *count == KINDS.len()).await.is_ok() {
            whole.set_whole();
            let _ = sender.send(Event::InSync).await;
        }
        while let Some(reply) = refreshes.recv().await {
            let _ = reply.send(());
        }
    });
    Ok(Source {
        events,
        status: StatusWriter::of_cluster(Writer::new(
            connection.clone(),
            facts,
            settings.node_writes.clone(),
        )),
        refresh,
        problems: problem_reader,
        pods: Some(PodReader::new(connection)),
    })
}

type Told = (
    mpsc::Sender<Event>,
    watch::Sender<Vec<Problem>>,
    watch::Sender<usize>,
);

async fn reflect(
    connection: Connection,
    facts: Facts,
    (group, version, kind): (&'static str, &'static str, &'static str),
    (events, problems, listed): Told,
) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match kind {
        "Secret" => Api::namespaced_with(connection.client, &connection.namespace, &resource),
        _ => Api::all_with(connection.client, &resource),
    };
    let api_version = resource.api_version.clone();
    let mut stream = watcher(api, watcher::Config::default()).boxed();
    let (mut known, mut seen, mut is_first) = (BTreeSet::<Key>::new(), BTreeSet::new(), true);
    while let Some(event) = stream.next().await {
        let (object, there) = match event {
            Err(error) => {
                tracing::warn!(kind, %error, "watch");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
            Ok(watcher::Event::Init) => {
                seen.clear();
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                for key in known.difference(&seen).cloned().collect::<Vec<_>>() {
                    facts.set(key.clone(), None);
                    let _ = events
                        .send(Event::Change(Change { key, value: None }))
                        .await;
                }
                known = std::mem::take(&mut seen);
                if std::mem::take(&mut is_first) {
                    listed.send_modify(|count| *count += 1);
                }
                continue;
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => (object, true),
            Ok(watcher::Event::Delete(object)) => (object, false),
        };
        let Ok(value) = serde_json::to_value(object) else {
            continue;
        };
        let facts_of = ObjectFacts::read(kind, value.to_string().as_bytes());
        match api::parse(kind, &api_version, value) {
            Ok(None) => {}
            Ok(Some((key, resource))) => {
                if there {
                    known.insert(key.clone());
                    seen.insert(key.clone());
                } else {
                    known.remove(&key);
                }
                facts.set(key.clone(), there.then_some(facts_of));
                let value = there.then_some(resource);
                let _ = events.send(Event::Change(Change { key, value })).await;
            }
            Err(error) => problems.send_modify(|problems| {
                problems.push(Problem {
                    file: std::path::PathBuf::new(),
                    line: None,
                    object: error.object().map(str::to_owned),
                    message: error.to_string(),
                });
            }),
        }
    }
}
