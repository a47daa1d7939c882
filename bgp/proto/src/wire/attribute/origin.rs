//! ORIGIN (RFC 4271 §5.1.1).

use super::table::Fault;
use crate::wire::Origin;
use crate::wire::notification::update as subcode;

pub(super) fn decode(value: &[u8]) -> Result<Origin, Fault> {
    match value {
        [0] => Ok(Origin::Igp),
        [1] => Ok(Origin::Egp),
        [2] => Ok(Origin::Incomplete),
        _ => Err(Fault::new(subcode::INVALID_ORIGIN, "unknown value")),
    }
}

pub(super) fn octet(origin: Origin) -> u8 {
    match origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    }
}
