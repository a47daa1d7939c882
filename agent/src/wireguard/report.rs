//! What status says of this node's WireGuard keys.

use ::overlay::keys::{OwnKey, PORTS, Time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use routes::{PublicKey, WIREGUARD, WireGuardTraffic};
use serde::{Deserialize, Serialize};

/// So many nodes have a line of their own.
const NAMED: usize = 16;

/// Both slots, and who can't be sent anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireGuardState {
    /// The devices.
    pub(crate) slots: Vec<WireGuardSlot>,
    /// The nodes that are sent to.
    #[serde(default)]
    pub(crate) peers: Vec<WireGuardNode>,
    /// Nodes that have published no key, in words for people.
    #[serde(default)]
    pub(crate) without_key: Vec<String>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireGuardSlot {
    pub(crate) slot: usize,
    pub(crate) device: String,
    pub(crate) port: u16,
    /// In base64; it is no secret.
    pub(crate) public_key: String,
    /// Since it was made.
    pub(crate) age_seconds: u64,
    /// `InUse`, `Settling`, `Waiting` or `Retiring`.
    pub(crate) state: String,
    /// Why, for people.
    #[serde(default)]
    pub(crate) detail: String,
}

/// A node that is sent to, by the device that this node and that one agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireGuardNode {
    pub(crate) node: String,
    pub(crate) device: String,
    /// In base64.
    pub(crate) public_key: String,
    /// Since the last handshake that was completed.
    #[serde(default)]
    pub(crate) handshake_seconds: Option<u64>,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

impl WireGuardNode {
    pub(crate) fn new(
        node: &str,
        (slot, key): (usize, &PublicKey),
        traffic: Option<WireGuardTraffic>,
        now: Time,
    ) -> Self {
        let traffic = traffic.unwrap_or_default();
        let since = |then: Time| now.saturating_sub(then).as_secs();
        Self {
            node: node.to_owned(),
            device: WIREGUARD.get(slot).copied().unwrap_or_default().to_owned(),
            public_key: STANDARD.encode(key),
            handshake_seconds: traffic.handshake.map(since),
            received_bytes: traffic.received,
            sent_bytes: traffic.sent,
        }
    }
}

impl WireGuardSlot {
    pub(crate) fn new(
        slot: usize,
        own: &OwnKey,
        now: Time,
        (state, detail): (&str, String),
    ) -> Self {
        Self {
            slot,
            device: WIREGUARD.get(slot).copied().unwrap_or_default().to_owned(),
            port: PORTS.get(slot).copied().unwrap_or_default(),
            public_key: STANDARD.encode(own.public_key),
            age_seconds: now.saturating_sub(own.made).as_secs(),
            state: state.to_owned(),
            detail,
        }
    }
}

impl WireGuardState {
    /// A line for each device, and for some nodes; `duration` prints seconds.
    pub(crate) fn lines(&self, duration: impl Fn(u64) -> String) -> Vec<String> {
        let line = |slot: &WireGuardSlot| {
            let age = duration(slot.age_seconds);
            let detail = match slot.detail.as_str() {
                "" => String::new(),
                detail => format!(" ({detail})"),
            };
            format!(
                "wireguard: {} (UDP {}) key {} of {age}, {}{detail}",
                slot.device, slot.port, slot.public_key, slot.state
            )
        };
        let mut lines: Vec<String> = self.slots.iter().map(line).collect();
        lines.extend(self.peers.iter().take(NAMED).map(|peer| {
            let handshake = match peer.handshake_seconds {
                Some(seconds) => format!("last handshake {} ago", duration(seconds)),
                None => "no handshake yet".to_owned(),
            };
            format!(
                "wireguard: node {} by {}, key {}, {handshake}, {} bytes received, {} sent",
                peer.node, peer.device, peer.public_key, peer.received_bytes, peer.sent_bytes
            )
        }));
        if self.peers.len() > NAMED {
            let more = self.peers.len() - NAMED;
            lines.push(format!(
                "wireguard: and {more} more nodes (`portolan status -o json` has all)"
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_slot_is_a_line_with_its_public_key_its_age_and_how_far_it_is() {
        let own = OwnKey {
            public_key: [7; 32],
            made: Duration::from_secs(100),
            published: None,
        };
        let slot = |number, state, detail: &str| {
            let now = Duration::from_secs(220);
            WireGuardSlot::new(number, &own, now, (state, detail.to_owned()))
        };
        let state = WireGuardState {
            slots: vec![slot(0, "InUse", ""), slot(1, "Waiting", "node n2 is first")],
            peers: Vec::new(),
            without_key: Vec::new(),
        };
        let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        assert_eq!(
            state.lines(|seconds| format!("{seconds}s")),
            [
                format!("wireguard: wg.portolan (UDP 51820) key {key} of 120s, InUse"),
                format!(
                    "wireguard: wg1.portolan (UDP 51821) key {key} of 120s, Waiting (node n2 is first)"
                ),
            ]
        );
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["slots"][1]["publicKey"], key);
        assert_eq!(json["slots"][1]["state"], "Waiting");
    }

    #[test]
    fn sixteen_nodes_have_a_line_with_their_handshake_and_the_rest_are_counted() {
        let now = Duration::from_secs(1000);
        let traffic = WireGuardTraffic {
            received: 92,
            sent: 148,
            handshake: Some(Duration::from_secs(940)),
        };
        let node = |number: usize| {
            let traffic = (number == 0).then_some(traffic);
            WireGuardNode::new(&format!("n{number}"), (1, &[7; 32]), traffic, now)
        };
        let state = WireGuardState {
            peers: (0..20).map(node).collect(),
            ..WireGuardState::default()
        };
        let lines = state.lines(|seconds| format!("{seconds}s"));
        let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        assert_eq!(
            lines[..2],
            [
                format!(
                    "wireguard: node n0 by wg1.portolan, key {key}, last handshake 60s ago, 92 bytes received, 148 sent"
                ),
                format!(
                    "wireguard: node n1 by wg1.portolan, key {key}, no handshake yet, 0 bytes received, 0 sent"
                ),
            ]
        );
        assert_eq!(lines.len(), 17);
        assert!(lines[16].contains("and 4 more nodes"), "{}", lines[16]);
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["peers"][0]["handshakeSeconds"], 60);
        assert_eq!(json["peers"].as_array().unwrap().len(), 20);
    }
}
