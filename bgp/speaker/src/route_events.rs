//! Route changes on their way out: a map that holds the last word per prefix, never a queue that grows.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bgp_proto::speaker::Gateway;
use ipnet::IpNet;
use tokio::sync::Notify;

use crate::handle::{RouteChange, RouteEvent};

/// The reading end.
#[derive(Debug)]
pub struct RouteEvents {
    shared: Arc<Shared>,
}

/// The writing end, held by the speaker's task; dropping it ends the reader after what is left.
#[derive(Debug)]
pub(crate) struct RouteSender {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    changes: HashMap<IpNet, RouteChange>,
    /// Gateways that are lost: told before everything else.
    lost: BTreeSet<Gateway>,
    /// Gateways that are back: told after the changes that came before them, which may be what they are back for.
    back: BTreeSet<Gateway>,
    /// Those of `back` whose turn it is, so that a busy table can't put them off.
    back_next: BTreeSet<Gateway>,
    sync: Sync,
    closed: bool,
}

/// Where `InitialSync` stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sync {
    #[default]
    NotDue,
    /// Due once the changes that came before it are taken.
    AfterChanges,
    /// Due before any further changes, so that a busy table can't put it off.
    Next,
}

pub(crate) fn channel() -> (RouteSender, RouteEvents) {
    let shared = Arc::new(Shared::default());
    (
        RouteSender {
            shared: Arc::clone(&shared),
        },
        RouteEvents { shared },
    )
}

impl RouteSender {
    pub(crate) fn push(&self, changes: impl IntoIterator<Item = RouteChange>) {
        let mut state = self.shared.lock();
        let before = state.changes.len();
        state
            .changes
            .extend(changes.into_iter().map(|change| (change.prefix, change)));
        let any = before > 0 || !state.changes.is_empty();
        drop(state);
        if any {
            self.shared.notify.notify_one();
        }
    }

    pub(crate) fn gateway_down(&self, gateway: Gateway) {
        let mut state = self.shared.lock();
        state.back.remove(&gateway);
        state.back_next.remove(&gateway);
        state.lost.insert(gateway);
        drop(state);
        self.shared.notify.notify_one();
    }

    pub(crate) fn gateway_up(&self, gateway: Gateway) {
        self.shared.lock().back.insert(gateway);
        self.shared.notify.notify_one();
    }

    pub(crate) fn initial_sync(&self) {
        self.shared.lock().sync = Sync::AfterChanges;
        self.shared.notify.notify_one();
    }
}

impl Drop for RouteSender {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.notify.notify_one();
    }
}

impl RouteEvents {
    /// Waits for the next event; `None`: the speaker has ended. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Option<RouteEvent> {
        loop {
            if let Some(result) = self.shared.lock().take() {
                return result;
            }
            self.shared.notify.notified().await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned map is still a map of last words.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Option<Option<RouteEvent>> {
        if let Some(gateway) = self.lost.pop_first() {
            return Some(Some(RouteEvent::GatewayDown(gateway)));
        }
        if self.changes.is_empty() {
            self.back_next.append(&mut self.back);
        }
        if let Some(gateway) = self.back_next.pop_first() {
            return Some(Some(RouteEvent::GatewayUp(gateway)));
        }
        let sync_is_due = match self.sync {
            Sync::NotDue => false,
            Sync::AfterChanges => self.changes.is_empty(),
            Sync::Next => true,
        };
        if sync_is_due {
            self.sync = Sync::NotDue;
            return Some(Some(RouteEvent::InitialSync));
        }
        if !self.changes.is_empty() {
            if self.sync == Sync::AfterChanges {
                self.sync = Sync::Next;
            }
            self.back_next.append(&mut self.back);
            let changes = std::mem::take(&mut self.changes).into_values().collect();
            return Some(Some(RouteEvent::Changes(changes)));
        }
        self.closed.then_some(None)
    }
}

#[cfg(test)]
mod tests {
    use bgp_proto::rib::NextHop;

    use super::*;

    fn change(prefix: &str, hop: [u8; 4]) -> RouteChange {
        RouteChange {
            prefix: prefix.parse().unwrap(),
            next_hops: vec![NextHop {
                address: hop.into(),
                link: None,
                weight: 1,
            }],
        }
    }

    #[tokio::test]
    async fn only_the_last_word_per_prefix_is_kept() {
        let (sender, mut events) = channel();
        sender.push([change("10.2.0.0/16", [1; 4]), change("10.1.0.0/16", [1; 4])]);
        sender.push([change("10.2.0.0/16", [2; 4])]);
        let both = [change("10.1.0.0/16", [1; 4]), change("10.2.0.0/16", [2; 4])];
        let Some(RouteEvent::Changes(mut given)) = events.next().await else {
            panic!("no changes");
        };
        given.sort_by_key(|change| change.prefix);
        assert_eq!(given, both);
        drop(sender);
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn initial_sync_comes_after_the_changes_before_it_and_is_not_put_off() {
        let (sender, mut events) = channel();
        sender.push([change("10.1.0.0/16", [1; 4])]);
        sender.initial_sync();
        assert!(matches!(events.next().await, Some(RouteEvent::Changes(_))));
        sender.push([change("10.1.0.0/16", [2; 4])]);
        assert_eq!(events.next().await, Some(RouteEvent::InitialSync));
        assert!(matches!(events.next().await, Some(RouteEvent::Changes(_))));
    }

    #[tokio::test]
    async fn a_gateway_that_is_down_comes_before_the_routes_that_wait() {
        let (sender, mut events) = channel();
        sender.push([change("10.1.0.0/16", [1; 4])]);
        let gateway = Gateway {
            address: [10, 0, 0, 1].into(),
            link: None,
        };
        sender.gateway_up(gateway);
        sender.gateway_down(gateway);
        let first = events.next().await;
        assert_eq!(first, Some(RouteEvent::GatewayDown(gateway)));
        sender.gateway_up(gateway);
        assert!(matches!(events.next().await, Some(RouteEvent::Changes(_))));
        sender.push([change("10.1.0.0/16", [2; 4])]);
        let up = events.next().await;
        assert_eq!(up, Some(RouteEvent::GatewayUp(gateway)), "not put off");
        assert!(matches!(events.next().await, Some(RouteEvent::Changes(_))));
    }
}
