//! Watches a cluster: a reader for every kind, and one task that knows them all and tells what changes.

use api::Event;
use tokio::sync::{mpsc, oneshot, watch};

use super::facts::Facts;
use super::kind::Kind;
use super::reflect::{Reflector, Request};
use super::told::{self, Told};
use super::world::{Wants, World};
use super::{AddressLeases, Connection, PodReader, Writer};
use crate::refresh::{self, Refreshes};
use crate::{ClusterSettings, Error, Problem, Source, StatusWriter};

/// How many events wait for the reader before the watches wait for it.
const QUEUE: usize = 256;

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
    let (refresh, refreshes) = refresh::channel_of_a_watch();
    let (told, told_reader) = mpsc::channel(told::QUEUE);
    let wants = Wants::default();
    let away = watch::Sender::new(None);
    let mut readers = Vec::new();
    for kind in Kind::read(settings.services) {
        let (requests, request_reader) = mpsc::channel(1);
        readers.push(requests);
        let names = match kind {
            Kind::Secret => Some(wants.secrets.subscribe()),
            Kind::BgpNodeStatus => Some(wants.node_statuses.subscribe()),
            _ => None,
        };
        let (connection, told) = (connection.clone(), (told.clone(), away.clone()));
        let reflector = Reflector::new(connection, kind, told, request_reader, names);
        tokio::spawn(reflector.run());
    }
    let world = World::new(Kind::read(settings.services), facts.clone(), wants);
    tokio::spawn(tell(world, told_reader, sender, problems));
    tokio::spawn(serve(refreshes, readers));
    Ok(Source {
        events,
        status: StatusWriter::of_cluster(Writer::new(
            connection.clone(),
            (facts, refresh.clone()),
            settings.node_writes.clone(),
        )),
        refresh,
        problems: problem_reader,
        away: away.subscribe(),
        pods: Some(PodReader::new(connection.clone())),
        address_leases: Some(AddressLeases::new(connection)),
    })
}

/// Tells what changes until nobody listens.
async fn tell(
    mut world: World,
    mut told: mpsc::Receiver<Told>,
    events: mpsc::Sender<Event>,
    problems: watch::Sender<Vec<Problem>>,
) {
    let mut is_in_sync = false;
    loop {
        let first = tokio::select! {
            () = events.closed() => return,
            first = told.recv() => first,
        };
        let mut barriers = Vec::new();
        let mut next = first;
        // All that waits at once: what hangs on many objects is worked out once for them.
        for _ in 0..told::QUEUE {
            match next {
                Some(Told::Barrier(reply)) => barriers.push(reply),
                Some(other) => world.take(other),
                None => break,
            }
            next = told.try_recv().ok();
        }
        if let Some(left) = next {
            match left {
                Told::Barrier(reply) => barriers.push(reply),
                other => world.take(other),
            }
        }
        for change in world.changes() {
            if events.send(Event::Change(change)).await.is_err() {
                return;
            }
        }
        // Before it is said that all is known.
        if let Some(found) = world.problems() {
            publish(&problems, found);
        }
        if !is_in_sync && world.is_in_sync() {
            is_in_sync = true;
            world.facts().set_whole();
            if events.send(Event::InSync).await.is_err() {
                return;
            }
        }
        for reply in barriers {
            // Who went away needs no answer.
            let _ = reply.send(());
        }
    }
}

fn publish(problems: &watch::Sender<Vec<Problem>>, found: Vec<Problem>) {
    problems.send_if_modified(|told| {
        let changed = *told != found;
        if changed {
            for problem in found.iter().filter(|problem| !told.contains(problem)) {
                tracing::warn!(%problem, "cluster");
            }
            *told = found;
        }
        changed
    });
}

/// Has every reader read all that the server holds, for those who must know that it has been told.
async fn serve(mut refreshes: Refreshes, readers: Vec<mpsc::Sender<Request>>) {
    while let Some(first) = refreshes.recv().await {
        let mut asked = vec![first];
        while let Ok(more) = refreshes.try_recv() {
            asked.push(more);
        }
        let mut answers = Vec::new();
        for reader in &readers {
            let (request, answer) = oneshot::channel();
            if reader.send(request).await.is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            // A reader that has ended has nothing more to tell.
            let _ = answer.await;
        }
        for reply in asked {
            let _ = reply.send(());
        }
    }
    // Nobody will ask any more, which is no reason to stop: readers end when nobody listens.
    for reader in readers {
        reader.closed().await;
    }
}
