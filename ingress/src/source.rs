//! Where objects come from. Each source sends what is, then once that everything it held has been sent, then what changes.

pub mod directory;

use tokio::sync::mpsc;

use crate::kubernetes::{Told, Watches};
use crate::objects::Change;

/// Events that wait for whoever compiles.
pub const QUEUE: usize = 1024;

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An object is so, or is gone.
    Change(Change),
    /// Something cannot be read: what it was before stays.
    Fault(String),
    /// Everything that was there at the start has been told. Said once.
    InSync,
}

/// The ways to be told.
#[derive(Debug)]
pub enum Source {
    /// The Kubernetes API.
    Kubernetes(Watches),
    /// A directory of manifests.
    Directory(directory::Directory),
}

impl Source {
    /// Tells all that it sees, until the receiver is gone.
    ///
    /// # Errors
    /// It cannot be watched at all.
    pub async fn run(self, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
        match self {
            Self::Kubernetes(watches) => {
                follow(watches, &events).await;
                Ok(())
            }
            Self::Directory(directory) => directory.run(events).await,
        }
    }
}

/// Until nobody listens any more.
async fn follow(mut watches: Watches, events: &mpsc::Sender<Event>) {
    while let Some(told) = watches.next().await {
        let all = match told {
            Told::Changes(changes) => changes.into_iter().map(Event::Change).collect(),
            Told::InSync => vec![Event::InSync],
        };
        for event in all {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}
