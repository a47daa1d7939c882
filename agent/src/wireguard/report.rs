//! What status says of this node's WireGuard keys.

use ::overlay::keys::{OwnKey, PORTS, Time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use routes::WIREGUARD;
use serde::{Deserialize, Serialize};

/// Both slots, and who can't be sent anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireGuardState {
    /// The devices.
    pub(crate) slots: Vec<WireGuardSlot>,
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
    /// A line for each device; `duration` prints seconds.
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
        self.slots.iter().map(line).collect()
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
}
