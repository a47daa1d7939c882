//! The task that watches the speaker's next hops in the kernel's routes: a route whose next hop cannot be reached is not used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::rib::NextHopState;
use bgp_speaker::Handle;
use routes::{NextHopTracker, Reach};
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// How long after an error the kernel is asked again; meanwhile what was known holds.
const RETRY: Duration = Duration::from_secs(5);
/// So many next hops that come or go at once are named in the log; more are counted.
const NAMED: usize = 8;

/// Next hops behind a router: the router's address, and the interface it is on.
pub(crate) type Routers = BTreeMap<IpAddr, (IpAddr, Option<u32>)>;

/// Runs until the speaker ends; the routing task is told of routers.
pub(crate) async fn run_task(speaker: Handle, routers: watch::Sender<Arc<Routers>>) {
    let mut told = Told::default();
    while let Err(error) = track(&speaker, &mut told, &routers).await {
        warn!(%error, "next hops are not tracked; trying again in {} s", RETRY.as_secs());
        tokio::time::sleep(RETRY).await;
    }
}

/// Watches until the speaker ends.
async fn track(
    speaker: &Handle,
    told: &mut Told,
    routers: &watch::Sender<Arc<Routers>>,
) -> Result<(), routes::Error> {
    let mut tracker = NextHopTracker::open().await?;
    let mut used = speaker.next_hops();
    loop {
        let addresses = tracked(&used.borrow_and_update());
        let answers = tracker.watch(addresses).await?;
        let news = told.replace(&answers);
        told.publish(routers);
        if !tell(speaker, news).await {
            return Ok(());
        }
        loop {
            let changes = tokio::select! {
                changed = used.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return Ok(()),
                },
                changes = tracker.next() => changes?,
            };
            let news = told.update(&changes);
            told.publish(routers);
            if !tell(speaker, news).await {
                return Ok(());
            }
        }
    }
}

/// What is worth asking the kernel for: this host's own loopback stands in no routing table that it is asked of.
fn tracked(used: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let asked = used.iter().filter(|address| !address.is_loopback());
    asked.copied().collect()
}

/// Hands on what changed; false: the speaker has ended.
async fn tell(speaker: &Handle, news: BTreeMap<IpAddr, NextHopState>) -> bool {
    if news.is_empty() {
        return true;
    }
    debug!(count = news.len(), "next hops changed");
    speaker.set_next_hops(news).await.is_ok()
}

/// What the speaker knows of next hops; those it was told nothing of count as reachable at no cost.
#[derive(Debug, Default)]
struct Told {
    states: BTreeMap<IpAddr, NextHopState>,
    routers: Routers,
}

impl Told {
    /// These are all next hops now: what is to be told of them, and of those that are in use no more.
    fn replace(&mut self, answers: &BTreeMap<IpAddr, Reach>) -> BTreeMap<IpAddr, NextHopState> {
        let former = std::mem::take(&mut self.states);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = former
            .into_iter()
            .partition(|(address, _)| answers.contains_key(address));
        self.states = kept;
        self.routers
            .retain(|address, _| answers.contains_key(address));
        let mut news = self.update(answers);
        // Forgotten, so that what is known does not grow with what peers once announced.
        news.extend(gone.into_keys().map(|address| (address, UNKNOWN)));
        news
    }

    /// The answers for some of them changed.
    fn update(&mut self, answers: &BTreeMap<IpAddr, Reach>) -> BTreeMap<IpAddr, NextHopState> {
        let mut news = BTreeMap::new();
        for (address, reach) in answers {
            match reach.via {
                Some(router) => self.routers.insert(*address, (router, reach.link)),
                None => self.routers.remove(address),
            };
            let state = state(*reach);
            let before = if state == UNKNOWN {
                self.states.remove(address)
            } else {
                self.states.insert(*address, state)
            };
            if before.unwrap_or(UNKNOWN) != state {
                news.insert(*address, state);
                log(news.len(), *address, before, state);
            }
        }
        if news.len() > NAMED {
            info!(count = news.len() - NAMED, "more next hops changed");
        }
        news
    }

    fn publish(&self, routers: &watch::Sender<Arc<Routers>>) {
        routers.send_if_modified(|held| {
            let news = **held != self.routers;
            if news {
                *held = Arc::new(self.routers.clone());
            }
            news
        });
    }
}

