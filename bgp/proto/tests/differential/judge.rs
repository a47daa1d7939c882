//! What each codec does about an UPDATE that is not in order, and where the two differ on purpose.

use bgp_proto::wire::{Message, Notification, Treatment};
use rustbgpd_wire::DecodeError;
use rustbgpd_wire::attribute::PathAttribute;
use rustbgpd_wire::update::RevisedParsedUpdate;
use rustbgpd_wire::validate::{ErrorDisposition, validate_update_attributes};

use crate::generate::{Bad, Session};
use crate::updates;

/// The strongest thing that follows (RFC 7606 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Fine,
    Discard,
    Withdraw,
    Reset,
}

/// Puts an attribute into an UPDATE.
pub fn spoil(bytes: &[u8], bad: &Bad) -> Vec<u8> {
    let withdrawn = usize::from(u16::from_be_bytes([bytes[19], bytes[20]]));
    let at = 21 + withdrawn;
    let len = usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let (before, rest) = bytes.split_at(at);
    let (attributes, nlri) = rest[2..].split_at(len);
    let mut kept = Vec::new();
    let mut left = attributes;
    while !left.is_empty() {
        let long = left[0] & 0x10 != 0;
        let size = if long {
            4 + usize::from(u16::from_be_bytes([left[2], left[3]]))
        } else {
            3 + usize::from(left[2])
        };
        if !(bad.replace && left[1] == bad.code) {
            kept.extend_from_slice(&left[..size]);
        }
        left = &left[size..];
    }
    let said = u8::try_from(bad.value.len())
        .unwrap()
        .saturating_add(bad.lie);
    kept.extend([bad.flags, bad.code, said]);
    kept.extend(&bad.value);
    let size = u16::try_from(kept.len()).unwrap().to_be_bytes();
    let mut out = [before, &size, &kept, nlri].concat();
    let total = u16::try_from(out.len()).unwrap().to_be_bytes();
    out[16..18].copy_from_slice(&total);
    out
}

pub fn ours(outcome: Result<Vec<Message>, Notification>) -> Verdict {
    let Ok(messages) = outcome else {
        return Verdict::Reset;
    };
    updates(messages)
        .iter()
        .flat_map(|update| &update.errors)
        .map(|error| match error.treatment {
            Treatment::Discard => Verdict::Discard,
            Treatment::TreatAsWithdraw => Verdict::Withdraw,
        })
        .max()
        .unwrap_or(Verdict::Fine)
}

/// Theirs is in three parts: what is malformed, what does not hold together, and RFC 7606 §5.2, which their caller adds.
pub fn theirs(outcome: Result<RevisedParsedUpdate, DecodeError>, session: &Session) -> Verdict {
    let Ok(parsed) = outcome else {
        return Verdict::Reset;
    };
    let of = |disposition| match disposition {
        ErrorDisposition::AttributeDiscard => Verdict::Discard,
        ErrorDisposition::TreatAsWithdraw => Verdict::Withdraw,
        ErrorDisposition::SessionReset => Verdict::Reset,
    };
    let malformed = parsed.malformed.iter().map(|one| of(one.disposition)).max();
    let attributes = &parsed.update.attributes;
    let in_body = !parsed.update.announced.is_empty();
    let in_mp = attributes
        .iter()
        .any(|one| matches!(one, PathAttribute::MpReachNlri(reach) if !reach.announced.is_empty()));
    let checked = validate_update_attributes(
        attributes,
        in_body || in_mp,
        in_body,
        !session.theirs.internal,
    );
    let verdict = malformed
        .max(checked.err().map(|error| of(error.disposition)))
        .unwrap_or(Verdict::Fine);
    if verdict == Verdict::Withdraw && !in_body && !in_mp {
        return Verdict::Reset;
    }
    verdict
}

/// Why the two differ, where they do on purpose: the sentence we follow.
pub fn explained(
    bad: &Bad,
    ours: Verdict,
    theirs: Verdict,
    session: &Session,
) -> Option<&'static str> {
    let external = !session.theirs.internal;
    let four = session.theirs.four_byte_as;
    let verdicts = (ours, theirs);
    match bad.code {
        // A path with AS_SET is withdrawn by them; RFC 9774 §3 is not in this project's scope.
        2 | 17 if theirs == Verdict::Withdraw && ours < theirs && has_set(&bad.value) => {
            Some("RFC 4271 §4.3: AS_SET is a path segment type")
        }
        // They judge a second AS_PATH before they discard it.
        2 if verdicts == (Verdict::Discard, Verdict::Withdraw) && !bad.replace => {
            Some("RFC 7606 §3 g: all occurrences other than the first one SHALL be discarded")
        }
        // An AS_SET without an AS number is nothing to them.
        2 if verdicts == (Verdict::Withdraw, Verdict::Fine) && empty_set(&bad.value, four) => {
            Some("RFC 7606 §7.2: a segment whose Path Segment Length is zero makes it malformed")
        }
        // They judge a NEXT_HOP that no route needs.
        3 if verdicts == (Verdict::Fine, Verdict::Withdraw) => {
            Some("RFC 4760 §3: NEXT_HOP beside MP_REACH_NLRI alone is ignored")
        }
        // They take 0.0.0.1 and 240.0.0.1.
        3 if verdicts == (Verdict::Withdraw, Verdict::Fine) && no_host(&bad.value) => {
            Some("RFC 4271 §6.3: a semantically correct NEXT_HOP is a valid IP host address")
        }
        // They leave discarding to their caller, and judge the flags of what is to be discarded unread.
        5 | 9 | 10 if external && ours == Verdict::Discard && theirs != Verdict::Reset => Some(
            "RFC 7606 §7.5, §7.9, §7.10: received from an external neighbor, it SHALL be discarded",
        ),
        17 | 18 if four && verdicts == (Verdict::Discard, Verdict::Withdraw) => {
            Some("RFC 6793 §4.1: a NEW speaker that receives it from a NEW speaker MUST discard it")
        }
        14 | 15 if verdicts == (Verdict::Discard, Verdict::Reset) && foreign(&bad.value) => Some(
            "RFC 4271 §5: an optional non-transitive attribute that is not recognized is ignored",
        ),
        200..=250 if bad.flags & 0x80 == 0 && verdicts == (Verdict::Reset, Verdict::Withdraw) => {
            Some("RFC 4271 §6.3: Unrecognized Well-known Attribute; RFC 7606 revises it nowhere")
        }
        _ => None,
    }
}

/// Whether there may be an AS_SET or AS_CONFED_SET in a path of whatever size of AS numbers.
fn has_set(path: &[u8]) -> bool {
    path.iter().any(|octet| matches!(octet, 1 | 4))
}

/// Whether there is an AS_SET or AS_CONFED_SET without an AS number.
fn empty_set(mut path: &[u8], four: bool) -> bool {
    while let [kind, count, rest @ ..] = path {
        if matches!(kind, 1 | 4) && *count == 0 {
            return true;
        }
        let octets = usize::from(*count) * if four { 4 } else { 2 };
        path = rest.get(octets..).unwrap_or_default();
    }
    false
}

/// Whether it is an IPv4 address of 0/8 or 240/4.
fn no_host(value: &[u8]) -> bool {
    value.len() == 4 && matches!(value[0], 0 | 240..=255)
}

/// Whether the family is none of the two that are spoken.
fn foreign(value: &[u8]) -> bool {
    value.len() >= 3 && !matches!(value[..3], [0, 1 | 2, 1])
}
