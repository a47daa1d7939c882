//! The task that reads what the kernel shows of denied packets.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::net::if_::if_indextoname;
use policy::{Direction, Origin};
use tokio::sync::watch;
use tracing::{info, warn};

use super::ring::{Dropped, Ring};
use crate::firewall;
use crate::nfnetlink::{Log, Packet, Shown, protocol_name};

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Runs as long as the agent.
pub(crate) async fn run_task(
    group: u16,
    ring: Arc<Ring>,
    desired: watch::Receiver<firewall::Desired>,
) {
    let mut retry = FIRST_RETRY;
    let mut lost = 0;
    loop {
        match Log::open(group).await {
            Ok(log) => {
                retry = FIRST_RETRY;
                info!(group, "denied packets are seen");
                lost = serve(log, lost, &ring, &desired).await;
            }
            Err(error) => warn!(
                %error, group,
                "cannot see denied packets: does another process read this group? --drop-log moves it"
            ),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

/// Reads until the socket is of no use; how many were lost in all.
async fn serve(
    mut log: Log,
    lost_before: u64,
    ring: &Ring,
    desired: &watch::Receiver<firewall::Desired>,
) -> u64 {
    loop {
        match log.next().await {
            Ok(shown) => {
                if let Some(packet) = describe(&shown, &desired.borrow().compiled) {
                    ring.push(packet, lost_before + log.lost());
                }
            }
            Err(error) => {
                warn!(%error, "denied packets are not seen for a moment");
                return lost_before + log.lost();
            }
        }
    }
}

/// Which policies a chain is of, and for which way. The prefix is the chain's name.
fn origin(chain: &str, compiled: &policy::Compiled) -> (Vec<String>, String) {
    let found = compiled
        .origins
        .iter()
        .find(|(name, _)| name.as_str() == chain);
    let (keys, direction) = match found.map(|(_, origin)| origin.as_ref()) {
        Some(Origin::Policy { key, direction, .. }) => (std::slice::from_ref(key), *direction),
        Some(Origin::Group {
            policies,
            direction,
        }) => (policies.as_slice(), *direction),
        Some(Origin::Endpoint { direction, .. }) => (&[][..], *direction),
        None => return (Vec::new(), String::new()),
    };
    let way = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    (
        keys.iter().map(ToString::to_string).collect(),
        way.to_owned(),
    )
}

/// Says what a copy shows; `None` if it is no IP packet.
fn describe(shown: &Shown, compiled: &policy::Compiled) -> Option<Dropped> {
    let packet = Packet::read(&shown.octets)?;
    let since = || SystemTime::now().duration_since(UNIX_EPOCH);
    let time = shown.time.or_else(|| since().ok()).unwrap_or_default();
    let name = |index: Option<u32>| {
        let name = if_indextoname(index?).ok()?;
        Some(name.to_string_lossy().into_owned())
    };
    let (policies, direction) = origin(&shown.prefix, compiled);
    let ports = packet.ports();
    Some(Dropped {
        number: 0,
        time_micros: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
        policies,
        direction,
        chain: shown.prefix.clone(),
        input: name(shown.input),
        output: name(shown.output),
        source: packet.source,
        destination: packet.destination,
        from_pod: None,
        to_pod: None,
        protocol: protocol_name(packet.protocol),
        source_port: ports.map(|(source, _)| source),
        destination_port: ports.map(|(_, destination)| destination),
    })
}