fn log(count: usize, address: IpAddr, before: Option<NextHopState>, now: NextHopState) {
    let was_lost = before == Some(NextHopState::Unreachable);
    let is_lost = now == NextHopState::Unreachable;
    if count > NAMED || was_lost == is_lost {
        return;
    }
    if is_lost {
        info!(next_hop = %address, "no route leads to a next hop: what was learned with it is not used");
    } else {
        info!(next_hop = %address, "a next hop can be reached again");
    }
}

const UNKNOWN: NextHopState = NextHopState::Reachable { igp_cost: 0 };

/// A neighbour on a link of ours costs nothing, whatever metric the kernel gives its own routes (256 in IPv6).
fn state(reach: Reach) -> NextHopState {
    match reach {
        Reach {
            reachable: false, ..
        } => NextHopState::Unreachable,
        Reach {
            connected: true, ..
        } => UNKNOWN,
        Reach { metric, .. } => NextHopState::Reachable { igp_cost: metric },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Reach = Reach {
        reachable: false,
        metric: 0,
        link: None,
        connected: false,
        via: None,
    };

    fn routed(metric: u32) -> Reach {
        Reach {
            reachable: true,
            metric,
            link: Some(2),
            connected: false,
            via: None,
        }
    }

    fn connected(metric: u32) -> Reach {
        Reach {
            connected: true,
            ..routed(metric)
        }
    }

    fn answers<const N: usize>(all: [(u8, Reach); N]) -> BTreeMap<IpAddr, Reach> {
        let one = |(last, reach)| (IpAddr::from([10, 0, 0, last]), reach);
        all.map(one).into()
    }

    fn news<const N: usize>(all: [(u8, NextHopState); N]) -> BTreeMap<IpAddr, NextHopState> {
        let one = |(last, state)| (IpAddr::from([10, 0, 0, last]), state);
        all.map(one).into()
    }

    #[test]
    fn only_what_changed_is_told_and_a_neighbour_costs_nothing() {
        let mut told = Told::default();
        let first = answers([(1, connected(256)), (2, routed(20)), (3, LOST)]);
        let costs_20 = NextHopState::Reachable { igp_cost: 20 };
        let lost = NextHopState::Unreachable;
        assert_eq!(told.replace(&first), news([(2, costs_20), (3, lost)]));
        assert_eq!(told.replace(&first), news([]));
        assert_eq!(told.update(&answers([(2, LOST)])), news([(2, lost)]));
        assert_eq!(
            told.update(&answers([(2, routed(20))])),
            news([(2, costs_20)])
        );
    }

    #[test]
    fn a_next_hop_that_is_in_use_no_more_is_forgotten_on_both_sides() {
        let mut told = Told::default();
        told.replace(&answers([(1, LOST), (2, LOST)]));
        assert_eq!(told.replace(&answers([(2, LOST)])), news([(1, UNKNOWN)]));
        assert_eq!(told.states.len(), 1);
        assert_eq!(
            told.replace(&answers([(1, LOST), (2, LOST)])),
            news([(1, NextHopState::Unreachable)]),
            "told anew when it comes back"
        );
    }

    #[test]
    fn the_router_before_a_next_hop_is_known_while_it_is_in_use() {
        let mut told = Told::default();
        let router = Reach {
            via: Some([10, 0, 0, 254].into()),
            ..routed(20)
        };
        told.replace(&answers([(1, router), (2, connected(0))]));
        let sender = watch::Sender::new(Arc::default());
        told.publish(&sender);
        let known: Routers = [([10, 0, 0, 1].into(), ([10, 0, 0, 254].into(), Some(2)))].into();
        assert_eq!(**sender.borrow(), known);
        told.update(&answers([(1, connected(0))]));
        assert_eq!(told.routers, Routers::new());
        told.update(&answers([(1, router)]));
        told.replace(&answers([]));
        assert_eq!(told.routers, Routers::new());
    }

    #[test]
    fn loopback_is_not_asked_for() {
        let used = ["127.0.0.2", "::1", "10.0.0.1", "2001:db8::1"];
        let used: BTreeSet<IpAddr> = used.iter().map(|text| text.parse().unwrap()).collect();
        let asked: Vec<String> = tracked(&used).iter().map(ToString::to_string).collect();
        assert_eq!(asked, ["10.0.0.1", "2001:db8::1"]);
    }
}
