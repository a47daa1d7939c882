//! BGPPeers of kube-router's external peers.

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use super::super::output::{Output, SecretText};
use super::super::report::Place;
use super::settings::{Peer, Settings};

/// The Secret that its passwords go to.
const SECRET: &str = "kube-router-peers";

/// Which nodes have the peer, and what holds for them.
pub(super) struct Whom<'a> {
    /// What its name begins with.
    pub(super) prefix: &'a str,
    pub(super) selector: Option<String>,
    pub(super) filter: Option<String>,
}

/// A name's part of an address.
pub(super) fn word(address: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let word: String = address.chars().map(plain).collect();
    word.trim_matches('-').replace("--", "-")
}

/// Whether a password is base64, as kube-router wants it.
pub(super) fn is_base64(text: &str) -> bool {
    serde_json::from_value::<ByteString>(Value::from(text)).is_ok()
}

/// Writes one peer; the place is the BGPPeer's.
pub(super) fn write(
    output: &mut Output,
    settings: &Settings,
    peer: &Peer,
    whom: &Whom<'_>,
) -> Place {
    let name = format!("{}-{}", whom.prefix, word(&peer.address));
    let mut draft = output.draft("BGPPeer", &name);
    let address = match &peer.port {
        Some(port) if port != "179" && peer.address.contains(':') => {
            format!("[{}]:{port}", peer.address)
        }
        Some(port) if port != "179" => format!("{}:{port}", peer.address),
        _ => peer.address.clone(),
    };
    draft.set("peerAddress", address);
    match peer.as_number.parse::<u32>() {
        Ok(number) => draft.set("asNumber", number),
        // It is refused, with a word that says what should stand there.
        Err(_) => draft.set("asNumber", peer.as_number.as_str()),
    };
    if let Some(selector) = &whom.selector {
        draft.set("nodeSelector", selector.as_str());
    }
    if let Some(filter) = &whom.filter {
        draft.set("filters", json!([filter]));
    }
    if let Some(source) = &peer.source {
        draft.set("sourceAddress", source.as_str());
    }
    if let Some(hops) = settings.hops {
        draft.set("multihop", hops);
    }
    if let Some(seconds) = settings.hold_time {
        draft.set("holdTime", format!("{seconds}s"));
    }
    if settings.override_next_hop {
        draft.set("nextHopMode", "Self");
    }
    let key = draft.itself().name;
    if peer.password.is_some() || settings.passwords_in_file {
        if let Some(password) = &peer.password {
            output.secret(SECRET, &key, SecretText::Base64(password.clone()));
        }
        draft.set(
            "password",
            json!({"secretKeyRef": {"name": SECRET, "key": key}}),
        );
    }
    if peer.bfd.enabled {
        let milliseconds = |time: Option<u64>| format!("{}ms", time.unwrap_or(1000));
        let mut bfd = Map::new();
        bfd.insert("minTx".to_owned(), milliseconds(peer.bfd.min_tx).into());
        bfd.insert("minRx".to_owned(), milliseconds(peer.bfd.min_rx).into());
        bfd.insert(
            "multiplier".to_owned(),
            peer.bfd.multiplier.unwrap_or(3).into(),
        );
        draft.set("bfd", Value::Object(bfd));
    }
    let place = draft.itself();
    output.add(draft);
    place
}
