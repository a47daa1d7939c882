//! Has BFD watch the nodes that matter, by the speaker's BFD: one process has its ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use bgp_speaker::PathState;
use bgp_speaker::bfd::{BfdConfig, BfdPeer};
use services::layer2::Path;
use tokio::sync::watch;
use tracing::warn;

/// A node is found dead after three of these.
const INTERVAL: Duration = Duration::from_millis(100);
const MULTIPLIER: NonZeroU8 = NonZeroU8::new(3).expect("it is not zero");

/// The paths to watch, by the nodes' names.
pub(super) type Wish = BTreeMap<String, BfdPeer>;

/// The path between two nodes, of a family that both have an address of; none, if there is none.
pub(super) fn path(own: &[IpAddr], other: &[IpAddr]) -> Option<BfdPeer> {
    let of_both = other.iter().find_map(|remote| {
        let local = own
            .iter()
            .find(|local| local.is_ipv4() == remote.is_ipv4())?;
        Some((*local, *remote))
    });
    let (local, remote) = of_both?;
    Some(BfdPeer {
        remote,
        local: Some(local),
        interface: None,
        multihop: None,
        config: BfdConfig {
            desired_min_tx: INTERVAL,
            required_min_rx: INTERVAL,
            detect_multiplier: MULTIPLIER,
            control_plane_independent: false,
            passive: false,
        },
    })
}

pub(super) fn meaning(state: PathState) -> Path {
    match state {
        PathState::Up => Path::Up,
        PathState::Silent => Path::Down,
        PathState::Ended => Path::Ended,
        PathState::Doubtful => Path::Doubtful,
    }
}

/// Tells the speaker, once there is one, what to watch, and hands on what it says, until nobody listens.
pub(super) async fn run_task(
    mut running: watch::Receiver<Option<bgp_speaker::Handle>>,
    mut wish: watch::Receiver<Wish>,
    states: watch::Sender<BTreeMap<String, PathState>>,
) {
    loop {
        let speaker = running.borrow_and_update().clone();
        let Some(speaker) = speaker else {
            tokio::select! {
                changed = running.changed() => if changed.is_err() { return },
                () = states.closed() => return,
            }
            continue;
        };
        let mut paths = speaker.paths();
        paths.mark_changed();
        wish.mark_changed();
        loop {
            tokio::select! {
                changed = wish.changed() => {
                    if changed.is_err() { return }
                    let wished = wish.borrow_and_update().clone();
                    if speaker.watch_paths(wished).await.is_err() {
                        warn!("the BGP speaker has ended: nodes that answer for addresses are not watched");
                        return;
                    }
                }
                changed = paths.changed() => {
                    if changed.is_err() { return }
                    states.send_replace(paths.borrow_and_update().clone());
                }
                () = states.closed() => return,
            }
        }
    }
}
