//! Whether this node's network is up, for its Node's condition NetworkUnavailable: judged from what runs, told when it turns.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bgp_proto::session::State;
use bgp_proto::speaker::PeerStatus;
use bgp_speaker::Target;
use datastore::{NodeHealth, StatusWriter};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::speaker::Compiled;
use crate::{firewall, routing};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// For how long the network may be away before that is told: an update of the agent and a peer's restart take less.
const GRACE: Duration = Duration::from_secs(120);

/// The least time before another reason of the same state is told: few writes.
const SAME_STATE: Duration = Duration::from_secs(30);

/// What is to be, as the core has published it last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Goal {
    /// Peers outside of the cluster that this node dials or waits for.
    pub(crate) outside: BTreeSet<String>,
    /// Whether the speaker has its configuration; true where none runs.
    pub(crate) is_speaker_configured: bool,
    /// Why no pod can have an address here; none where this agent gives none.
    pub(crate) lacks: Option<String>,
}

impl Goal {
    /// Takes the peers that must be there for the network to be up.
    pub(crate) fn set_speaker(&mut self, compiled: &Compiled) {
        let peers = compiled.config.peers.iter();
        let outside = peers.filter(|(name, peer)| {
            // Sessions with other nodes bear the node's name behind a slash.
            !name.contains('/')
                && peer.session.shutdown.is_none()
                && !matches!(peer.target, Target::Range { .. })
        });
        self.outside = outside.map(|(name, _)| name.clone()).collect();
        self.is_speaker_configured = true;
    }
}

/// What the task looks at.
pub(crate) struct Parts {
    pub(crate) status: StatusWriter,
    pub(crate) goal: watch::Receiver<Goal>,
    pub(crate) firewall: watch::Receiver<firewall::Applied>,
    pub(crate) routing: watch::Receiver<routing::Applied>,
    /// The speaker, once it runs; none where none will.
    pub(crate) speaker: Option<watch::Receiver<Option<bgp_speaker::Handle>>>,
    /// Whether the data plane of an earlier run was found at the start, and forwards.
    pub(crate) was_forwarding: bool,
}

/// Runs until the speaker ends.
pub(crate) async fn run_task(parts: Parts) {
    let mut turns = Turns::new(Instant::now(), parts.was_forwarding);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let speaker = parts
            .speaker
            .as_ref()
            .map(|speaker| speaker.borrow().clone());
        let peers = match &speaker {
            Some(Some(speaker)) => match speaker.status().await {
                Ok(peers) => Some(peers),
                Err(_) => return,
            },
            Some(None) | None => None,
        };
        let up = peers.as_deref().map(established);
        let missing = missing(&parts, up.as_ref());
        let Some(health) = turns.look(Instant::now(), missing) else {
            continue;
        };
        match &health {
            NodeHealth::Up => info!("this node's network is up"),
            NodeHealth::Down { message } => warn!("this node's network is down: {message}"),
        }
        // What cannot be written now is tried again there.
        let _ = parts.status.publish_node(health.clone()).await;
        turns.told(Instant::now(), health);
    }
}

/// The peers whose sessions are up.
fn established(peers: &[PeerStatus]) -> BTreeSet<&str> {
    let up = peers.iter();
    let up = up.filter(|peer| peer.state == State::Established);
    up.map(|peer| peer.name.as_str()).collect()
}

/// What keeps the network from being up.
fn missing(parts: &Parts, up: Option<&BTreeSet<&str>>) -> Option<String> {
    let firewall = parts.firewall.borrow();
    if let Some(error) = &firewall.error {
        return Some(format!("policy is not in the kernel: {error}"));
    }
    let routing = parts.routing.borrow();
    if firewall.generation == 0 || routing.generation == 0 {
        return Some(
            "the sources are not in sync, or the first program is not in the kernel".into(),
        );
    }
    let goal = parts.goal.borrow();
    if goal.lacks.is_some() {
        return goal.lacks.clone();
    }
    parts.speaker.as_ref()?;
    match up {
        Some(up) if goal.is_speaker_configured => sessions_missing(&goal, up, routing.initial_sync),
        _ => Some("BGP has not started: see portolan status on this node".into()),
    }
}

