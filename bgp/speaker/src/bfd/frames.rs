//! What agent and BFD process say to each other: JSON in frames, each after its length in four octets, big-endian.
//!
//! Both sides are one program but may be two versions of it: fields that one doesn't know are passed over.

use std::collections::BTreeMap;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::peer::{BfdEvent, BfdPeer, BfdServiceStatus};

/// The longest frame: thousands of peers.
const LONGEST: usize = 4 << 20;

/// What the agent asks; each request gets one answer, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Configure { peers: BTreeMap<String, BfdPeer> },
    Status,
    AdminDownAll,
}

/// What the BFD process says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The answer to `Configure` and `AdminDownAll`.
    Done,
    /// The answer to `Status`.
    Status(BfdServiceStatus),
    /// Not an answer.
    Event(BfdEvent),
}

/// One message as a frame.
pub(super) fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    if json.len() > LONGEST {
        return Err(too_long());
    }
    let mut octets = length.to_be_bytes().to_vec();
    octets.extend(json);
    Ok(octets)
}

/// Octets that came and don't make a whole frame yet.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    /// Where what was read is put.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// The next whole message.
    ///
    /// # Errors
    /// When it is too long or isn't one; the connection is of no more use.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((length, rest)) = self.0.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST {
            return Err(too_long());
        }
        let Some(json) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(json)?;
        self.0.drain(..4 + length);
        Ok(Some(message))
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame is too long")
}

#[cfg(test)]
mod tests {
    use bgp_proto::bfd::Diagnostic;

    use super::*;

    #[test]
    fn frames_come_whole_however_they_were_cut() {
        let event = |peer: &str| BfdEvent::Down {
            peer: peer.to_owned(),
            diagnostic: Diagnostic::Reserved(9),
            remote_admin_down: true,
            begun_anew: false,
            control_plane_independent: false,
        };
        let mut octets = frame(&Said::Event(event("a"))).unwrap();
        octets.extend(frame(&Said::Event(event("b"))).unwrap());
        for cut in 0..=octets.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for part in [&octets[..cut], &octets[cut..]] {
                frames.buffer().extend(part);
                while let Some(message) = frames.next::<Said>().unwrap() {
                    let Said::Event(event) = message else {
                        panic!("{message:?}");
                    };
                    got.push(event);
                }
            }
            assert_eq!(got, [event("a"), event("b")]);
        }
    }

    #[test]
    fn a_frame_too_long_or_not_json_is_refused() {
        for octets in [
            &[0xff; 8][..],
            &[0, 0, 0, 2, b'{', b'x'],
            &[0, 0, 0, 4, b'n', b'u', b'l', b'l'],
        ] {
            let mut frames = Frames::default();
            frames.buffer().extend(octets);
            assert!(frames.next::<Request>().is_err(), "{octets:?}");
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_passed_over() {
        let mut frames = Frames::default();
        let json = br#"{"Event":{"Up":{"peer":"a","since":7}}}"#;
        frames.buffer().extend([0, 0, 0, json.len() as u8]);
        frames.buffer().extend(json);
        assert!(
            matches!(frames.next(), Ok(Some(Said::Event(BfdEvent::Up { peer }))) if peer == "a")
        );
    }
}
