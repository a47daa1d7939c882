//! BGPNodeStatus, as far as other nodes read it: the WireGuard keys of its node.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::ParseError;
use crate::crd::{BGPNodeStatus, NodeWireGuard, NodeWireGuardKey};
use crate::metadata::Subject;

/// A public key (Curve25519, RFC 7748 §5).
pub type WireGuardPublicKey = [u8; 32];

/// What a node says of its WireGuard devices, by slot; nothing for one that it has not.
pub type WireGuardKeys = [Option<WireGuardKey>; 2];

/// The key of one of a node's WireGuard devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireGuardKey {
    /// The key.
    pub public_key: WireGuardPublicKey,
    /// The UDP port that the device listens at.
    pub port: u16,
    /// The key is about to be replaced: nobody is to send to it.
    pub retiring: bool,
}

/// What of a BGPNodeStatus other nodes read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpNodeStatus {
    /// Whose it is.
    pub node: String,
    /// Its keys.
    pub wire_guard: WireGuardKeys,
}

impl BgpNodeStatus {
    /// Reads what a node says of its keys.
    ///
    /// # Errors
    /// Says which field is wrong: no key at all is taken then.
    pub fn read_keys(said: &NodeWireGuard) -> Result<WireGuardKeys, String> {
        let mut keys = WireGuardKeys::default();
        for (number, key) in said.keys.iter().enumerate() {
            let wrong = |why: &str| format!("wireGuard.keys[{number}]{why}");
            let Some(place) = keys.get_mut(usize::from(key.slot)) else {
                return Err(wrong(".slot: it is 0 or 1"));
            };
            if place.is_some() {
                return Err(wrong(".slot: there is a key of it already"));
            }
            if key.port == 0 {
                return Err(wrong(".port: 0 is no port"));
            }
            let bytes = STANDARD.decode(&key.public_key).ok();
            let bytes = bytes.and_then(|bytes| WireGuardPublicKey::try_from(bytes).ok());
            let Some(public_key) = bytes.filter(|bytes| *bytes != [0; 32]) else {
                return Err(wrong(".publicKey: it is not 32 bytes in base64"));
            };
            *place = Some(WireGuardKey {
                public_key,
                port: key.port,
                retiring: key.retiring,
            });
        }
        let mut both = keys.iter().flatten().map(|key| key.public_key);
        if let (Some(one), Some(other)) = (both.next(), both.next())
            && one == other
        {
            return Err("wireGuard.keys: both are the same key".to_owned());
        }
        Ok(keys)
    }

    /// As it is written.
    pub fn write_keys(keys: &WireGuardKeys) -> NodeWireGuard {
        let keys = (0..).zip(keys);
        let keys = keys.filter_map(|(slot, key)| {
            let key = key.as_ref()?;
            Some(NodeWireGuardKey {
                slot,
                public_key: STANDARD.encode(key.public_key),
                port: key.port,
                retiring: key.retiring,
            })
        });
        NodeWireGuard {
            keys: keys.collect(),
        }
    }
}

impl TryFrom<BGPNodeStatus> for BgpNodeStatus {
    type Error = ParseError;

    fn try_from(object: BGPNodeStatus) -> Result<Self, ParseError> {
        let subject = Subject::cluster("BGPNodeStatus", &object.metadata)?;
        let node = object.spec.node;
        if subject.name() != node {
            return Err(subject.error(format!("spec.node: {node:?} is not its name")));
        }
        let said = object.status.and_then(|status| status.wire_guard);
        let keys = Self::read_keys(&said.unwrap_or_default());
        Ok(Self {
            node,
            wire_guard: keys.map_err(|why| subject.error(format!("status.{why}")))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(keys: &[(u8, &str, u16)]) -> NodeWireGuard {
        let key = |(slot, key, port): &(u8, &str, u16)| NodeWireGuardKey {
            slot: *slot,
            public_key: (*key).to_owned(),
            port: *port,
            retiring: false,
        };
        NodeWireGuard {
            keys: keys.iter().map(key).collect(),
        }
    }

    #[test]
    fn a_key_that_is_none_is_refused_with_its_place() {
        let good = STANDARD.encode([7; 32]);
        let other = STANDARD.encode([8; 32]);
        let long = STANDARD.encode([7; 33]);
        let bare = good.trim_end_matches('=').to_owned();
        let zero = STANDARD.encode([0; 32]);
        // The last character has bits that no byte holds.
        let loose = format!("{}d=", &good[..42]);
        let line = format!("{good}\n");
        let mut refused = 0;
        for bad in [
            &long,
            &bare,
            &zero,
            &loose,
            &line,
            &String::new(),
            &"!".repeat(44),
        ] {
            let why = BgpNodeStatus::read_keys(&said(&[(0, &good, 1), (1, bad, 2)]));
            let why = why.unwrap_err();
            assert!(
                why.starts_with("wireGuard.keys[1].publicKey"),
                "{bad:?}: {why}"
            );
            refused += 1;
        }
        assert_eq!(refused, 7);
        for (keys, place) in [
            (
                [(0, good.as_str(), 1), (0, other.as_str(), 1)],
                "keys[1].slot",
            ),
            ([(0, &good, 1), (2, &other, 1)], "keys[1].slot"),
            ([(0, &good, 0), (1, &other, 1)], "keys[0].port"),
            ([(0, &good, 1), (1, &good, 1)], "keys: both"),
        ] {
            let why = BgpNodeStatus::read_keys(&said(&keys)).unwrap_err();
            assert!(why.contains(place), "{why}");
        }
        assert_eq!(BgpNodeStatus::read_keys(&said(&[])), Ok([None, None]));
    }

    #[test]
    fn it_is_read_from_an_api_server_and_speaks_of_its_own_node_only() {
        let text = |node: &str| {
            let key = STANDARD.encode([7; 32]);
            format!(
                r#"{{"metadata":{{"name":"n1"}},"spec":{{"node":"{node}"}},"status":{{"established":0,"configured":0,"wireGuard":{{"keys":[{{"slot":1,"publicKey":"{key}","port":51821,"retiring":true}}]}}}}}}"#
            )
        };
        let parse = |text: String| {
            crate::parse_json("BGPNodeStatus", "portolan.io/v1alpha1", text.as_bytes())
        };
        let (key, read) = parse(text("n1")).unwrap().unwrap();
        assert_eq!(key, crate::Key::BgpNodeStatus("n1".to_owned()));
        let crate::Resource::BgpNodeStatus(read) = read else {
            panic!("{read:?}");
        };
        let expected = WireGuardKey {
            public_key: [7; 32],
            port: 51821,
            retiring: true,
        };
        assert_eq!(read.wire_guard, [None, Some(expected)]);
        let error = parse(text("n2")).unwrap_err().to_string();
        assert!(error.contains("BGPNodeStatus n1"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            one in any::<[u8; 32]>(), other in any::<[u8; 32]>(), port in 1..u16::MAX, retiring: bool
        ) {
            prop_assume!(one != other && one != [0; 32] && other != [0; 32]);
            let key = |public_key| WireGuardKey { public_key, port, retiring };
            let keys = [Some(key(one)), Some(key(other))];
            prop_assert_eq!(BgpNodeStatus::read_keys(&BgpNodeStatus::write_keys(&keys)), Ok(keys));
        }
    }
}