/// One session with the outside is enough, for it is the way to everywhere. Other nodes may all be away, and that is not this
/// node's fault: what they have to say is waited for by the speaker, not for ever.
fn sessions_missing(goal: &Goal, up: &BTreeSet<&str>, initial_sync: bool) -> Option<String> {
    let is_up = |name: &String| up.contains(name.as_str());
    if !goal.outside.is_empty() && !goal.outside.iter().any(is_up) {
        let named: Vec<&str> = goal.outside.iter().take(4).map(String::as_str).collect();
        let more = match goal.outside.len().saturating_sub(named.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        return Some(format!(
            "no BGP session is Established with {}{more}",
            named.join(", ")
        ));
    }
    (!initial_sync).then(|| "BGP peers have not said yet what they announce".into())
}

/// When what is seen is told.
#[derive(Debug)]
struct Turns {
    told: Option<NodeHealth>,
    told_at: Option<Instant>,
    /// Since when it is not up; from the first look on it may be from before.
    down_since: Option<Instant>,
    /// Whether packets are forwarded all the same for a while.
    patient: bool,
}

impl Turns {
    fn new(now: Instant, was_forwarding: bool) -> Self {
        Self {
            told: None,
            told_at: None,
            down_since: Some(now),
            patient: was_forwarding,
        }
    }

    /// What is to be told now, if that is not what was told. Up at once; down only when it lasts, or when there was nothing
    /// before: after a boot, while an update of the agent must not turn the condition to and fro.
    fn look(&mut self, now: Instant, missing: Option<String>) -> Option<NodeHealth> {
        let Some(message) = missing else {
            self.down_since = None;
            self.patient = true;
            return (self.told != Some(NodeHealth::Up)).then_some(NodeHealth::Up);
        };
        let since = *self.down_since.get_or_insert(now);
        if self.patient && now.saturating_duration_since(since) < GRACE {
            return None;
        }
        let health = NodeHealth::Down { message };
        let is_told = self.told.as_ref() == Some(&health);
        let is_soon = |at: Instant| now.saturating_duration_since(at) < SAME_STATE;
        let waits = self.told != Some(NodeHealth::Up) && self.told_at.is_some_and(is_soon);
        (!is_told && !waits).then_some(health)
    }

    fn told(&mut self, now: Instant, health: NodeHealth) {
        self.told = Some(health);
        self.told_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> NodeHealth {
        NodeHealth::Down {
            message: "x".to_owned(),
        }
    }

    /// Looks after so many seconds; what is missing is `x`.
    fn look(turns: &mut Turns, start: Instant, seconds: u64, is_up: bool) -> Option<NodeHealth> {
        let missing = (!is_up).then(|| "x".to_owned());
        turns.look(start + Duration::from_secs(seconds), missing)
    }

    #[test]
    fn a_node_that_boots_is_down_at_once_and_up_as_soon_as_it_is() {
        let start = Instant::now();
        let mut turns = Turns::new(start, false);
        assert_eq!(look(&mut turns, start, 0, false), Some(down()));
        turns.told(start, down());
        assert_eq!(look(&mut turns, start, 999, false), None, "told already");
        assert_eq!(look(&mut turns, start, 999, true), Some(NodeHealth::Up));
        assert_eq!(look(&mut turns, start, 999, true), Some(NodeHealth::Up));
        turns.told(start, NodeHealth::Up);
        assert_eq!(look(&mut turns, start, 999, true), None);
    }

    #[test]
    fn another_reason_is_told_after_a_while() {
        let start = Instant::now();
        let mut turns = Turns::new(start, false);
        turns.told(start, down());
        let other = |turns: &mut Turns, seconds| {
            turns.look(start + Duration::from_secs(seconds), Some("y".to_owned()))
        };
        assert_eq!(other(&mut turns, 29), None);
        assert!(other(&mut turns, 30).is_some());
        assert_eq!(look(&mut turns, start, 31, true), Some(NodeHealth::Up));
    }

    #[test]
    fn an_update_of_the_agent_turns_nothing_unless_it_does_not_come_up() {
        let start = Instant::now();
        let mut turns = Turns::new(start, true);
        assert_eq!(look(&mut turns, start, 0, false), None);
        assert_eq!(look(&mut turns, start, 60, true), Some(NodeHealth::Up));
        let mut turns = Turns::new(start, true);
        assert_eq!(look(&mut turns, start, 60, false), None);
        assert_eq!(look(&mut turns, start, 120, false), Some(down()));
    }

    #[test]
    fn what_comes_back_within_the_grace_is_not_told_and_the_next_loss_has_its_own() {
        let start = Instant::now();
        let mut turns = Turns::new(start, false);
        look(&mut turns, start, 0, true);
        turns.told(start, NodeHealth::Up);
        assert_eq!(look(&mut turns, start, 1, false), None);
        assert_eq!(look(&mut turns, start, 60, true), None);
        assert_eq!(look(&mut turns, start, 130, false), None);
        assert_eq!(look(&mut turns, start, 249, false), None);
        assert_eq!(look(&mut turns, start, 250, false), Some(down()));
    }

    #[test]
    fn one_session_with_the_outside_is_enough_and_other_nodes_are_waited_for_by_the_speaker() {
        let goal = |outside: &[&str]| Goal {
            outside: outside.iter().map(ToString::to_string).collect(),
            is_speaker_configured: true,
            lacks: None,
        };
        let seen = BTreeSet::from(["tor-a", "mesh/n2"]);
        assert_eq!(
            sessions_missing(&goal(&["tor-a", "tor-b"]), &seen, true),
            None
        );
        let why = sessions_missing(&goal(&["tor-b"]), &seen, true).unwrap();
        assert_eq!(why, "no BGP session is Established with tor-b");
        assert_eq!(sessions_missing(&goal(&[]), &seen, true), None);
        assert!(sessions_missing(&goal(&["tor-a"]), &seen, false).is_some());
    }
}
