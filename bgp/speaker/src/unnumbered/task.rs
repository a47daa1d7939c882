//! The task that looks at the interfaces every second, hears what comes, and tells what it finds.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::links::{Links, UnnumberedEvent};
use super::socket::{Received, Socket, interfaces};

const TICK: Duration = Duration::from_secs(1);
const EVENTS: usize = 64;

/// Finds the neighbours of these interfaces, whatever becomes of the set. Ends when either channel is dropped.
///
/// An interface that is not there, is down or has no link-local address is told of once and tried again every second.
/// A session need not end with [`UnnumberedEvent::Lost`]: that a neighbour no longer advertises says nothing of TCP.
#[must_use]
pub fn spawn(wanted: watch::Receiver<BTreeSet<String>>) -> mpsc::Receiver<UnnumberedEvent> {
    let (events, received) = mpsc::channel(EVENTS);
    tokio::spawn(run(wanted, events));
    received
}

async fn run(mut wanted: watch::Receiver<BTreeSet<String>>, events: mpsc::Sender<UnnumberedEvent>) {
    let mut links = Links::default();
    let mut socket: Option<Socket> = None;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let idle = socket.is_none() && wanted.borrow().is_empty();
        let found = tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => look(&mut links, &mut wanted, &mut socket),
                Err(_) => return,
            },
            () = events.closed() => return,
            _ = tick.tick(), if !idle => look(&mut links, &mut wanted, &mut socket),
            (received, socket) = receive(socket.as_ref()) => match received {
                Ok(received) => links.handle(Instant::now(), received, socket).into_iter().collect(),
                Err(error) => {
                    tracing::debug!(%error, "cannot receive router advertisements");
                    Vec::new()
                }
            },
        };
        for event in found {
            tracing::info!(?event, "unnumbered peer");
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// What the interfaces have to say now. The socket lives while interfaces are wanted.
fn look(
    links: &mut Links,
    wanted: &mut watch::Receiver<BTreeSet<String>>,
    socket: &mut Option<Socket>,
) -> Vec<UnnumberedEvent> {
    let wanted = wanted.borrow_and_update().clone();
    let opened = match socket.take() {
        Some(open) => Ok(open),
        None if wanted.is_empty() => {
            *links = Links::default();
            return Vec::new();
        }
        None => Socket::open(),
    };
    let looked = opened.and_then(|socket| Ok((interfaces()?, socket)));
    match looked {
        Ok((there, open)) => {
            let events = links.poll(Instant::now(), &wanted, &there, &open);
            *socket = (!wanted.is_empty()).then_some(open);
            events
        }
        Err(error) => links.fail(&wanted, &without_socket(&error)),
    }
}

fn without_socket(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => " (CAP_NET_RAW is needed)",
        _ => "",
    };
    format!("router advertisements: {error}{hint}")
}

async fn receive(socket: Option<&Socket>) -> (io::Result<Received>, &Socket) {
    match socket {
        Some(socket) => (socket.receive().await, socket),
        None => std::future::pending().await,
    }
}
